"""The command `evaluate`, and the tables that it prints."""
