"""How good a model is: answers, evidence, metrics and the report."""
