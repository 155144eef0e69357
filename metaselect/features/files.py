"""Parquet files of features, each with the recipe (settings and input hashes) that it was computed by.

A later round, or the same command after an interruption, reuses a file whose recipe equals its own.
"""

import json
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from metaselect.records import Json
from metaselect.run.artefacts import FACTORS, GRADIENTS
from metaselect.run.schema import Artefact
from metaselect.run.tables import check_parquet, fixed_lists, rows_of_lists, write_parquet
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
    columns = {"probs": fixed_lists(factors.probs.numpy()), "hidden": fixed_lists(factors.hidden.numpy())}
    _write(path, FACTORS, sample_ids, columns, recipe)


def write_gradients(path: Path, sample_ids: list[str], gradients: Gradients, recipe: Recipe) -> None:
    """Write sample_id, norm and direction as Parquet, atomically."""
    columns = {
        "norm": pa.array(gradients.norms.numpy()),
        "direction": fixed_lists(gradients.directions.numpy()),
    }
    _write(path, GRADIENTS, sample_ids, columns, recipe)


def read_factors(path: Path) -> LastLayerFactors:
    """The factors that ``write_factors`` wrote."""
    check_parquet(path, FACTORS, REMEDY)
    table = pq.read_table(path, columns=["probs", "hidden"])
    return LastLayerFactors(*(torch.from_numpy(rows_of_lists(table[name])) for name in ("probs", "hidden")))


def read_gradients(path: Path) -> Gradients:
    """The gradients that ``write_gradients`` wrote."""
    check_parquet(path, GRADIENTS, REMEDY)
    table = pq.read_table(path, columns=["norm", "direction"])
    directions = torch.from_numpy(rows_of_lists(table["direction"]))
    return Gradients(torch.from_numpy(table["norm"].to_numpy().copy()), directions)


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
