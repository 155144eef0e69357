"""The command line: flags in, one options dataclass, one stage call, the result rendered."""
