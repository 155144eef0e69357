"""The commands that read or make data sets: ingest, embed and corrupt."""
