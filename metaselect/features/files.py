"""Parquet files of features, each with the recipe (settings and input hashes) that it was computed by.

A later round, or the same command after an interruption, reuses a file whose recipe equals its own.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from metaselect.data.readers.columnar import READ_BUFFER
from metaselect.records import Json
from metaselect.run.artefacts import FACTORS, GRADIENTS
from metaselect.run.schema import Artefact
from metaselect.run.tables import check_parquet, fixed_lists, rows_of_lists, write_parquet
from metaselect.selection.base import Gradients

RECIPE = b"metaselect.recipe"
READ_ROWS = 8192  # of a file of features, that are decoded at a time
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
    return LastLayerFactors(*_matrices(path, ("probs", "hidden")))


def read_gradients(path: Path) -> Gradients:
    """The gradients that ``write_gradients`` wrote."""
    check_parquet(path, GRADIENTS, REMEDY)
    norms = pq.read_table(path, columns=["norm"])["norm"]
    return Gradients(torch.from_numpy(norms.to_numpy().copy()), *_matrices(path, ("direction",)))


def _matrices(path: Path, names: Sequence[str]) -> list[torch.Tensor]:
    """The rows of list columns, (n, d) each; some are decoded at a time, which takes three times their memory."""
    with pq.ParquetFile(path, buffer_size=READ_BUFFER) as parquet:
        kinds = [parquet.schema_arrow.field(name).type for name in names]
        found = [
            np.empty((parquet.metadata.num_rows, kind.list_size), kind.value_type.to_pandas_dtype())
            for kind in kinds
        ]
        at = 0
        for batch in parquet.iter_batches(READ_ROWS, columns=list(names), use_threads=False):
            for name, rows in zip(names, found, strict=True):
                rows[at : at + len(batch)] = rows_of_lists(pa.chunked_array([batch.column(name)]))
            at += len(batch)
    return [torch.from_numpy(rows) for rows in found]


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
