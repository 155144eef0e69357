"""Random weights: what a re-weighting does that knows nothing of the labels.

Source: Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050), Eq. 16: w = max(z, 0) / sum max(z, 0), z standard normal,
drawn anew for every batch. Differs: a batch in which every z is negative has equal weights; training starts from the
warm-up unless --init says otherwise.
"""

from dataclasses import dataclass

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.random import generator
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, normalised


@dataclass(frozen=True)
class RandomWeights(Method):
    """It has no hyper-parameters."""

    def begin(self, start: Start) -> "RandomWeightsRun":
        """A run without state."""
        return RandomWeightsRun()


def rectified_weights(z: torch.Tensor) -> torch.Tensor:
    """(B,) weights max(z, 0) over their sum; equal ones where no z (B,) is above 0."""
    rectified = z.clamp(min=0)
    return torch.where(rectified.any(), normalised(rectified), 1 / len(z))


class RandomWeightsRun(MethodRun):
    """Training with random weights, which follow from the step's seed."""

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """New weights."""
        z = torch.randn(len(ids), generator=generator(forward.seed, "random weights"))
        return StepObjective(rectified_weights(z).to(ids.device))
