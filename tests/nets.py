"""Models for oracles, beside the shipped ones: normalisation without a batch, attention, writing in place."""

from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

CLASSES = 3


class GroupNormNet(nn.Module):
    """Convolutions with and without bias, GroupNorm with and without scale, and most of what pools."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GroupNorm(4, 8),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False),
            nn.GroupNorm(2, 8, affine=False),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(x))


class Transformer(nn.Module):
    """Patches of 4 x 4 pixels, two encoder layers, the mean over patches."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.positions = nn.Parameter(torch.randn(4, 16) / 4)
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(16, 2, 32, dropout, batch_first=True, norm_first=first)
                for first in (False, True)
            )
        )
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.classifier(self.layers(tokens).mean(1))


class InPlaceNet(nn.Module):
    """Writes over activations: whole, and a part of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.drop, self.classifier = nn.Dropout(0.3, inplace=True), nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.conv(x)), inplace=True)
        y = y * 2
        y += 1
        y[:, 0] *= 0.5
        return self.classifier(self.drop(y.mean((2, 3))))


def no_flash() -> AbstractContextManager[None]:
    """Attention by products and a softmax; torch's kernel for CPUs cannot be differentiated twice."""
    return sdpa_kernel(SDPBackend.MATH)
