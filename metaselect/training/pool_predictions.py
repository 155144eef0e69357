"""``warmup/predictions.parquet``: what models of the given labels say about every sample of the pool."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from metaselect.run.artefacts import FOLD_MODEL, WARMUP, WARMUP_PREDICTIONS
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
        fold: (n,) int64 from 0, the fold of the sample, of networks that were trained without it; None where there are
            none.
    """

    probs: torch.Tensor
    out_of_fold: torch.Tensor | None
    neighbours: torch.Tensor | None
    wrong_events: torch.Tensor
    fold: torch.Tensor | None = None

    @property
    def held_out(self) -> torch.Tensor:
        """(n, K) ``out_of_fold``, or ``probs`` where the warm-up had no folds."""
        return self.probs if self.out_of_fold is None else self.out_of_fold

    def label_probs(self, labels: np.ndarray) -> np.ndarray:
        """(n,) the probability of each label ((n,) int64), by ``held_out``; meaningless where there is none (-1)."""
        probs: np.ndarray = self.held_out.numpy()[np.arange(len(labels)), labels]
        return probs


def warmup_predictions_input(run: Run) -> tuple[str, ...]:
    """The path of the table below the run, as an input of a stage; empty where the warm-up made none."""
    made = WARMUP_PREDICTIONS.within() in run.stage(WARMUP.name()).require().outputs
    return (WARMUP_PREDICTIONS.path(),) if made else ()


def fold_model_inputs(run: Run) -> tuple[str, ...]:
    """The paths of the networks that were trained without a fold, by fold; empty where there are none."""
    outputs = run.stage(WARMUP.name()).require().outputs
    paths: list[str] = []
    while FOLD_MODEL.within(number=len(paths) + 1) in outputs:
        paths.append(FOLD_MODEL.path(number=len(paths) + 1))
    return tuple(paths)


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
    fold = predictions.fold
    columns["fold"] = (
        pa.nulls(len(sample_ids), pa.int32()) if fold is None else pa.array(fold.numpy(), pa.int32())
    )
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
    fold = None
    if not table["fold"].null_count:
        fold = torch.from_numpy(table["fold"].to_numpy().astype(np.int64))
    return PoolPredictions(probs, matrix("out_of_fold"), matrix("neighbours"), events, fold)
