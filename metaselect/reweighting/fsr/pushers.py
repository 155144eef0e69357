"""Pushers: how much a training sample's history speaks for its given label.

Source: Zhang, Pfister 2021 (FSR), Eq. 5, Algorithm 1 and Fig. 5; the rivals: max-margin, Balcan, Broder, Zhang 2007;
forgetting events, Toneva et al. 2019 (arXiv:1812.05159); area under the margin, Pleiss et al. 2020
(arXiv:2001.10528). Differs: the rivals are taken from their own papers, since the authors' code has none of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.models.head import head_of
from metaselect.reweighting.base import State


class Visit(NamedTuple):
    """The outputs for a batch before its real step.

    Attributes:
        logits: (B, K) at theta.
        labels: (B,) int64, given.
        loss: (B,) at theta.
        loss_ahead: (B,) behind the virtual step.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    loss: torch.Tensor
    loss_ahead: torch.Tensor

    @property
    def right(self) -> torch.Tensor:
        """(B,) bool, the label is the most probable class; ties go to the lowest class."""
        return self.logits.argmax(1) == self.labels


def meta_margin(visit: Visit) -> torch.Tensor:
    """Eq. 5: (B,) how far the virtual step lowers each loss."""
    return visit.loss - visit.loss_ahead


def negative_loss(visit: Visit) -> torch.Tensor:
    """(B,) minus the loss at theta."""
    return F.cross_entropy(visit.logits, visit.labels, reduction="none").neg()


def max_margin(visit: Visit) -> torch.Tensor:
    """(B,) the highest probability less the second, whatever the label."""
    first, second = visit.logits.softmax(1).topk(2, dim=1).values.unbind(1)
    return first - second


def label_margin(visit: Visit) -> torch.Tensor:
    """(B,) the label's logit less the highest of the others."""
    own = visit.logits.gather(1, visit.labels[:, None])[:, 0]
    others = visit.logits.scatter(1, visit.labels[:, None], -torch.inf)  # (B, K)
    return own - others.amax(1)


SCORES: dict[str, Callable[[Visit], torch.Tensor]] = {
    "meta-margin": meta_margin,
    "negative-loss": negative_loss,
    "max-margin": max_margin,
    "area-under-margin": label_margin,
}
FORGETTING = "forgetting"
PUSHERS: tuple[str, ...] = (*SCORES, FORGETTING)
AUTO = "auto"


def pusher_for(model: nn.Module) -> str:
    """The paper's meta-margin for a network; minus the loss for a linear model.

    There a step on a sample moves nothing but the logits of similar features, so that a wrong label, whose loss is
    high, has the most to gain from it.
    """
    head = sum(value.numel() for value in head_of(model).parameters())
    return "negative-loss" if head == sum(value.numel() for value in model.parameters()) else "meta-margin"


def forgotten(
    old: torch.Tensor, was_right: torch.Tensor, right: torch.Tensor, first: torch.Tensor
) -> torch.Tensor:
    """(B,) minus the times that a sample went from right to wrong; minus infinity until it is first right.

    Args:
        old: (B,) these scores before the visit.
        was_right: (B,) bool, at the visit before.
        right: (B,) bool, now.
        first: (B,) bool, there was no visit before.
    """
    old = old.masked_fill(first, -torch.inf)
    learnt = right & old.isinf()
    return torch.where(learnt, 0.0, old - (was_right & ~right).to(old.dtype))


class History:
    """Scores of the pool's samples, moved at each visit.

    Args:
        n: samples of the pool.
        pusher: a name of ``PUSHERS``, or ``AUTO``: that of the model, from the first step on.
        momentum: lambda of Algorithm 1, for the scores that are no counts or means.
        device: of the training.
    """

    def __init__(self, n: int, pusher: str, momentum: float, device: torch.device) -> None:
        self.pusher, self.momentum = pusher, momentum
        self.scores = torch.zeros(n, device=device)
        self.visits = torch.zeros(n, dtype=torch.int64, device=device)
        self.was_right = torch.zeros(n, dtype=torch.bool, device=device)

    def update(self, ids: torch.Tensor, visit: Visit) -> None:
        """Add a visit of a batch; ``ids`` (B,) int64 on the device, each once."""
        old, visits = self.scores[ids], self.visits[ids]
        if self.pusher == FORGETTING:
            new = forgotten(old, self.was_right[ids], visit.right, visits == 0)
        elif self.pusher == "area-under-margin":
            new = old + (label_margin(visit) - old) / (visits + 1)  # the mean over all visits
        else:
            # Algorithm 1: the moving average of the scores
            new = self.momentum * old + (1 - self.momentum) * SCORES[self.pusher](visit)
        self.scores[ids] = new.to(self.scores.dtype)
        self.visits[ids] = visits + 1
        self.was_right[ids] = visit.right

    def state_dict(self) -> State:
        """All three tables."""
        return {"scores": self.scores, "visits": self.visits, "was_right": self.was_right}

    def load_state_dict(self, state: State) -> None:
        """All three tables."""
        device = self.scores.device
        self.scores, self.visits = state["scores"].to(device), state["visits"].to(device)
        self.was_right = state["was_right"].to(device)
