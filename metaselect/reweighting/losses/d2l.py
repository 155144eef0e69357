"""Dimensionality-driven learning: once representations grow in dimension, targets lean on predictions.

Source: Ma, Wang, Houle, Zhou, Erfani, Xia, Wijewickrema, Bailey 2018 (Dimensionality-Driven Learning with Noisy Labels,
arXiv:1806.02612), with the constants of its settings for CIFAR-10: while a network learns what labels have in common,
the local intrinsic dimensionality (LID) of its representations falls; when it learns wrong labels by heart, it rises.
After a third of the epochs, the turning point is the first epoch whose LID is above the mean of the last 5 by more than
two standard deviations. From then on a target is alpha y + (1 - alpha) onehot(argmax p), with alpha =
exp(-(t/T) LID_t / min LID) after t of T epochs. The LID of an epoch is the mean of the maximum-likelihood estimate
(k = 20) over 10 batches of 128.
Differs: representations are those of the epoch's first training passes; parameters are not put back by an epoch at the
turning point; LID_t is that of the last whole epoch, and the minimum is over those before it; the target of a bought
sample is its label; with fewer than 128 samples an epoch is one batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch, full_precision
from metaselect.reweighting.base import (
    Method,
    MethodRun,
    Start,
    State,
    StepObjective,
    equal_weights,
    require_option,
)

BATCH, BATCHES = 128, 10  # of representations, in an epoch
WINDOW, DEVIATIONS = 5, 2.0  # of the turning point
SMALLEST = 1e-12  # distance; equal representations are as far apart


@dataclass(frozen=True)
class DimensionalityDriven(Method):
    """Hyper-parameters.

    Attributes:
        neighbours: k, nearest representations that the dimension is estimated from; at least 2.
        initial: share of the epochs before which there is no turning point; in [0, 1).
    """

    neighbours: int = 20
    initial: float = 0.33

    def __post_init__(self) -> None:
        require_option(self, "neighbours", "at least 2", holds=self.neighbours >= 2)
        require_option(self, "initial", "at least 0 and below 1", holds=0 <= self.initial < 1)

    def begin(self, start: Start) -> "D2LRun":
        """Before the first dimension."""
        return D2LRun(self, start)


def local_dimensions(points: torch.Tensor, k: int) -> torch.Tensor:
    """(m,) estimates of the LID at each point, -1 / mean_i log(r_i / r_k), r_i the distance of the i-th neighbour.

    Args:
        points: (m, d), at least 3.
        k: neighbours; all others where there are fewer.
    """
    k = min(k, len(points) - 1)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.fill_diagonal_(torch.inf).topk(k, largest=False).values.clamp(min=SMALLEST)
    mean = (nearest / nearest[:, -1:]).log().mean(1)
    return -1 / mean.clamp(max=-1e-3)  # neighbours that are all as far have no dimension


def turning_point(lids: Sequence[float], first: int) -> int | None:
    """The epoch (from 1) after which targets change; None: there was none yet.

    Args:
        lids: of each epoch so far.
        first: the first epoch that may be one.
    """
    for epoch in range(max(first, WINDOW + 1), len(lids) + 1):
        before = torch.tensor(lids[epoch - 1 - WINDOW : epoch - 1], dtype=torch.float64)
        if lids[epoch - 1] > float(before.mean() + DEVIATIONS * before.std(correction=0)):
            return epoch
    return None


def label_share(lids: Sequence[float], epochs: int, first: int) -> float:
    """Alpha in [0, 1], the share of the label in a target: 1 before the turning point."""
    if turning_point(lids, first) is None:
        return 1.0
    return math.exp(-len(lids) / epochs * lids[-1] / min(lids[:-1]))


class D2LRun(MethodRun):
    """The LID of each epoch, and the representations of this one."""

    def __init__(self, method: DimensionalityDriven, start: Start) -> None:
        self.method, self.device, self.epochs = method, start.device, start.epochs
        self.classes, self.is_bought = start.labels.classes, start.labels.is_bought.to(start.device)
        self.lids: list[float] = []
        self.alpha = 1.0
        self._forget()

    def _forget(self) -> None:
        self.points: list[torch.Tensor] = []  # of one batch of representations, in parts
        self.held = 0
        self.means: list[torch.Tensor] = []  # of each batch that was full

    @property
    def starts_anew(self) -> bool:
        """The warm-up may be behind the turning point."""
        return True

    def set_epochs(self, epochs: int) -> None:
        """T."""
        self.epochs = epochs

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights, and targets between label and predicted class."""
        self._keep(full_precision(forward.hidden.detach()))
        weights = equal_weights(ids)
        if self.alpha == 1:
            return StepObjective(weights)
        label, predicted = (
            F.one_hot(classes, self.classes).to(forward.logits.dtype)
            for classes in (forward.batch.labels, forward.logits.detach().argmax(1))
        )
        shares = torch.where(self.is_bought[ids], 1.0, self.alpha)[:, None].to(label.dtype)
        return StepObjective(weights, weights[:, None] * (shares * label + (1 - shares) * predicted))

    def _keep(self, hidden: torch.Tensor) -> None:
        """Add representations (B, d) to the batch of this moment, and take the mean of one that is full."""
        for part in hidden.split(BATCH):
            if len(self.means) == BATCHES:
                return
            taken = part[: BATCH - self.held]
            self.points.append(taken)
            self.held += len(taken)
            if self.held == BATCH:
                self._estimate()
                rest = part[len(taken) :]
                self.points, self.held = ([rest], len(rest)) if len(rest) else ([], 0)

    def _estimate(self) -> None:
        self.means.append(local_dimensions(torch.cat(self.points), self.method.neighbours).mean())
        self.points, self.held = [], 0

    def epoch_end(self, epoch: int) -> None:
        """The LID of this epoch, and what follows from it."""
        if not self.means and self.held > 2:
            self._estimate()
        # Without three samples there is none, and the last one holds.
        last = self.lids[-1] if self.lids else 1.0
        self.lids.append(float(torch.stack(self.means).mean()) if self.means else last)
        self._take()

    def _take(self) -> None:
        first = math.ceil(self.method.initial * self.epochs) + 1
        self.alpha = label_share(self.lids, self.epochs, first)
        self._forget()

    def state_dict(self) -> State:
        """The LID of each epoch, which all the rest follows from."""
        return {"lids": torch.tensor(self.lids, dtype=torch.float64)}

    def load_state_dict(self, state: State) -> None:
        """The same."""
        self.lids = state["lids"].tolist()
        self._take()
