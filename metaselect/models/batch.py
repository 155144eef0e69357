"""A batch of samples, and the BatchNorm statistics and precision of a pass over it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class Batch(NamedTuple):
    """Inputs (B, ...) as the model takes them, and labels (B,) int64."""

    inputs: torch.Tensor
    labels: torch.Tensor


@contextmanager
def frozen_statistics(model: nn.Module, *, use_running: bool = False) -> Iterator[None]:
    """Passes in this block leave BatchNorm's running statistics (and its counter) alone.

    Args:
        model: the model.
        use_running: normalise with the running statistics (eval mode) instead of the batch's.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    saved = [(layer.track_running_stats, layer.training) for layer in layers]
    for layer in layers:
        if use_running:
            layer.eval()
        else:
            layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, (track, training) in zip(layers, saved, strict=True):
            layer.track_running_stats = track
            layer.training = training


def full_precision(logits: torch.Tensor) -> torch.Tensor:
    """The logits in float32 where autocast made them bfloat16: losses are never computed in half precision."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
