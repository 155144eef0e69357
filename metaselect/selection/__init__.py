"""Selectors: methods that choose the samples whose labels are bought, one file each; ``base`` has the protocol."""
