"""Weighted K-means on factored gradient features, and the pick of one sample per cluster."""
