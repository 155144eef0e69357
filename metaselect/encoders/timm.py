"""Encoders of timm (PyTorch image models): ResNets, ViTs, DINOv2 and DINOv3, SigLIP and many more."""

from collections.abc import Mapping
from math import floor
from pathlib import Path
from typing import Any

from torch import nn

from metaselect.data.classes import suggest
from metaselect.encoders.base import (
    OFFLINE,
    Encoder,
    Preprocessing,
    fill,
    library_loading,
    package_version,
    require_package,
)
from metaselect.errors import DataError, UsageError


def load(name: str, weights: Path | None, *, pretrained: bool = True) -> Encoder:
    """The model ``name`` of timm without its head.

    Args:
        name: of the model, and of its weights after a dot: "vit_small_patch14_dinov2.lvd142m".
        weights: a file in timm's form; None: those that timm downloads.
        pretrained: else its parameters are random.

    Raises:
        UsageError: timm is not installed, has no such model, no weights for it, or prepares its images in a rare way.
        DataError: the weights cannot be had or do not fit.
    """
    encoder = f"timm:{name}"
    timm = require_package("timm", encoder)
    if not timm.is_model(name):
        near = suggest(name.partition(".")[0], timm.list_models())
        raise UsageError(f"timm has no model {name}: {near}", "timm.list_models() in Python lists all.")
    if pretrained and weights is None and not timm.is_model_pretrained(name):
        raise UsageError(
            f"timm has no weights for {name}.", "Name a file: --encoder-weights FILE.safetensors"
        )
    if weights is not None:
        module = _from_file(timm, name, weights)
    else:
        with library_loading(encoder, _hint(timm, name)):
            module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    config = timm.data.resolve_model_data_config(module)
    return Encoder(encoder, module, _preprocessing(encoder, config), package_version("timm"))


def _from_file(timm: Any, name: str, path: Path) -> nn.Module:
    """The model without its head, with the weights of a file."""
    encoder = f"timm:{name}"
    try:
        # timm knows the forms that weights are published in, but insists on the head.
        with library_loading(encoder):
            module: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
            module.reset_classifier(0)
    except DataError:
        with library_loading(encoder):
            module = timm.create_model(name, pretrained=False, num_classes=0)
        head = module.pretrained_cfg.get("classifier") or ()
        fill(module, path, encoder, (head,) if isinstance(head, str) else head)
    found: nn.Module = module
    return found


def _hint(timm: Any, name: str) -> str:
    """What to do without a network, with the address of the weights where timm knows one."""
    place = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    return f"{OFFLINE} The file is on the page https://huggingface.co/{place}" if place else OFFLINE


def _preprocessing(encoder: str, config: Mapping[str, Any]) -> Preprocessing:
    """What timm's own transform for evaluation does."""
    channels, height, width = config["input_size"]
    if channels != 3 or config["crop_mode"] not in ("center", "squash") or height != width:
        raise UsageError(
            f"--encoder {encoder} takes images in a form that is not supported.", "Name another one."
        )
    side = floor(height / config["crop_pct"])
    return Preprocessing(
        (height, width),
        (side, side) if config["crop_mode"] == "squash" else (side,),
        config["interpolation"],
        tuple(config["mean"]),
        tuple(config["std"]),
    )
