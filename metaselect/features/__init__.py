"""Features of the pool for selectors: computed from checkpoints, kept in Parquet files, or read from a file."""
