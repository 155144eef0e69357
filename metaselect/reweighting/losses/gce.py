"""Generalised cross-entropy: a loss between cross-entropy and mean absolute error, which wrong labels move less.

Source: Zhang, Sabuncu 2018 (arXiv:1805.07836), section 3.2, with q = 0.7 as in their experiments. In logits its
gradient is p_y^q times that of cross-entropy, so that a sample counts less, the less the model believes its label.
Differs: training starts from the warm-up unless --init says otherwise. The truncated loss of section 3.3 is left out.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, equal_weights, require_option


@dataclass(frozen=True)
class GeneralisedCrossEntropy(Method):
    """Hyper-parameters.

    Attributes:
        q: towards 0 the loss is cross-entropy, at 1 it is mean absolute error; in (0, 1].
    """

    q: float = 0.7

    def __post_init__(self) -> None:
        require_option(self, "q", "above 0 and at most 1", holds=0 < self.q <= 1)

    def begin(self, start: Start) -> "GeneralisedCrossEntropyRun":
        """A run without state."""
        return GeneralisedCrossEntropyRun(self.q)


def generalised_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, q: float) -> torch.Tensor:
    """(B,) losses (1 - p_y^q) / q, in [0, 1/q).

    Args:
        logits: (B, K).
        labels: (B,) int64.
        q: in (0, 1].
    """
    log_prob = -F.cross_entropy(logits, labels, reduction="none")  # log p_y, finite where p_y is not
    return -torch.expm1(q * log_prob) / q  # p_y^q - 1 without the cancellation that a small q brings


class GeneralisedCrossEntropyRun(MethodRun):
    """Plain training with another loss."""

    def __init__(self, q: float) -> None:
        self.q = q

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights, and the generalised loss in place of cross-entropy."""
        losses = generalised_cross_entropy(forward.logits, forward.batch.labels, self.q)
        return StepObjective(equal_weights(ids), losses=losses)
