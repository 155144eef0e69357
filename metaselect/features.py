"""One pass of a checkpoint over the pool: the factors of every sample's last-layer gradient."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from metaselect.batches import Batches
from metaselect.gradients import full_precision
from metaselect.models import last_linear
from metaselect.records import Reporter
from metaselect.run.files import write_atomically

FEATURE_BATCH = 500


class Factors(NamedTuple):
    """Factors of G_j = (softmax(z_j) - onehot(y_j)) x_j^T at one checkpoint, without the label.

    Attributes:
        probs: (n, K) float32, softmax(z_j).
        hidden: (n, d) float32, x_j.
    """

    probs: torch.Tensor
    hidden: torch.Tensor


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
    chunks = torch.split(torch.arange(len(batches)), FEATURE_BATCH)
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


def write_factors(path: Path, sample_ids: list[str], factors: Factors) -> None:
    """Write sample_id, probs and hidden as Parquet, atomically."""
    columns = {
        "sample_id": pa.array(sample_ids, pa.string()),
        "probs": _fixed_list(factors.probs),
        "hidden": _fixed_list(factors.hidden),
    }
    write_atomically(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def read_factors(path: Path) -> Factors:
    """The factors that ``write_factors`` wrote."""
    table = pq.read_table(path, columns=["probs", "hidden"])
    return Factors(_matrix(table["probs"]), _matrix(table["hidden"]))


def _fixed_list(values: torch.Tensor) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.numpy().reshape(-1)), values.shape[1])


def _matrix(column: pa.ChunkedArray) -> torch.Tensor:
    width = column.type.list_size
    out = np.empty((len(column), width), np.float32)
    at = 0
    for chunk in column.chunks:
        out[at : at + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        at += len(chunk)
    return torch.from_numpy(out)
