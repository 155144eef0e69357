"""A model's predictions for samples, from which all its metrics are computed."""

from typing import NamedTuple

import torch


class Predictions(NamedTuple):
    """A model's predictions for samples, in their order.

    Attributes:
        losses: (n',) cross-entropy with the labels.
        predicted: (n',) int64, the most probable class.
        confidence: (n',) its probability.
        label_prob: (n',) the probability of the label.
        hits: (n',) bool, the most probable class is the label; ties go to the lowest class.
    """

    losses: torch.Tensor
    predicted: torch.Tensor
    confidence: torch.Tensor
    label_prob: torch.Tensor
    hits: torch.Tensor

    @property
    def accuracy(self) -> float:
        """Share of hits."""
        return int(self.hits.sum()) / len(self.hits)

    @property
    def mean_loss(self) -> float:
        """Mean loss, summed in float64 on the CPU, which every device can."""
        return float(self.losses.cpu().double().mean())
