"""``warmup/predictions.parquet``: what models of the given labels say about every sample of the pool."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from metaselect.run.artefacts import WARMUP, WARMUP_PREDICTIONS
from metaselect.run.layout import Run
from metaselect.run.tables import fixed_lists, read_parquet, rows_of_lists, write_parquet


class PoolPredictions(NamedTuple):
    """Predictions for the pool, in its order, on the CPU.

    Attributes:
        probs: (n, K) softmax of the model that `reweight` starts from, in eval mode. It was trained on most of these
            labels.
        out_of_fold: (n, K) softmax of a model that was trained without the fold of the sample; None without folds.
        neighbours: (n, K) the share of the nearest other samples that have each given label, in the space of the last
            layer's input of a model that was trained on none of these labels; None without folds.
        wrong_events: (n,) share of the epochs in which the prediction was not the given label.
    """

    probs: torch.Tensor
    out_of_fold: torch.Tensor | None
    neighbours: torch.Tensor | None
    wrong_events: torch.Tensor

    @property
    def held_out(self) -> torch.Tensor:
        """(n, K) ``out_of_fold``, or ``probs`` where the warm-up had no folds."""
        return self.probs if self.out_of_fold is None else self.out_of_fold

    def label_probs(self, labels: np.ndarray) -> np.ndarray:
        """(n,) the probability of each label ((n,) int64), by ``held_out``."""
        probs: np.ndarray = self.held_out.numpy()[np.arange(len(labels)), labels]
        return probs


def warmup_predictions_input(run: Run) -> tuple[str, ...]:
    """The path of the table below the run, as an input of a stage; empty where the warm-up made none."""
    made = WARMUP_PREDICTIONS.within() in run.stage(WARMUP.name()).require().outputs
    return (WARMUP_PREDICTIONS.path(),) if made else ()


def write_pool_predictions(path: Path, sample_ids: Sequence[str], predictions: PoolPredictions) -> None:
    """Write the table, atomically."""
    classes = predictions.probs.shape[1]
    columns = {"sample_id": pa.array(sample_ids, pa.string())}
    for name in ("probs", "out_of_fold", "neighbours"):
        values: torch.Tensor | None = getattr(predictions, name)
        if values is None:
            columns[name] = pa.nulls(len(sample_ids), pa.list_(pa.float32(), classes))
        else:
            columns[name] = fixed_lists(values.float().cpu().numpy())
    columns["wrong_events"] = pa.array(predictions.wrong_events.float().cpu().numpy())
    write_parquet(path, WARMUP_PREDICTIONS, columns)


def pool_predictions(run: Run) -> PoolPredictions | None:
    """The warm-up's predictions; None where an earlier version of the program, which made none, did it.

    Raises:
        ArtefactError: there was no warm-up, or the file is damaged.
    """
    if not warmup_predictions_input(run):
        return None
    run.stage(WARMUP.name()).verified(WARMUP_PREDICTIONS.path())
    table = read_parquet(run, WARMUP_PREDICTIONS, WARMUP_PREDICTIONS.columns[1:])

    def matrix(name: str) -> torch.Tensor | None:
        column = table[name]
        return None if column.null_count else torch.from_numpy(rows_of_lists(column))

    probs = matrix("probs")
    assert probs is not None  # they are always there
    events = torch.from_numpy(table["wrong_events"].to_numpy().copy())
    return PoolPredictions(probs, matrix("out_of_fold"), matrix("neighbours"), events)
