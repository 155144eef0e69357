"""LeNet-5 with ReLU and max-pooling.

Source: LeCun, Bottou, Bengio, Haffner 1998; widths as in Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418).
Differs: the first linear layer fits itself to the image size (256 inputs at 28 pixels, 400 at 32).
"""

from collections.abc import Sequence

import torch
from torch import nn

from metaselect.errors import UsageError

SMALLEST = 16  # pixels a side; below, nothing is left after the second pooling


class LeNet(nn.Module):
    """Convolutions 6 and 16 (5x5), linear layers 120, 84 and K; d = 84.

    Args:
        shape: (C, H, W), H and W at least 16.
        classes: K.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < SMALLEST:
            raise UsageError(
                f"--model lenet needs images of at least {SMALLEST} pixels, not {height}x{width}.",
                "Use convnet, or a larger --image-size at ingest.",
            )
        sides = [((size - 4) // 2 - 4) // 2 for size in (height, width)]
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * sides[0] * sides[1], 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(84, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits
