"""Turns the answers of a file into votes: reads labels, finds samples, and counts what could not be matched."""
