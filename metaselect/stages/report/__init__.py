"""What the report of an evaluation says, from the files of the run."""
