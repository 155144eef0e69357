"""Parquet files of features, each with the recipe (settings and input hashes) that it was computed by.

A later round, or the same command after an interruption, reuses a file whose recipe equals its own.
"""

import json
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from metaselect.records import Json
from metaselect.run.artefacts import FACTORS, GRADIENTS
from metaselect.run.schema import Artefact
from metaselect.run.tables import check_parquet, write_parquet
from metaselect.selection.base import Gradients

RECIPE = b"metaselect.recipe"
REMEDY = "Recompute it: run metaselect select again with --force."

Recipe: TypeAlias = dict[str, Json]
"""Settings and input hashes that features were computed by; under "found" the layers that were drawn."""


class LastLayerFactors(NamedTuple):
    """Factors of the last layer's gradient G_j = (softmax(z_j) - onehot(y_j)) x_j^T at one checkpoint, without labels.

    Attributes:
        probs: (n, K) float32, softmax(z_j) with logits z_j.
        hidden: (n, d) float32, x_j, the input of the last linear layer.
    """

    probs: torch.Tensor
    hidden: torch.Tensor


def write_factors(path: Path, sample_ids: list[str], factors: LastLayerFactors, recipe: Recipe) -> None:
    """Write sample_id, probs and hidden as Parquet, atomically."""
    columns = {"probs": _fixed_list(factors.probs), "hidden": _fixed_list(factors.hidden)}
    _write(path, FACTORS, sample_ids, columns, recipe)


def write_gradients(path: Path, sample_ids: list[str], gradients: Gradients, recipe: Recipe) -> None:
    """Write sample_id, norm and direction as Parquet, atomically."""
    columns = {"norm": pa.array(gradients.norms.numpy()), "direction": _fixed_list(gradients.directions)}
    _write(path, GRADIENTS, sample_ids, columns, recipe)


def read_factors(path: Path) -> LastLayerFactors:
    """The factors that ``write_factors`` wrote."""
    check_parquet(path, FACTORS, REMEDY)
    table = pq.read_table(path, columns=["probs", "hidden"])
    return LastLayerFactors(_matrix(table["probs"]), _matrix(table["hidden"]))


def read_gradients(path: Path) -> Gradients:
    """The gradients that ``write_gradients`` wrote."""
    check_parquet(path, GRADIENTS, REMEDY)
    table = pq.read_table(path, columns=["norm", "direction"])
    return Gradients(torch.from_numpy(table["norm"].to_numpy().copy()), _matrix(table["direction"]))


def read_recipe(path: Path) -> Recipe:
    """The recipe in the metadata of a file of features; empty if there is none."""
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    recipe: Recipe = json.loads(metadata.get(RECIPE, b"{}"))
    return recipe


def _write(
    path: Path, artefact: Artefact, sample_ids: list[str], columns: dict[str, pa.Array], recipe: Recipe
) -> None:
    table = {"sample_id": pa.array(sample_ids, pa.string()), **columns}
    write_parquet(path, artefact, table, {RECIPE: json.dumps(recipe, sort_keys=True)})


def _fixed_list(values: torch.Tensor) -> pa.FixedSizeListArray:
    """A list column with the rows of ``values`` (n, d)."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.numpy().reshape(-1)), values.shape[1])


def _matrix(column: pa.ChunkedArray) -> torch.Tensor:
    """(n, d) the rows of a column that ``_fixed_list`` made."""
    width = column.type.list_size
    out = np.empty((len(column), width), column.type.value_type.to_pandas_dtype())
    at = 0
    for chunk in column.chunks:
        out[at : at + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        at += len(chunk)
    return torch.from_numpy(out)
