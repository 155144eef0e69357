"""One pass of a checkpoint over the pool: last-layer factors, or projected gradients of sampled layers; their files.

A file carries the recipe it was made by, so that a later round, or the same command after an interruption, takes what
is there already.
"""

import json
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from metaselect.batches import Batches
from metaselect.errors import UsageError
from metaselect.gradients import full_precision
from metaselect.layer_gradients import (
    SampledGradients,
    draw_layers,
    layer_energies,
    other_layers,
)
from metaselect.models import last_linear
from metaselect.projections import projection
from metaselect.records import Json, Reporter
from metaselect.run.files import write_atomically
from metaselect.selection import Gradients

FEATURE_BATCH, FEATURE_PIXELS = 500, 2**21  # at most, of a batch without a backward pass
GRADIENT_BATCH, GRADIENT_PIXELS = 256, 2**18  # of one with a backward pass, whose activations stay in memory
RECIPE = b"metaselect.recipe"


class Factors(NamedTuple):
    """Factors of G_j = (softmax(z_j) - onehot(y_j)) x_j^T at one checkpoint, without the label.

    Attributes:
        probs: (n, K) float32, softmax(z_j).
        hidden: (n, d) float32, x_j.
    """

    probs: torch.Tensor
    hidden: torch.Tensor


class GradientSettings(Protocol):
    """What a selector says of the gradients that it wants; see ``selection.gbc``."""

    draws: int
    width: int
    sample: int
    gradient: str


def last_layer_factors(model: nn.Module, batches: Batches, report: Reporter, what: str) -> Factors:
    """Run the model in eval mode, without augmentation, over the whole pool.

    Source: Wu et al. 2023 (arXiv:2302.04418), Eq. 11 and 12. Only forward passes are needed, and labels play no
    part in them.

    Args:
        model: on the batches' device.
        batches: n samples.
        report: shows progress.
        what: a word for the progress line.
    """
    model.eval()
    caught: list[torch.Tensor] = []
    hook = last_linear(model).register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    size = _batch_size(batches, FEATURE_PIXELS, FEATURE_BATCH)
    chunks = torch.split(torch.arange(len(batches)), size)
    factors: Factors | None = None
    try:
        with (
            torch.no_grad(),
            report.track(len(batches), what, "samples") as advance,
        ):
            for ids, batch in batches.stream(chunks):
                probs = full_precision(model(batch.inputs)).softmax(1).cpu()
                hidden = caught.pop().float().cpu()
                if factors is None:
                    n = len(batches)
                    factors = Factors(torch.empty(n, probs.shape[1]), torch.empty(n, hidden.shape[1]))
                factors.probs[ids], factors.hidden[ids] = probs, hidden
                advance(len(ids))
    finally:
        hook.remove()
    assert factors is not None  # a pool is never empty
    return factors


def gradient_features(
    model: nn.Module,
    batches: Batches,
    method: GradientSettings,
    generator: torch.Generator,
    report: Reporter,
    what: str,
) -> tuple[Gradients, dict[str, Json]]:
    """Projected gradients of layers that are drawn once for all samples; and which layers those are.

    Args:
        model: on the batches' device.
        batches: n samples.
        method: how many layers, numbers and samples, and which part of the gradient.
        generator: on the CPU; of the sample, the layers and the projections.
        report: shows progress.
        what: a word for the progress line.

    Raises:
        UsageError: the model has no layer that can be sampled.
    """
    model.eval()
    n = len(batches)
    size = _batch_size(batches, GRADIENT_PIXELS, GRADIENT_BATCH)
    some = torch.randperm(n, generator=generator)[: method.sample].sort().values
    energies = layer_energies(
        model, (batch for _, batch in batches.stream(torch.split(some, size))), method.gradient
    )
    if not energies:
        raise UsageError(
            "This model has no linear or convolutional layer that can be sampled.", "Use --method rbc."
        )
    draws = draw_layers(energies, method.draws, generator)
    layers = dict(model.named_modules())
    projections = [
        projection(layers[draw.name], method.width * draw.times // method.draws, generator) for draw in draws
    ]
    sampled = SampledGradients(model, draws, projections, method.gradient)
    found = Gradients(torch.empty(n), torch.empty(n, sampled.width, dtype=torch.float16))
    with report.track(n, what, "samples") as advance:
        for ids, batch in batches.stream(torch.split(torch.arange(n), size)):
            rows = sampled(batch)
            norms = rows.norm(dim=1)
            found.norms[ids] = norms.cpu().float()
            found.directions[ids] = rows.mul_((1 / norms.clamp(min=1e-30))[:, None]).half().cpu()
            advance(len(ids))
    drawn: list[Json] = [{"layer": d.name, "draws": d.times, "scale": round(d.scale, 6)} for d in draws]
    unable: list[Json] = [*other_layers(model, energies)]
    return found, {"sampled_layers": drawn, "width": sampled.width, "layers_without_gradients": unable}


def _batch_size(batches: Batches, pixels: int, most: int) -> int:
    """Samples of a batch: at most ``most``, and fewer where they are large; at least 8."""
    return min(max(pixels // batches.raw[0].numel(), 8), most)


Recipe: TypeAlias = dict[str, Json]
"""What a file of features was made from, and what was found on the way."""


def write_factors(path: Path, sample_ids: list[str], factors: Factors, recipe: Recipe) -> None:
    """Write sample_id, probs and hidden as Parquet, atomically."""
    columns = {"probs": _fixed_list(factors.probs), "hidden": _fixed_list(factors.hidden)}
    _write(path, sample_ids, columns, recipe)


def write_gradients(path: Path, sample_ids: list[str], gradients: Gradients, recipe: Recipe) -> None:
    """Write sample_id, norm and direction as Parquet, atomically."""
    columns = {"norm": pa.array(gradients.norms.numpy()), "direction": _fixed_list(gradients.directions)}
    _write(path, sample_ids, columns, recipe)


def read_factors(path: Path) -> Factors:
    """The factors that ``write_factors`` wrote."""
    table = pq.read_table(path, columns=["probs", "hidden"])
    return Factors(_matrix(table["probs"]), _matrix(table["hidden"]))


def read_gradients(path: Path) -> Gradients:
    """The gradients that ``write_gradients`` wrote."""
    table = pq.read_table(path, columns=["norm", "direction"])
    return Gradients(torch.from_numpy(table["norm"].to_numpy().copy()), _matrix(table["direction"]))


def recipe_of(path: Path) -> Recipe:
    """The recipe that a file of features carries; empty where it carries none."""
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    recipe: Recipe = json.loads(metadata.get(RECIPE, b"{}"))
    return recipe


def _write(path: Path, sample_ids: list[str], columns: dict[str, pa.Array], recipe: Recipe) -> None:
    table = pa.table({"sample_id": pa.array(sample_ids, pa.string()), **columns})
    table = table.replace_schema_metadata({RECIPE: json.dumps(recipe, sort_keys=True)})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def _fixed_list(values: torch.Tensor) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.numpy().reshape(-1)), values.shape[1])


def _matrix(column: pa.ChunkedArray) -> torch.Tensor:
    width = column.type.list_size
    out = np.empty((len(column), width), column.type.value_type.to_pandas_dtype())
    at = 0
    for chunk in column.chunks:
        out[at : at + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        at += len(chunk)
    return torch.from_numpy(out)
