"""Encoders of torchvision: its classification models with their default weights, without the last linear layer."""

from pathlib import Path

from torch import nn

from metaselect.data.classes import suggest
from metaselect.encoders.base import Encoder, Preprocessing, fill, library_loading, package_version
from metaselect.errors import UsageError
from metaselect.registry import TORCHVISION_FAMILIES

FAMILIES = (*TORCHVISION_FAMILIES, "vit", "swin", "maxvit")


def load(name: str, weights: Path | None, *, pretrained: bool = True) -> Encoder:
    """The model ``name`` of torchvision without its last linear layer.

    Args:
        name: of the model: "resnet50".
        weights: a file in torchvision's form; None: the default ones, which torchvision downloads.
        pretrained: else its parameters are random.

    Raises:
        UsageError: no such model.
        DataError: the weights cannot be had or do not fit.
    """
    import torchvision
    from torchvision.models import get_model, get_model_weights, list_models

    encoder = f"torchvision:{name}"
    known = [each for each in list_models(module=torchvision.models) if each.startswith(FAMILIES)]
    if name not in known:
        raise UsageError(f"--encoder {encoder} is not known: {suggest(name, known)}", "Name one of these.")
    trained = get_model_weights(name).DEFAULT
    with library_loading(encoder):
        module = get_model(name, weights=trained if pretrained and weights is None else None)
    head = [place for place, layer in module.named_modules() if isinstance(layer, nn.Linear)][-1]
    parent, _, last = head.rpartition(".")
    setattr(module.get_submodule(parent), last, nn.Identity())
    if weights is not None:
        fill(module, weights, encoder, (head,))
    transform = trained.transforms()
    size = tuple(transform.crop_size)
    return Encoder(
        encoder,
        module,
        Preprocessing(
            (size[0], size[-1]),
            tuple(transform.resize_size),
            transform.interpolation.value,
            tuple(transform.mean),
            tuple(transform.std),
        ),
        package_version("torchvision"),
    )
