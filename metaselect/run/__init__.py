"""The run directory: its paths, schemas, hashes, freshness and atomic writes. No torch below here."""
