"""How good the answers are, and how good the passages that were found for them."""
