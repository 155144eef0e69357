"""Features that selectors look at: last-layer factors and projected per-sample gradients, and their files."""
