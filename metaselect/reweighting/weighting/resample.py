"""Resampling: every class comes up equally often in training, whatever its frequency.

Source: the baseline of Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050), section 4.1. Differs: drawn in rounds of one
sample of each class, so that batches are balanced as far as their size allows; an epoch has as many samples as the
pool; training starts from the warm-up unless --init says otherwise.
"""

from dataclasses import dataclass

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, equal_weights


@dataclass(frozen=True)
class Resample(Method):
    """It has no hyper-parameters."""

    def begin(self, start: Start) -> "ResampleRun":
        """A run without state."""
        return ResampleRun(start.labels.given)


def balanced_order(ids: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(n',) int64 of ``ids``, with replacement: round after round one of each class, in random order.

    Args:
        ids: (n',) int64.
        labels: (n',) int64, their classes; those that do not occur have no place in a round.
        generator: of the draws, on the CPU.
    """
    counts = torch.bincount(labels)
    present = counts.nonzero()[:, 0]
    by_class = ids[labels.argsort(stable=True)]
    begins = counts.cumsum(0) - counts
    rounds = -(-len(ids) // len(present))
    keys = torch.rand(rounds, len(present), generator=generator)
    classes = present[keys.argsort(1)].flatten()[: len(ids)]
    # In float64, since a float32 below 1 times a large count can round to the count.
    draws = torch.rand(len(ids), generator=generator, dtype=torch.float64)
    return by_class[begins[classes] + (draws * counts[classes]).long()]


class ResampleRun(MethodRun):
    """Plain training on other draws; ``given`` (n,) on the CPU."""

    def __init__(self, given: torch.Tensor) -> None:
        self.given = given

    def order(self, ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """As many samples as the pool has, balanced."""
        return balanced_order(ids, self.given[ids], generator)

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """1/B for each sample."""
        return StepObjective(equal_weights(ids))
