"""The pre-trained weights that a warm-up starts from: published ones, or those of a file."""

from dataclasses import replace
from typing import NamedTuple

import torch

from metaselect.data.store import Dataset
from metaselect.data_options import DEFAULT_ENCODER
from metaselect.encoders.classifier import flags_of_models, pretrained_body
from metaselect.errors import UsageError
from metaselect.options import WarmupOptions
from metaselect.records import Json
from metaselect.registry import MODELS, TORCHVISION_FAMILIES, TRAINABLE_ENCODERS, is_encoder


class PretrainedWeights(NamedTuple):
    """Weights that were trained on other images.

    Attributes:
        body: the tensors of a ``Classifier``, without its head.
        described: name, package, hash of the weights and preprocessing of the encoder.
    """

    body: dict[str, torch.Tensor]
    described: dict[str, Json]


def with_encoder(options: WarmupOptions) -> WarmupOptions:
    """The options with ``model`` as an encoder's name: "resnet50" becomes "torchvision:resnet50".

    Raises:
        UsageError: the model has no published weights.
    """
    name = DEFAULT_ENCODER if options.model is None else options.model
    if (
        ":" not in name
        and name not in MODELS
        and name.startswith(TORCHVISION_FAMILIES)
        and not is_encoder(name)
    ):
        name = f"torchvision:{name}"
    if not is_encoder(name):
        raise UsageError(
            f"--model {name} has no pre-trained weights.",
            f"Leave --pretrained out, or name one of {', '.join(TRAINABLE_ENCODERS)} (timm:NAME, torchvision:NAME).",
        )
    return replace(options, model=name)


def load_pretrained(options: WarmupOptions, pool: Dataset) -> PretrainedWeights:
    """The weights, for images of the pool's size and normalisation.

    Args:
        options: of ``with_encoder``; ``weights`` is a file in place of a download.
        pool: the data, images.

    Raises:
        UsageError: there is no such encoder, or it cannot take images of this size.
        DataError: the weights cannot be had or do not fit.
    """
    from metaselect.encoders.load import load_encoder  # it imports torchvision, which takes a second

    assert options.model is not None
    with flags_of_models():
        encoder = load_encoder(options.model, options.weights)
    described = encoder.described()
    height, width = pool.inputs.shape[2:]
    body = pretrained_body(encoder, (height, width), pool.preprocess.mean, pool.preprocess.std)
    return PretrainedWeights(body, described)
