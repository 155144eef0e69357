"""Residual nets for small images.

Source: He, Zhang, Ren, Sun 2016 (arXiv:1512.03385), section 4.2 for ``resnet32``; ``resnet34`` is the same block
with the widths of its ImageNet table and a 3x3 stem, as in Wu et al. 2023 (arXiv:2302.04418).
Differs: shortcuts are parameter-free in both (strided slice, zero channels: option A).
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new_channels = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(x + y)


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks, global average pooling, one linear layer.

    Args:
        shape: (C, H, W).
        classes: K.
        widths: channels of each stage; all but the first halve the image.
        depths: blocks of each stage.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, widths: Sequence[int], depths: Sequence[int]
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for stage, (outputs, depth) in enumerate(zip(widths, depths, strict=True)):
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(BasicBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        x = self.blocks(F.relu(self.bn(self.stem(x))))
        logits: torch.Tensor = self.classifier(x.mean((2, 3)))
        return logits


def resnet32(shape: Sequence[int], classes: int) -> ResNet:
    """ResNet-32: three stages of 5 blocks, 16, 32 and 64 channels; d = 64."""
    return ResNet(shape, classes, (16, 32, 64), (5, 5, 5))


def resnet34(shape: Sequence[int], classes: int) -> ResNet:
    """ResNet-34 in CIFAR form: 3, 4, 6 and 3 blocks, 64 to 512 channels; d = 512."""
    return ResNet(shape, classes, (64, 128, 256, 512), (3, 4, 6, 3))
