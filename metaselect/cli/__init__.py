"""The command line: each command reads its flags, calls one stage, and prints the result."""
