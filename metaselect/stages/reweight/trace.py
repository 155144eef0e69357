"""What each bought label did to each weight, as files of the re-weighting: `reweight --trace`.

The files are written while the method trains, or after it, and change nothing in it.
"""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from metaselect.errors import ArtefactError, UsageError
from metaselect.features.extract import last_layer_factors
from metaselect.metagrad.last_layer_products import GradientFactors, gradient_factors, last_layer_products
from metaselect.models.head import head_of
from metaselect.records import Reporter, SilentReporter
from metaselect.registry import TRACED
from metaselect.reweighting.base import PRODUCTS
from metaselect.reweighting.label_effects import LabelEffects
from metaselect.run.evaluation_artefacts import TRACE_CHANGES, TRACE_PRODUCTS
from metaselect.run.tables import fixed_lists, write_parquet
from metaselect.stages.freshness import AnnotationView
from metaselect.stages.reweight.setup import ReweightSetup
from metaselect.stages.status import buying_step
from metaselect.training.batches import Batches

MOST_EPOCHS = 10  # that products are kept of
MOST_BYTES = 2**30  # of all numbers of a trace
HALF, SINGLE = 2, 4  # bytes of a product, and of a change
GROUP_BYTES = 2**22  # rows of a table that are read together


def require_trace(setup: ReweightSetup) -> None:
    """Check that there is something to trace, and room for it.

    Raises:
        UsageError: the method has no trace, or it would be too large.
        ArtefactError: there are no bought labels.
    """
    method, run = setup.options.method, setup.run
    if not setup.method.trace:
        raise UsageError(
            f"--trace is for methods whose weights follow from bought labels: {', '.join(TRACED)}; "
            f"those of {method} do not.",
            "Leave out --trace, or take one of these methods.",
        )
    if not len(setup.meta_set.bought):
        raise ArtefactError(
            f"--trace keeps what bought labels do to the weights, and {run.root} has none.",
            f"First run: {buying_step(run, AnnotationView.read(run))}",
        )
    if _bytes_of_one(setup) > MOST_BYTES:
        n, m = len(setup.pool), len(setup.meta_set.bought)
        raise UsageError(
            f"--trace would write {_bytes_of_one(setup) / 2**30:.1f} GiB for {n:,} samples and {m:,} bought labels; "
            f"the limit is {MOST_BYTES / 2**30:g} GiB.",
            "Leave out --trace, or trace a run of a part of the pool (metaselect ingest --limit).",
        )


def trace_mib(setup: ReweightSetup) -> float:
    """The size of the numbers of a trace, at most, MiB."""
    epochs = setup.resolved.config.epochs
    tables = len(_traced_epochs(setup, epochs)) if setup.method.trace == PRODUCTS else 1
    return round(tables * _bytes_of_one(setup) / 2**20, 1)


class Trace:
    """The products of last-layer gradients after some of the epochs; nothing of a method that has no products.

    Args:
        setup: of the re-weighting.
        folder: takes the files.
    """

    def __init__(self, setup: ReweightSetup, folder: Path) -> None:
        self.setup, self.folder = setup, folder

    def after_epoch(self, model: nn.Module, batches: Batches, epoch: int, epochs: int) -> None:
        """Write the products if the epoch is one that is kept; ``batches`` is the pool with bought labels in place."""
        setup = self.setup
        if setup.method.trace != PRODUCTS or epoch not in _traced_epochs(setup, epochs):
            return
        factors = last_layer_factors(model, batches, SilentReporter(), "")
        samples = gradient_factors(factors.hidden, factors.probs, torch.from_numpy(setup.labels))
        bought = torch.from_numpy(setup.meta_set.bought)
        of_bought = GradientFactors(*(values[bought] for values in samples))
        has_bias = head_of(model).bias is not None
        products, scales = [], []
        for block in last_layer_products(samples, of_bought, bias=has_bias):
            scale = block.abs().amax(1)  # of the sample's largest product, which becomes 1
            products.append((block / scale.clamp(min=torch.finfo(scale.dtype).tiny)[:, None]).half().numpy())
            scales.append(scale.numpy())
        columns = {
            "sample_id": pa.array(setup.pool.sample_ids, pa.string()),
            "products": fixed_lists(np.concatenate(products)),
            "scale": pa.array(np.concatenate(scales), pa.float32()),
        }
        path = self.folder / TRACE_PRODUCTS.within(epoch=epoch)
        write_parquet(path, TRACE_PRODUCTS, columns, row_group_size=_rows_together(setup, HALF))


def write_changes(setup: ReweightSetup, effects: LabelEffects, folder: Path, report: Reporter) -> None:
    """Write the weights, and how much they change with each bought label, of a method that is fitted without it.

    Args:
        setup: of the re-weighting.
        effects: of its run.
        folder: takes the file.
        report: shows progress.
    """
    n, m = len(setup.pool), len(setup.meta_set.bought)
    changes = np.empty((n, m), np.float32)
    with report.track(m, "trace", "bought labels") as advance:
        for place, change in enumerate(effects.changes):
            changes[:, place] = change.cpu().numpy()
            advance(1)
    columns = {
        "sample_id": pa.array(setup.pool.sample_ids, pa.string()),
        "weight": pa.array(effects.weights.float().cpu().numpy(), pa.float32()),
        "changes": fixed_lists(changes),
    }
    path = folder / TRACE_CHANGES.within()
    write_parquet(path, TRACE_CHANGES, columns, row_group_size=_rows_together(setup, SINGLE))


def evenly_spread(epochs: int, count: int) -> list[int]:
    """``count`` of the epochs from 1, evenly spread, the last among them; all where there are fewer."""
    count = min(count, epochs)
    return [math.ceil(place * epochs / count) for place in range(1, count + 1)]


def _traced_epochs(setup: ReweightSetup, epochs: int) -> list[int]:
    """The epochs of which products are kept: ``MOST_EPOCHS``, or as many as there is room for."""
    return evenly_spread(epochs, min(MOST_EPOCHS, MOST_BYTES // _bytes_of_one(setup)))


def _bytes_of_one(setup: ReweightSetup) -> int:
    """Bytes of the numbers of one table."""
    size = HALF if setup.method.trace == PRODUCTS else SINGLE
    return size * len(setup.pool) * len(setup.meta_set.bought)


def _rows_together(setup: ReweightSetup, size: int) -> int:
    return max(GROUP_BYTES // (size * len(setup.meta_set.bought)), 1)
