"""A small convolutional net for images of up to 16 pixels."""

from collections.abc import Sequence

import torch
from torch import nn


class ConvNet(nn.Module):
    """Two 3x3 convolutions (16, 32), one 2x2 pooling, two linear layers (d = 64).

    Args:
        shape: (C, H, W), H and W at least 2.
        classes: K.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),  # (B, 32 H W / 4)
            nn.Linear(32 * (height // 2) * (width // 2), 64),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits
