"""Image encoders of OpenCLIP: CLIP, SigLIP and others that were trained with texts; the features are the embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from metaselect.data.classes import suggest
from metaselect.encoders.base import (
    OFFLINE,
    Encoder,
    Preprocessing,
    library_loading,
    package_version,
    require_package,
)
from metaselect.errors import DataError, UsageError
from metaselect.text import examples

OF_WEIGHTS = ("mean", "std", "interpolation", "resize_mode")
"""Parts of the preprocessing that weights may determine."""


class ImageTower(nn.Module):
    """The image encoder alone, whose output is the embedding, not normalised."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Embeddings of normalised pictures, (B, d)."""
        output = self.visual(inputs)
        # CoCa's encoder gives the tokens besides.
        embedding: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return embedding


def load(name: str, weights: Path | None) -> Encoder:
    """The image encoder of the model ``name`` of OpenCLIP.

    Args:
        name: "MODEL/WEIGHTS", as ViT-B-32/laion2b_s34b_b79k; or "hf-hub:OWNER/NAME" or "local-dir:FOLDER".
        weights: a file of the whole model's, in OpenCLIP's form; None: those that OpenCLIP downloads.

    Raises:
        UsageError: open_clip is not installed, or has no such model or weights.
        DataError: the weights cannot be had or do not fit.
    """
    encoder = f"open_clip:{name}"
    open_clip = require_package("open_clip", encoder)
    by_address = ":" in name
    if weights is not None and by_address:
        raise UsageError(f"--encoder {encoder} brings its own weights.", "Leave --encoder-weights out.")
    if weights is not None and not weights.is_file():
        raise DataError(f"--encoder-weights {weights} does not exist.", "Check the path.")
    model_name, tag = (name, None) if by_address else _checked(open_clip, name, need_tag=weights is None)
    known: Mapping[str, Any] = open_clip.get_pretrained_cfg(model_name, tag) if tag else {}
    with library_loading(encoder, OFFLINE if weights is None else f"{weights} must hold the whole model."):
        model = open_clip.create_model(
            model_name,
            pretrained=tag if weights is None else str(weights),
            # Weights that were trained with QuickGELU give other features with GELU.
            force_quick_gelu=bool(known.get("quick_gelu", False)),
            require_pretrained=True,
            weights_only=True,
        )
    config = dict(open_clip.get_model_preprocess_cfg(model))
    config |= {key: known[key] for key in OF_WEIGHTS if known.get(key)}
    model.eval()

    def embed_texts(texts: Sequence[str]) -> tuple[np.ndarray, float]:
        with library_loading(f"the tokenizer of {encoder}", ""), torch.no_grad():
            tokens = open_clip.get_tokenizer(model_name)(list(texts))
            embeddings = model.encode_text(tokens, normalize=True)
        return embeddings.float().numpy(), float(model.logit_scale.detach().exp())

    return Encoder(
        encoder,
        ImageTower(model.visual),
        _preprocessing(encoder, config),
        package_version("open_clip_torch"),
        embed_texts,
    )


def _checked(open_clip: Any, name: str, *, need_tag: bool) -> tuple[str, str | None]:
    """(model, weights) of a name."""
    model, _, tag = name.partition("/")
    if model not in open_clip.list_models():
        raise UsageError(
            f"open_clip has no model {model}: {suggest(model, open_clip.list_models())}",
            "open_clip.list_pretrained() in Python lists all.",
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags and (tag or need_tag or tags):
        shown = f"there is {examples(tags, 20)}" if tags else "there is none"
        wrong = f"--encoder open_clip:{name} names no weights that open_clip has for {model}"
        example = (
            f"Such as open_clip:{model}/{tags[0]}"
            if tags
            else "Name a file: --encoder-weights FILE.safetensors"
        )
        raise UsageError(f"{wrong}: {shown}.", example)
    return model, tag or None


def _preprocessing(encoder: str, config: Mapping[str, Any]) -> Preprocessing:
    """What open_clip's own transform for evaluation does."""
    height, width = (config["size"],) * 2 if isinstance(config["size"], int) else config["size"]
    if config["resize_mode"] not in ("shortest", "squash") or height != width:
        raise UsageError(
            f"--encoder {encoder} takes images in a form that is not supported.", "Name another one."
        )
    return Preprocessing(
        (height, width),
        (height, width) if config["resize_mode"] == "squash" else (height,),
        "bilinear" if config["interpolation"] == "bilinear" else "bicubic",  # "random" is of training
        tuple(config["mean"]),
        tuple(config["std"]),
    )
