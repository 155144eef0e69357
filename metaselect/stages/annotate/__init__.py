"""The stages behind `metaselect annotate`."""
