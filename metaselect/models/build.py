"""Building a model by its name: own models, torchvision's, an encoder with a head, or a user's factory."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from metaselect.encoders.classifier import new_classifier
from metaselect.errors import UsageError
from metaselect.factories import AUTHORS_ERRORS, call_factory, described
from metaselect.models.head import head_of, mark_head
from metaselect.random import derive_seed, seeded_globals
from metaselect.registry import (
    MODELS,
    TORCHVISION_FAMILIES,
    TRAINABLE_ENCODERS,
    is_encoder,
    load,
    names_code,
)

LINEAR_FROM = 128  # features, which then come from a frozen encoder, where a linear model is what is needed


def auto_model(shape: Sequence[int]) -> str:
    """The default model for inputs of a shape: (d,) features or (C, H, W) images.

    For fewer features than ``LINEAR_FROM`` a warm-up takes ``linear`` instead, where that predicts no worse.
    """
    if len(shape) == 1:
        return "linear" if shape[0] >= LINEAR_FROM else "mlp"
    channels, size = shape[0], max(shape[1:])
    if size <= 16:
        return "convnet"
    if channels == 1 and min(shape[1:]) >= 28 and size <= 32:
        return "lenet"
    return "resnet32" if size <= 64 else "resnet18"


def input_channels(name: str, shape: Sequence[int]) -> int:
    """Channels that the model takes: 3 for models of other libraries, for which grey images are repeated."""
    return 3 if name not in MODELS and not names_code(name) and len(shape) == 3 else shape[0]


def build_model(name: str, shape: Sequence[int], classes: int, *, seed: int) -> nn.Module:
    """A newly initialised model.

    Args:
        name: a name of ``MODELS``, a torchvision name of ``TORCHVISION_FAMILIES``, an encoder of
            ``TRAINABLE_ENCODERS``, or ``package.module:factory``, called as ``factory(shape, classes)``.
        shape: (d,) or (C, H, W) of one sample.
        classes: K.
        seed: of the initialisation.

    Raises:
        UsageError: no such model, one that fails, or one whose logits are not K outputs of an ``nn.Linear``.
    """
    with seeded_globals(derive_seed(seed, "init", name)):
        if name in MODELS:
            model = _from_registry(name, shape, classes)
        elif is_encoder(name):
            _require_images(name, shape)
            model = new_classifier(name, (shape[1], shape[2]), classes)
        elif names_code(name):
            model = _from_factory(name, shape, classes)
        else:
            model = _from_torchvision(name, shape, classes)
        _check(model, name, shape, classes)  # lazy layers get their initial values here
    return model


def _from_registry(name: str, shape: Sequence[int], classes: int) -> nn.Module:
    if name not in ("linear", "mlp"):
        _require_images(name, shape)
    model: nn.Module = load(MODELS[name])(shape, classes)
    return model


def _from_factory(name: str, shape: Sequence[int], classes: int) -> nn.Module:
    model = call_factory("--model", name, tuple(shape), classes)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {name} returned a {type(model).__name__}.",
            "factory(shape, classes) must return an nn.Module.",
        )
    return model


def _from_torchvision(name: str, shape: Sequence[int], classes: int) -> nn.Module:
    known = (
        f"Models: {', '.join(MODELS)}; of torchvision {', '.join(TORCHVISION_FAMILIES)}; "
        f"{', '.join(TRAINABLE_ENCODERS)} (the last two as timm:NAME and torchvision:NAME); or package.module:factory."
    )
    if not name.startswith(TORCHVISION_FAMILIES):
        raise UsageError(f"--model {name} is not known.", known)
    _require_images(name, shape)
    from torchvision.models import get_model  # takes 1.5 s, so it is imported only when needed

    try:
        model: nn.Module = get_model(name, weights=None, num_classes=classes)
    except ValueError:
        raise UsageError(f"torchvision has no model {name}.", known) from None
    return model


def _require_images(name: str, shape: Sequence[int]) -> None:
    if len(shape) != 3:
        raise UsageError(
            f"--model {name} needs images, and this pool holds feature vectors.", "Use linear or mlp."
        )


def _check(model: nn.Module, name: str, shape: Sequence[int], classes: int) -> None:
    """Run the model on a batch of zeros, so that one that does not fit the data is refused before training."""
    channels = input_channels(name, shape)
    batch = torch.zeros(2, *((channels, *shape[1:]) if len(shape) == 3 else shape))
    try:
        logits = mark_head(model, batch)
        if ":" in name:  # code that is tested nowhere here
            _check_training(model, batch, logits)
    except UsageError as error:
        raise UsageError(f"--model {name}: {error}", error.hint) from None
    except AUTHORS_ERRORS as error:
        if isinstance(error, RuntimeError) or ":" in name:
            raise UsageError(
                f"--model {name} cannot take inputs of shape {tuple(shape)}: {described(error)}.",
                "Choose another model, or another --image-size at ingest.",
            ) from None
        raise
    if logits.shape != (2, classes):
        raise UsageError(
            f"--model {name} gives logits of shape {tuple(logits.shape)} for 2 samples, not (2, {classes}).",
            "It must have one output for each class.",
        )
    if not all(value.requires_grad for value in head_of(model).parameters()):
        raise UsageError(f"--model {name}: its head is frozen.", "Leave at least the last layer trainable.")


def _check_training(model: nn.Module, batch: torch.Tensor, logits: torch.Tensor) -> None:
    """Refuse a model that gives something else in training mode, such as the logits of auxiliary heads beside its own.

    Raises:
        UsageError: it does.
    """
    with torch.no_grad():
        output = deepcopy(model).train()(batch)
    if not isinstance(output, torch.Tensor) or output.shape != logits.shape:
        raise UsageError(
            f"In training mode the model gives a {type(output).__name__} that is not its logits alone.",
            "It must return the logits, (B, K), in both modes.",
        )
