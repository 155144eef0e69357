"""The data that the model `linear` is solved on."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from metaselect.models.cross_fit import WEIGHT_DECAYS, cross_fit
from metaselect.models.logistic_regression import LinearParams, fit_logistic_regression

LEAST_DECAY = 10**-1.5  # held out, targets that were computed from the same inputs favour nearly none
DECAYS = tuple(decay for decay in WEIGHT_DECAYS if decay >= LEAST_DECAY)


class LinearProblem(NamedTuple):
    """The data of the model ``linear``, whose parameters can be found exactly.

    Attributes:
        inputs: (n, d) float32, normalised features of the pool.
        labels: (n,) int64, bought labels in place.
        classes: K.
        trained: (n',) int64, the samples that are trained on.
        fold: (n',) int64, theirs, for the choice of a weight decay.
        weight_decay: for the labels.
        given_decay: --weight-decay, for all targets; None: chosen by their held-out loss, at least ``LEAST_DECAY``.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    classes: int
    trained: torch.Tensor
    fold: torch.Tensor
    weight_decay: float
    given_decay: float | None

    def fit(self, targets: torch.Tensor) -> LinearParams:
        """Parameters for the rows of soft labels ((n, K)) of the samples that are trained on."""
        inputs, targets = self.inputs[self.trained], targets[self.trained].to(self.inputs.dtype)
        decay = self.given_decay
        if decay is None:
            decay = cross_fit(inputs, targets, self.fold, DECAYS).weight_decay
        return fit_logistic_regression(inputs, targets, decay)

    def fit_labels(self) -> LinearParams:
        """Parameters for the labels."""
        targets = F.one_hot(self.labels[self.trained], self.classes).to(self.inputs.dtype)
        return fit_logistic_regression(self.inputs[self.trained], targets, self.weight_decay)
