"""Training methods that change the loss of a sample, one a file."""
