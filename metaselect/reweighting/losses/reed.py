"""Bootstrapping: targets that are partly the given label, partly what the model itself predicts.

Source: Reed, Lee, Anguelov, Szegedy, Erhan, Rabinovich 2014 (arXiv:1412.6596), Eqs. 5 and 6, with the paper's beta of
0.95 (soft) and 0.8 (hard). The soft form has a gradient in its target too: only so is it the entropy regularisation
that the paper says it is. Differs: training starts from the warm-up unless --init says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, equal_weights, require_option

Losses = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class ReedSoft(Method):
    """Hyper-parameters.

    Attributes:
        beta: the given label's share of the target, beside the predicted probabilities; in [0, 1].
    """

    beta: float = 0.95

    def __post_init__(self) -> None:
        require_option(self, "beta", "at least 0 and at most 1", holds=0 <= self.beta <= 1)

    def begin(self, start: Start) -> "ReedRun":
        """A run without state."""
        return ReedRun(soft_bootstrapping, self.beta)


@dataclass(frozen=True)
class ReedHard(ReedSoft):
    """Hyper-parameters.

    Attributes:
        beta: the given label's share of the target, beside the predicted class; in [0, 1].
    """

    beta: float = 0.8

    def begin(self, start: Start) -> "ReedRun":
        """A run without state."""
        return ReedRun(hard_bootstrapping, self.beta)


def soft_bootstrapping(logits: torch.Tensor, labels: torch.Tensor, beta: float) -> torch.Tensor:
    """(B,) losses -sum_k (beta y_k + (1 - beta) p_k) log p_k.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        beta: in [0, 1].
    """
    log_probs = F.log_softmax(logits, 1)
    entropy = -(log_probs.exp() * log_probs).sum(1)
    return beta * F.nll_loss(log_probs, labels, reduction="none") + (1 - beta) * entropy


def hard_bootstrapping(logits: torch.Tensor, labels: torch.Tensor, beta: float) -> torch.Tensor:
    """(B,) losses -beta log p_y - (1 - beta) log p_z, where z is the class with the largest p.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        beta: in [0, 1].
    """
    log_probs = F.log_softmax(logits, 1)
    return beta * F.nll_loss(log_probs, labels, reduction="none") - (1 - beta) * log_probs.amax(1)


class ReedRun(MethodRun):
    """Plain training with another loss."""

    def __init__(self, losses: Losses, beta: float) -> None:
        self.losses, self.beta = losses, beta

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights, and the bootstrapped loss in place of cross-entropy."""
        losses = self.losses(forward.logits, forward.batch.labels, self.beta)
        return StepObjective(equal_weights(ids), losses=losses)
