"""One stage, one file or folder: what is read from the run, what is computed, what is written back."""
