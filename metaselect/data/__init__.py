"""Data sets: telling forms of input apart, ingest, the pixel store, and noise for experiments."""
