"""Focal loss: cross-entropy that counts less, the more the model believes the label already.

Source: Lin, Goyal, Girshick, He, Dollar 2017 (arXiv:1708.02002), Eq. 4, with gamma = 2 as in their experiments; in
its softmax form, as the papers on re-weighting compare themselves with it. Differs: without the factors alpha of the
classes (see ``weighting.class_frequency``); training starts from the warm-up unless --init says otherwise.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, equal_weights, require_option


@dataclass(frozen=True)
class Focal(Method):
    """Hyper-parameters.

    Attributes:
        gamma: power of 1 - p_y, the factor of the loss; at 0 it is cross-entropy; at least 0.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        require_option(self, "gamma", "at least 0 and finite", holds=0 <= self.gamma < math.inf)

    def begin(self, start: Start) -> "FocalRun":
        """A run without state."""
        return FocalRun(self.gamma)


def focal_losses(logits: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
    """(B,) losses -(1 - p_y)^gamma log p_y.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        gamma: at least 0.
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    # 1 - p_y without cancellation. Where p_y is 1, the slope of a power below 1 would be infinite.
    rest = -torch.expm1(-losses)
    return rest.clamp(min=torch.finfo(rest.dtype).tiny) ** gamma * losses


class FocalRun(MethodRun):
    """Plain training with another loss."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights, and the focal loss in place of cross-entropy."""
        losses = focal_losses(forward.logits, forward.batch.labels, self.gamma)
        return StepObjective(equal_weights(ids), losses=losses)
