"""Balanced softmax: cross-entropy whose softmax has the frequencies of the classes as its prior.

Source: Ren, Yu, Sheng, Ma, Zhao, Yi, Li 2020 (arXiv:2007.10740), Eq. 4: the logits of training are z + log n_c, and
those of a prediction z, so that the model is one for classes of equal frequency. Differs: the paper's second part, a
meta sampler, is left out; training starts from the warm-up unless --init says otherwise.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, equal_weights


@dataclass(frozen=True)
class BalancedSoftmax(Method):
    """It has no hyper-parameters."""

    def begin(self, start: Start) -> "BalancedSoftmaxRun":
        """The frequencies of the classes among the samples that are trained on."""
        return BalancedSoftmaxRun(start.labels.counts.to(start.device))


def balanced_softmax_losses(logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(B,) losses -log (n_y exp z_y / sum_c n_c exp z_c).

    Args:
        logits: (B, K), z.
        labels: (B,) int64, of classes that are not empty.
        counts: (K,), n; an empty class has no part in the softmax.
    """
    return F.cross_entropy(logits + counts.log(), labels, reduction="none")


class BalancedSoftmaxRun(MethodRun):
    """Plain training with another loss; ``counts`` (K,) on the device."""

    def __init__(self, counts: torch.Tensor) -> None:
        self.counts = counts

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights, and the balanced loss in place of cross-entropy."""
        losses = balanced_softmax_losses(forward.logits, forward.batch.labels, self.counts)
        return StepObjective(equal_weights(ids), losses=losses)
