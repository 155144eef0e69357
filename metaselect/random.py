"""Random streams by name: one seed fans out to independent generators, and nothing global is ever drawn from.

torch is imported only by the functions that make its generators.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream that ``names`` name; equal names give equal streams."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def uniform(seed: int, *names: str | int) -> float:
    """The first number, in [0, 1), of the stream that ``names`` name."""
    return (derive_seed(seed, *names) >> 10) / 2.0**53


def generator(seed: int, *names: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """The named torch generator, at its start; on the CPU where the device has no generators of its own."""
    import torch

    try:
        made = torch.Generator(device)
    except RuntimeError:  # a device of another package need not implement them
        made = torch.Generator()
    return made.manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded_globals(seed: int, device: "torch.device | str" = "cpu") -> Iterator[None]:
    """Seed torch's global generators for code that knows no other (layer initialisation, dropout).

    Their states are put back at the end, so nothing outside the block is touched.
    """
    import torch

    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # The generators themselves: torch.manual_seed takes twenty times as long, and this surrounds every pass.
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield
