"""The commands of `metaselect annotate`."""
