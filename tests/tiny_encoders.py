"""Encoders of one's own for tests, named as ``tiny_encoders:NAME``."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from metaselect.encoders.base import Encoder, Preprocessing

PREPROCESSING = Preprocessing((8, 8), (10,), "bilinear", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
WIDTH = 5


class Tiny(nn.Module):
    """A convolution of fixed weights, and its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, WIDTH, 3)
        with torch.no_grad():
            for number, value in enumerate(self.convolution.parameters()):
                value.copy_(torch.linspace(-1, 1 + number, value.numel()).view_as(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.convolution(x)
        return maps.relu().mean((2, 3))


class Other(Tiny):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Dies(Tiny):
    """Fails at the picture that the environment names, as if the process was killed there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = getattr(self, "seen", 0) + len(x)
        if self.seen > int(os.environ.get("DIES_AFTER", "1000000")):
            raise KeyboardInterrupt
        return super().forward(x)


class Maps(Tiny):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Infinite(Tiny):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 0


class Fails(Tiny):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such picture")


def tiny() -> Any:
    return Tiny(), PREPROCESSING


def texts() -> Encoder:
    """Of images and texts: a class's embedding points along the axis of its name's length."""

    def embed_texts(names: Sequence[str]) -> tuple[np.ndarray, float]:
        return np.eye(WIDTH, dtype=np.float32)[[len(name) % WIDTH for name in names]], 2.0

    return Encoder("tiny_encoders:texts", Tiny().eval(), PREPROCESSING, "tiny 1", embed_texts)


def other() -> Any:
    return Other(), PREPROCESSING


def dies() -> Any:
    return Dies(), PREPROCESSING


def maps() -> Any:
    return Maps(), PREPROCESSING


def infinite() -> Any:
    return Infinite(), PREPROCESSING


def fails() -> Any:
    return Fails(), PREPROCESSING


def alone() -> Any:
    return Tiny()


def broken() -> Any:
    raise RuntimeError("no weights")
