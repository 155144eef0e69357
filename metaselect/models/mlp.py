"""A multi-layer perceptron for feature vectors."""

from collections.abc import Sequence

import torch
from torch import nn


class MLP(nn.Module):
    """Two hidden layers of 128 and 64 units with ReLU; images are flattened.

    Args:
        shape: of one sample.
        classes: K.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        inputs = torch.Size(shape).numel()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        logits: torch.Tensor = self.layers(x)
        return logits
