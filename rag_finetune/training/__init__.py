"""Training: arguments, callbacks and the trainers."""
