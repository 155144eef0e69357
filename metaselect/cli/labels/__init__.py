"""The commands on what the labels of a run should be: export and fanout."""
