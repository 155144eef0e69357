"""Generalised cross-entropy: a loss between cross-entropy and mean absolute error, which wrong labels move less.

Source: Zhang, Sabuncu 2018 (arXiv:1805.07836), section 3.2, with q = 0.7 as in their experiments. In logits its
gradient is p_y^q times that of cross-entropy, so that a sample counts less, the less the model believes its label. With
--option truncation=k (0.5 in their experiments) it is the truncated loss of section 3.3, v (L_q - L_q(k)): v is 1 for
samples whose loss is below L_q(k), that is p_y > k, else 0. It is set after 40 of 120 epochs, and then every 10.
Differs: training starts from the warm-up unless --init says otherwise. Those epochs are shares of the run's. Losses are
those of the last epoch's training passes (in the paper, of the best model so far on validation data), and v is always 1
for bought samples.
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


@dataclass(frozen=True)
class GeneralisedCrossEntropy(Method):
    """Hyper-parameters.

    Attributes:
        q: towards 0 the loss is cross-entropy, at 1 it is mean absolute error; in (0, 1].
        truncation: k, probability of its label at which a sample is left out, such as 0.5; in [0, 1), and 0: none is.
        initial: share of the epochs before samples are left out; in [0, 1), and at least one epoch has all.
        interval: share of the epochs after which it is decided anew; in (0, 1], and at least one epoch.
    """

    q: float = 0.7
    truncation: float = 0.0
    initial: float = 0.33
    interval: float = 0.083

    def __post_init__(self) -> None:
        require_option(self, "q", "above 0 and at most 1", holds=0 < self.q <= 1)
        for name in ("truncation", "initial"):
            require_option(self, name, "at least 0 and below 1", holds=0 <= getattr(self, name) < 1)
        require_option(self, "interval", "above 0 and at most 1", holds=0 < self.interval <= 1)

    def begin(self, start: Start) -> "GeneralisedCrossEntropyRun":
        """A run without state, or one in which no sample is left out yet."""
        return TruncatedRun(self, start) if self.truncation else GeneralisedCrossEntropyRun(self.q)


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


class TruncatedRun(GeneralisedCrossEntropyRun):
    """Training with the truncated loss: ``kept`` (n,) bool is v, and ``below`` (n,) what v would be by this epoch."""

    def __init__(self, method: GeneralisedCrossEntropy, start: Start) -> None:
        super().__init__(method.q)
        self.method, self.is_bought = method, start.labels.is_bought.to(start.device)
        self.limit = (1 - method.truncation**method.q) / method.q  # L_q(k)
        self.kept = torch.ones_like(self.is_bought)
        self.below = torch.ones_like(self.is_bought)
        self.set_epochs(start.epochs)

    def set_epochs(self, epochs: int) -> None:
        """The first epoch at whose end v is set, and the epochs between two such ends."""
        self.first = max(math.ceil(self.method.initial * epochs), 1)
        self.every = max(round(self.method.interval * epochs), 1)

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights of the samples that are kept, and the loss less its limit."""
        losses = generalised_cross_entropy(forward.logits, forward.batch.labels, self.q) - self.limit
        self.below[ids] = (losses.detach() < 0) | self.is_bought[ids]
        return StepObjective(equal_weights(ids) * self.kept[ids], losses=losses)

    def epoch_end(self, epoch: int) -> None:
        """Decide anew, where it is time."""
        if epoch >= self.first and (epoch - self.first) % self.every == 0:
            self.kept = self.below.clone()

    def state_dict(self) -> State:
        """The samples that are kept; the next epoch visits all again."""
        return {"kept": self.kept}

    def load_state_dict(self, state: State) -> None:
        """The same."""
        self.kept = state["kept"].to(self.is_bought.device)
