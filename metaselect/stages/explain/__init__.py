"""The command `explain`: what a run says of one sample, without torch."""
