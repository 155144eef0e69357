"""The stage `evaluate`: every model on a test set, and the ranking of label issues against the truth."""
