"""Frozen encoders by name: networks that somebody has trained, and that turn pictures into features."""
