"""Oracle weights: what weights could gain at best, by labels that no real run knows.

Source: the baseline "weighted" of Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050), Table 2: every class weighs as much
as the share of its given labels that are right. With background noise at rate r, which turns labels into one class of
K, that class weighs (1/K) / (r + (1 - r)/K), and all others 1. Differs: the shares are counted in a truth file and not
derived from r; by default each sample has a weight of its own, 1 if its label is right and else 0; training starts from
the warm-up unless --init says otherwise.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import Labels, Method, MethodRun, Start, StepObjective, normalised

UNITS = ("sample", "class")


@dataclass(frozen=True)
class OracleWeights(Method):
    """Hyper-parameters.

    Attributes:
        by: "sample", 1 for a right label and 0 for a wrong one; or "class", the share of right ones in the class.
    """

    needs_truth: ClassVar[bool] = True

    by: str = "sample"

    def __post_init__(self) -> None:
        if self.by not in UNITS:
            raise UsageError(f"--option by={self.by} is not known.", f"One of {', '.join(UNITS)}.")

    def begin(self, start: Start) -> "OracleWeightsRun":
        """The weights by the truth, which stay as they are."""
        assert start.truth is not None  # the method needs it
        weights = oracle_weights(start.labels, start.truth, by_class=self.by == "class")
        return OracleWeightsRun(weights.to(start.device))


def oracle_weights(labels: Labels, truth: torch.Tensor, *, by_class: bool) -> torch.Tensor:
    """(n,) weights in [0, 1] of the labels that are trained on.

    Args:
        labels: of the pool; bought labels are judged like any other.
        truth: (n,) int64 true classes; a sample of which it is not known (-1) counts as wrong.
        by_class: the weight of a sample is the mean over the samples that have its label and are trained on.
    """
    right = ((labels.given == truth) & (truth >= 0)).float()
    if not by_class:
        return right
    trained = labels.trained
    sums = torch.zeros(labels.classes).index_add_(0, labels.given[trained], right[trained])
    shares = sums / labels.counts.clamp(min=1)
    return torch.where(labels.given >= 0, shares[labels.given.clamp(min=0)], 0)


class OracleWeightsRun(MethodRun):
    """Training with ``weights`` (n,), which sum to 1 in each batch that has any."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.weights = weights

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """The weights of the batch over their sum; 0 where every label of it is wrong."""
        weights = self.weights[ids]
        return StepObjective(normalised(weights))
