"""The state of an unfinished training on disk: a safetensors file, replaced whole, never pickled."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from metaselect.reweighting.base import strip_prefix
from metaselect.run.files import write_atomically
from metaselect.training.loop import TrainState
from metaselect.training.threads import continue_with


def save_state(state: TrainState, history: Sequence[Any], path: Path) -> None:
    """Write everything that a resumed training needs, in one atomic step; ``history`` holds NamedTuples of numbers.

    It does not depend on the number of ranks, all of which have the same state.
    """
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for kind, value in state.optimiser.state.get(parameter, {}).items():
            if value is not None:  # SGD has no momentum for a parameter before its first step
                tensors[f"optimiser.{kind}.{name}"] = value
    tensors.update({f"method.{name}": value for name, value in state.method.state_dict().items()})
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {
        "epoch": str(state.epoch),
        "history": json.dumps([row._asdict() for row in history]),
        "threads": str(torch.get_num_threads()),
    }
    write_atomically(path, lambda temporary: save_file(plain, temporary, metadata=metadata))


def load_state(state: TrainState, path: Path) -> list[dict[str, Any]]:
    """Restore a saved state into one at its start; returns the rows of its history, empty if nothing was saved.

    Torch then uses as many threads as when it was saved, unless the user chose a number.
    """
    if not path.is_file():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata()
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return []  # not written here, since that is never half a file; starting again loses only time
    state.model.load_state_dict(strip_prefix(tensors, "model."))
    parameters = dict(state.model.named_parameters())
    for place, value in strip_prefix(tensors, "optimiser.").items():
        kind, _, name = place.partition(".")
        parameter = parameters[name]
        # Adam keeps its count of steps, a number without dimensions, on the CPU.
        state.optimiser.state[parameter][kind] = value.to(parameter.device) if value.dim() else value
    state.method.load_state_dict(strip_prefix(tensors, "method."))
    state.epoch = int(metadata["epoch"])
    continue_with(int(metadata["threads"]))
    rows: list[dict[str, Any]] = json.loads(metadata["history"])
    return rows
