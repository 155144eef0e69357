"""Readers of data sets, one file for each form of input: image folder, CSV, Parquet."""
