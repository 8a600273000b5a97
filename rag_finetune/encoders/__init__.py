"""Texts to vectors: loading encoders and running them over passages and questions."""
