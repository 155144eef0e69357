"""The network of the authors' code of Ren et al. 2018 (arXiv:1803.09050) for MNIST, for `--model ren_net:build`.

Three convolutions of 5x5 with 16, 32 and 64 channels, each followed by max-pooling of 3x3 and stride 2, then linear
layers of 100 and K; weights from a normal distribution of standard deviation 0.1, cut off at twice that; no biases at
the start. Differs: two outputs in place of one with a sigmoid, which gives the same functions; pooling pads all four
sides; pixels have mean 0 and variance 1, not the range from 0 to 1.
"""

from collections.abc import Sequence

import torch
from torch import nn

WIDTHS, HIDDEN, DEVIATION = (16, 32, 64), 100, 0.1


class RenNet(nn.Module):
    """The network.

    Args:
        shape: (C, H, W).
        classes: K.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for wider in WIDTHS:
            layers += [nn.Conv2d(channels, wider, 5, padding=2), nn.MaxPool2d(3, 2, padding=1), nn.ReLU()]
            channels, height, width = wider, (height + 1) // 2, (width + 1) // 2
        layers += [nn.Flatten(), nn.Linear(channels * height * width, HIDDEN), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(HIDDEN, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION)
                assert layer.bias is not None  # both kinds have one by default
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits


def build(shape: Sequence[int], classes: int) -> RenNet:
    """The network for images of a shape."""
    return RenNet(shape, classes)
