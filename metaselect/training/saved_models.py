"""Finished models on disk: safetensors, with a description that lets anybody load them without MetaSelect."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from metaselect.data.store import Dataset
from metaselect.errors import DataError
from metaselect.models.build import build_model, input_channels
from metaselect.records import Json
from metaselect.run.artefacts import WARMUP, WARMUP_MODEL
from metaselect.run.files import read_json, write_atomically
from metaselect.run.layout import Run
from metaselect.training.fine_tuning import FineTuning

LINEAR = "linear"
"""The name of the model that is solved exactly."""


class WarmupModel(NamedTuple):
    """What ``warmup/model.json`` says.

    Attributes:
        architecture: a model's name.
        channels: that it takes.
        checkpoints: epochs that were kept.
        start_epoch: the one that `reweight` starts from.
        weight_decay: of a model that was solved exactly; else None.
        fine_tuning: of a model that was pre-trained; else None.
    """

    architecture: str
    channels: int
    checkpoints: tuple[int, ...]
    start_epoch: int
    weight_decay: float | None
    fine_tuning: FineTuning | None


def warmup_model(run: Run) -> WarmupModel:
    """The warm-up's model.

    Raises:
        ArtefactError: there was no warm-up, or its files are damaged.
    """
    run.stage(WARMUP.name()).verified(WARMUP_MODEL.path())
    raw = read_json(run.path(WARMUP_MODEL.path()), run.stage(WARMUP.name()).recompute_hint)
    pretrained = raw.get("pretrained")
    return WarmupModel(
        raw["architecture"],
        raw["input_channels"],
        tuple(raw["checkpoints"]),
        raw["start_epoch"],
        raw.get("weight_decay"),
        pretrained and FineTuning(pretrained["finetune"], pretrained["body_rate"]),
    )


def recorded_model(run: Run, name: str, shape: Sequence[int], classes: int, *, seed: int = 0) -> nn.Module:
    """``build_model`` for a name that a file of the run gives: code runs only where the command line says so.

    Raises:
        UsageError: the name is of somebody's code, ``package.module:factory``, and the command did not name it.
    """
    run.require_trust(name)
    return build_model(name, shape, classes, seed=seed)


def save_model(model: nn.Module, path: Path) -> None:
    """Write the model's parameters and buffers as safetensors, on the CPU, atomically."""
    save_tensors(model.state_dict(), path)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors, on the CPU, atomically."""
    # Cloned, because safetensors refuses layers that share a tensor.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomically(path, lambda temporary: save_file(plain, temporary))


def model_description(model: str, pool: Dataset) -> dict[str, Json]:
    """What somebody needs to load the model without MetaSelect."""
    return {
        "architecture": model,
        "input_shape": list(pool.inputs.shape[1:]),
        "input_channels": input_channels(model, pool.inputs.shape[1:]),
        "classes": list(pool.classes),
        "preprocess": pool.preprocess.as_json(),
    }


def load_weights(model: nn.Module, path: Path) -> None:
    """Put a safetensors file into a model.

    Raises:
        DataError: not safetensors, or tensors that are not the model's.
    """
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{path} does not fit the model: {reason}", "Give weights of the same --model."
        ) from None
