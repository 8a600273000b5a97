"""Documents, passages, questions and answers: read, checked, cut and batched."""
