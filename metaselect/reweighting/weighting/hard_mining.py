"""Hard negative mining: all samples of rare classes, and as many of the largest class, those with the largest losses.

Source: the baseline of Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050), section 4.1, for two classes. Differs: ranked
by the losses of samples (their code ranks the mean, so that it takes the first ones); of more than two classes, as many
of the largest one as the others have on average; training starts from the warm-up unless --init says otherwise.
"""

from dataclasses import dataclass

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective


@dataclass(frozen=True)
class HardMining(Method):
    """It has no hyper-parameters."""

    def begin(self, start: Start) -> "HardMiningRun":
        """The largest class."""
        counts = start.labels.counts
        return HardMiningRun(int(counts.argmax()), max(int((counts > 0).sum()) - 1, 1))


def hard_weights(losses: torch.Tensor, is_largest: torch.Tensor, others: int) -> torch.Tensor:
    """(B,) equal weights that sum to 1, of all but the samples of the largest class with smaller losses.

    Args:
        losses: (B,).
        is_largest: (B,) bool.
        others: number of other classes, at least 1; the largest one keeps as many as they have on average, and 1.
    """
    kept = ((~is_largest).sum() / others).round().clamp(min=1)
    # Samples of the largest class come first, by their losses; equal ones in their order.
    order = torch.where(is_largest, losses, -torch.inf).argsort(descending=True, stable=True)
    chosen = torch.zeros_like(is_largest).scatter(
        0, order, torch.arange(len(losses), device=losses.device) < kept
    )
    weights = (~is_largest | (chosen & is_largest)).to(losses.dtype)
    return weights / weights.sum()


class HardMiningRun(MethodRun):
    """Training on a part of each batch; ``largest`` is the largest class, beside ``others``."""

    def __init__(self, largest: int, others: int) -> None:
        self.largest, self.others = largest, others

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights of those that are kept."""
        is_largest = forward.batch.labels == self.largest
        return StepObjective(hard_weights(forward.losses.detach(), is_largest, self.others))
