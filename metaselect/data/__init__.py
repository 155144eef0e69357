"""Data sets: reading every form of input, ingest, the stored pool, and label noise for experiments."""
