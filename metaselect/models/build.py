"""Building a model by its name: own models, torchvision's, or a user's factory."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from metaselect.errors import UsageError
from metaselect.random import derive_seed, seeded_globals
from metaselect.registry import MODELS, TORCHVISION_FAMILIES, load

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
    """Channels that the model takes: 3 for torchvision's models, for which grey images are repeated."""
    return 3 if name not in MODELS and ":" not in name and len(shape) == 3 else shape[0]


def build_model(name: str, shape: Sequence[int], classes: int, *, seed: int) -> nn.Module:
    """A newly initialised model.

    Args:
        name: a name of ``MODELS``, a torchvision name of ``TORCHVISION_FAMILIES``, or ``package.module:factory``,
            called as ``factory(shape, classes)``.
        shape: (d,) or (C, H, W) of one sample.
        classes: K.
        seed: of the initialisation.

    Raises:
        UsageError: no such model, or one that has no last linear layer of K outputs.
    """
    with seeded_globals(derive_seed(seed, "init", name)):
        if name in MODELS:
            model = _from_registry(name, shape, classes)
        elif ":" in name:
            model = _from_factory(name, shape, classes)
        else:
            model = _from_torchvision(name, shape, classes)
    _check_outputs(model, name, shape, classes)
    return model


def last_linear(model: nn.Module) -> nn.Linear:
    """The last ``nn.Linear`` in the order of registration; its input is the representation (width d).

    Raises:
        UsageError: the model has none.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise UsageError("The model has no nn.Linear layer.", "Its last layer must be an nn.Linear.")
    return layers[-1]


def _from_registry(name: str, shape: Sequence[int], classes: int) -> nn.Module:
    if name not in ("linear", "mlp"):
        _require_images(name, shape)
    model: nn.Module = load(MODELS[name])(shape, classes)
    return model


def _from_factory(name: str, shape: Sequence[int], classes: int) -> nn.Module:
    module, _, attribute = name.partition(":")
    try:
        factory: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(
            f"--model {name} cannot be imported: {error}.", "Check its name and PYTHONPATH."
        ) from None
    model = factory(tuple(shape), classes)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {name} returned a {type(model).__name__}.",
            "factory(shape, classes) must return an nn.Module.",
        )
    return model


def _from_torchvision(name: str, shape: Sequence[int], classes: int) -> nn.Module:
    known = f"Models: {', '.join(MODELS)}; of torchvision {', '.join(TORCHVISION_FAMILIES)}; or package.module:factory."
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


def _check_outputs(model: nn.Module, name: str, shape: Sequence[int], classes: int) -> None:
    """Run the model on a batch of zeros, so that one that does not fit the data is refused before training."""
    last = last_linear(model)
    channels = input_channels(name, shape)
    batch = torch.zeros(2, *((channels, *shape[1:]) if len(shape) == 3 else shape))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(batch)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--model {name} cannot take inputs of shape {tuple(shape)}: {reason}.",
            "Choose another model, or another --image-size at ingest.",
        ) from None
    model.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes) or last.out_features != classes:
        raise UsageError(
            f"--model {name} does not end in an nn.Linear with one output for each of {classes} classes.",
            "Choose another model.",
        )
