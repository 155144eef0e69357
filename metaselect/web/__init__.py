"""The labelling page: a session of people who answer, and the server that their browsers ask."""

INSTALL = "pip install '.[web]'"
"""Installs what the server needs; the documentation names the same command."""
