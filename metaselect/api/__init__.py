"""What ``import metaselect`` offers to Python programs; the package itself has the names, and imports them late."""
