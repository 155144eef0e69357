"""Metrics of predictions, of sample weights and of rankings; arrays in, records out."""
