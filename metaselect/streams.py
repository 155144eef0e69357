"""Random streams by name: one seed fans out to independent generators, and nothing global is ever drawn from."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metaselect.seeds import derive


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """The named generator, at its start."""
    return torch.Generator(device).manual_seed(derive(seed, *names))


@contextmanager
def seeded_globals(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators for code that knows no other (layer initialisation, dropout).

    Their states are put back at the end, so nothing outside the block is touched.
    """
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # The generators themselves: torch.manual_seed takes twenty times as long, and this surrounds every pass.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
