"""The device that trains, by its PyTorch name."""

import torch

from metaselect import torchrun
from metaselect.errors import UsageError
from metaselect.memory import limits
from metaselect.records import Reporter


def choose_device(wanted: str, report: Reporter, *, needed: bool = True) -> torch.device:
    """The device for a value of --device; ``auto`` is CUDA where there is one, else the CPU.

    Args:
        wanted: "auto" or a device type of PyTorch: "cpu", "cuda", "mps", "xpu" or that of another package.
        report: notes that ``auto`` found no GPU.
        needed: whether anything is computed on it; where nothing is, the result is the CPU.

    Raises:
        UsageError: PyTorch does not know the device type, or a device is needed and there is none of this type.
    """
    if not needed and (wanted == "auto" or is_known(wanted)):
        return torch.device("cpu")
    device = _chosen(wanted, report)
    if (limit := limits().gpu) is not None:
        if device.type == "cuda":
            _, total = torch.cuda.mem_get_info()
            torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0))
        else:
            report.note(f"--max-gpu-memory has no effect on the device {device.type}.")
    return device


def _chosen(wanted: str, report: Reporter) -> torch.device:
    if wanted == "auto":
        if torch.cuda.is_available():
            return _cuda()
        report.note("No GPU found: running on the CPU.")
        return torch.device("cpu")
    if not is_available(wanted):
        raise UsageError(
            f"--device {wanted}: PyTorch finds no such device here.",
            f"Use --device {' or '.join(['auto', *available_devices()])}.",
        )
    return _cuda() if wanted == "cuda" else torch.device(wanted)


def _cuda() -> torch.device:
    """The GPU of this process, which is the current one.

    Raises:
        UsageError: there are more processes on this host than GPUs.
    """
    if torchrun.launched() and torchrun.local_rank() >= torch.cuda.device_count():
        raise UsageError(
            f"There are more processes on this host than GPUs ({torch.cuda.device_count()}).",
            "Start one for each GPU: torchrun --nproc-per-node gpu; or add --device cpu.",
        )
    return torch.device("cuda")


def available_devices() -> list[str]:
    """The device types that PyTorch can use here, the CPU first."""
    accelerator = torch.accelerator.current_accelerator()
    types = ["cpu", "cuda", "mps"] if accelerator is None else ["cpu", "cuda", "mps", accelerator.type]
    return [name for name in dict.fromkeys(types) if is_available(name)]


def is_available(name: str) -> bool:
    """Whether ``name`` is a device type of PyTorch that can be used here."""
    return is_known(name) and bool(torch.get_device_module(name).is_available())


def is_known(name: str) -> bool:
    """Whether ``name`` is a device type of PyTorch, without a number ("cuda:1" is none)."""
    try:
        torch.get_device_module(name)
        return torch.device(name).index is None
    except RuntimeError:  # no device type, or one that holds no values, such as "meta"
        return False
