"""Formats of other tools, and of spreadsheets, whose answers are read and whose forms are not written."""
