"""Selectors, one file each: which samples are worth a label."""
