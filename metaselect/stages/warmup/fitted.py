"""What fitting a model to the given labels gives, by gradient descent or exactly."""

from collections.abc import Mapping
from typing import NamedTuple

import torch


class WarmupRow(NamedTuple):
    """One row of ``warmup/history.csv``; losses are cross-entropy with given labels.

    Those of ``linear``, which is solved without steps, have ``lr`` 0, and held-out values of cross-validation.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float
    held_out_loss: float
    held_out_accuracy: float


class Fitted(NamedTuple):
    """A fitted model.

    Attributes:
        model: its name.
        history: one row an epoch.
        checkpoints: epochs whose models are kept.
        wrong_events: (n,) share of the epochs in which the prediction was not the given label.
        weight_decay: that cross-validation chose, or that was given; None of a model trained by gradient descent.
        held_out_losses: by model, of the comparison that this model was chosen by; None without one.
    """

    model: str
    history: list[WarmupRow]
    checkpoints: list[int]
    wrong_events: torch.Tensor
    weight_decay: float | None = None
    held_out_losses: Mapping[str, float] | None = None

    @property
    def start(self) -> WarmupRow:
        """The checkpoint with the lowest held-out loss, the earliest of equal ones."""
        kept = (row for row in self.history if row.epoch in self.checkpoints)
        return min(kept, key=lambda row: row.held_out_loss)
