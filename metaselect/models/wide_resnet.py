"""Wide residual nets.

Source: Zagoruyko, Komodakis 2016 (arXiv:1605.07146): pre-activation blocks, 1x1 convolutions where the width
changes, no dropout.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice; a 1x1 convolution as shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        activated = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        # Where the shape changes, the shortcut starts after the first activation, as in the paper's code.
        total: torch.Tensor = y + (x if self.shortcut is None else self.shortcut(activated))
        return total


class WideResNet(nn.Module):
    """Stem of 16 channels, three stages of 16, 32 and 64 times ``width`` channels.

    Args:
        shape: (C, H, W).
        classes: K.
        depth: 6 n + 4, with n blocks a stage.
        width: the widening factor.
    """

    def __init__(self, shape: Sequence[int], classes: int, depth: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        inputs = 16
        for stage, base in enumerate((16, 32, 64)):
            for position in range((depth - 4) // 6):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(WideBlock(inputs, base * width, stride))
                inputs = base * width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        x = F.relu(self.bn(self.blocks(self.stem(x))))
        logits: torch.Tensor = self.classifier(x.mean((2, 3)))
        return logits


def wrn_28_10(shape: Sequence[int], classes: int) -> WideResNet:
    """WRN-28-10, 36 million parameters; d = 640."""
    return WideResNet(shape, classes, 28, 10)
