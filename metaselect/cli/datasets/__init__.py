"""The commands that read or make data sets: ingest, split, embed and corrupt."""
