"""Weighted K-means on factored gradient features, a representative of each cluster, and farthest-first traversal."""
