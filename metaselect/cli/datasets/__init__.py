"""The commands that read or make data sets: ingest and corrupt."""
