"""Early-learning regularisation: predictions stay near those of early training, before wrong labels were learnt.

Source: Liu, Niles-Weed, Razavian, Fernandez-Granda 2020 (arXiv:2007.00151), section 4, with the constants for CIFAR-10
(beta = 0.7, lambda = 3) and, where the paper is silent, the ways of the authors' code: probabilities clamped to
[1e-4, 1 - 1e-4], targets that start at 0, and move before the loss is taken with them.
Differs: the target of a bought sample is its bought label and does not move; the authors' code does not save the
targets; training starts from the warm-up unless --init says otherwise. ELR+ (two networks, MixUp, averaged parameters)
is left out.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import (
    Method,
    MethodRun,
    Start,
    State,
    StepObjective,
    equal_weights,
    require_option,
)

LOWEST_PROB = 1e-4  # the authors' constant: keeps the logarithm of 1 - <p, t> above -10


@dataclass(frozen=True)
class EarlyLearning(Method):
    """Hyper-parameters.

    Attributes:
        beta: share of a sample's target that stays at each visit; in [0, 1).
        strength: lambda, the factor of the regularisation; at least 0.
    """

    beta: float = 0.7
    strength: float = 3.0

    def __post_init__(self) -> None:
        require_option(self, "beta", "at least 0 and below 1", holds=0 <= self.beta < 1)
        require_option(self, "strength", "at least 0 and finite", holds=0 <= self.strength < math.inf)

    def begin(self, start: Start) -> "EarlyLearningRun":
        """Targets of 0, and those of the bought samples at their labels."""
        targets = torch.zeros(start.n, start.labels.classes)
        bought = start.labels.bought
        targets[bought] = F.one_hot(start.labels.given[bought], start.labels.classes).float()
        return EarlyLearningRun(self, targets.to(start.device), start.labels.is_bought.to(start.device))


def clamped_probs(logits: torch.Tensor) -> torch.Tensor:
    """(B, K) softmax in [1e-4, 1 - 1e-4]; a clamped entry has no gradient."""
    return logits.softmax(1).clamp(LOWEST_PROB, 1 - LOWEST_PROB)


def moved_targets(targets: torch.Tensor, probs: torch.Tensor, beta: float) -> torch.Tensor:
    """(B, K) targets after a visit, beta t + (1 - beta) p, without a graph.

    Args:
        targets: (B, K) before it; rows sum to at most 1.
        probs: (B, K), clamped; normalised here.
        beta: in [0, 1).
    """
    probs = probs.detach()
    return beta * targets + (1 - beta) * probs / probs.sum(1, keepdim=True)


def early_learning_losses(
    logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor, strength: float
) -> torch.Tensor:
    """(B,) losses: cross-entropy plus lambda log(1 - <p, t>), of which the second is at most 0.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        targets: (B, K), t, after this visit; rows sum to at most 1.
        strength: lambda.
    """
    agreement = (clamped_probs(logits) * targets).sum(1)  # <p, t>, at most 1 - 1e-4
    return F.cross_entropy(logits, labels, reduction="none") + strength * (1 - agreement).log()


class EarlyLearningRun(MethodRun):
    """One target for each sample of the pool: ``targets`` (n, K) on the device of the training."""

    def __init__(self, method: EarlyLearning, targets: torch.Tensor, is_bought: torch.Tensor) -> None:
        self.method, self.targets, self.is_bought = method, targets, is_bought

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """The targets of the batch move, then the loss is taken with the new ones."""
        old = self.targets[ids]  # (B, K)
        new = moved_targets(old, clamped_probs(forward.logits), self.method.beta)
        targets = torch.where(self.is_bought[ids, None], old, new.to(old.dtype))  # (B, K)
        self.targets[ids] = targets
        losses = early_learning_losses(forward.logits, forward.batch.labels, targets, self.method.strength)
        return StepObjective(equal_weights(ids), losses=losses)

    def state_dict(self) -> State:
        """The targets."""
        return {"targets": self.targets}

    def load_state_dict(self, state: State) -> None:
        """The targets."""
        self.targets = state["targets"].to(self.targets.device)
