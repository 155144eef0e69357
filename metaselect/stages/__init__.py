"""One stage, one file: what is read from the run, what is computed, what is written back."""
