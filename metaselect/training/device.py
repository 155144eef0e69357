"""Which device trains."""

import torch

from metaselect.errors import UsageError
from metaselect.records import Reporter


def choose_device(wanted: str, report: Reporter) -> torch.device:
    """The device for a value of --device; ``auto`` is CUDA where there is one, else the CPU, said in one line.

    Raises:
        UsageError: the named device is not there.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        report.note("No GPU found: running on the CPU.")
        return torch.device("cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: torch sees no CUDA device.", "Use --device auto, or check the driver."
        )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: torch sees no Apple GPU.", "Use --device auto.")
    return torch.device(wanted)
