"""Readers of data sets, one module for each form of input: image folder, CSV, Parquet."""
