"""The stages of the commands of `metaselect annotate`; none imports torch."""
