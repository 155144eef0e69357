"""Weighted K-means on factored gradient features, and one representative sample of each cluster."""
