"""The run directory: its files and their columns, hashes, freshness and atomic writes. Nothing here imports torch."""
