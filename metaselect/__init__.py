"""MetaSelect: label-budgeted data cleaning, from a warm-up on bad labels to the proof of what a few bought."""

__version__ = "0.1.0"
