"""A batch of samples, and how a pass over it treats BatchNorm's statistics and half precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class Batch(NamedTuple):
    """Inputs (B, ...), normalised for the model, and labels (B,) int64."""

    inputs: torch.Tensor
    labels: torch.Tensor


@contextmanager
def frozen_statistics(model: nn.Module, *, use_running: bool = False) -> Iterator[None]:
    """Keep BatchNorm's running statistics (and its counter) unchanged by the passes in this block.

    Args:
        model: in train mode.
        use_running: normalise with the running statistics (eval mode) instead of the batch's.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    saved = [(layer.track_running_stats, layer.training) for layer in layers]
    for layer in layers:
        if use_running:
            layer.eval()
        else:
            layer.track_running_stats = False  # still normalises by the batch's statistics
    try:
        yield
    finally:
        for layer, (track, training) in zip(layers, saved, strict=True):
            layer.track_running_stats = track
            layer.training = training


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def full_precision(logits: torch.Tensor) -> torch.Tensor:
    """The logits in at least float32: under autocast they are bfloat16, and losses need full precision."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
