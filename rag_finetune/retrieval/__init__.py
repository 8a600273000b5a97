"""From question vectors to the passages that a generator reads."""
