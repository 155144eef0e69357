"""Random generators by name: one seed gives an independent stream for each name, without global generators.

torch is imported only inside the functions that need it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called ``names``, by SHA-256; equal names give equal seeds."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def uniform(seed: int, *names: str | int) -> float:
    """A number in [0, 1) from the stream called ``names``; each call gives the same one."""
    return (derive_seed(seed, *names) >> 10) / 2.0**53


def generator(seed: int, *names: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A new torch generator for the stream called ``names``; on the CPU if the device has no generators."""
    import torch

    try:
        generator = torch.Generator(device)
    except RuntimeError:  # devices of other packages need not implement generators
        generator = torch.Generator()
    return generator.manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded_globals(seed: int, device: "torch.device | str" = "cpu") -> Iterator[None]:
    """Seed torch's global generators in this block, for code that takes no generator (initialisation, dropout).

    Their states are restored at the end.
    """
    import torch

    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which takes twenty times as long: this runs around every pass.
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield
