"""Training methods, one file each: a frozen dataclass of hyper-parameters that begins a run with state."""
