"""Training methods that weigh or draw samples by a rule without a meta gradient, one a file."""
