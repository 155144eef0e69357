"""Multinomial logistic regression as a model: one linear layer."""

from collections.abc import Sequence

import torch
from torch import nn


class Linear(nn.Module):
    """One linear layer from the features to the logits; images are flattened.

    Args:
        shape: of one sample.
        classes: K.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(torch.Size(shape).numel(), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        logits: torch.Tensor = self.head(self.flatten(x))
        return logits
