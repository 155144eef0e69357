"""What an evaluation takes: memory by its sizes, and for --dry-run time from some samples of each model."""

import time
from dataclasses import replace
from pathlib import Path

import torch

from metaselect.data.listing import list_samples, open_source
from metaselect.data.readers.base import BadSamples
from metaselect.data.store import Dataset
from metaselect.data.target import Target
from metaselect.data_options import EvaluateOptions
from metaselect.features.near_duplicates import (
    comparable,
    distinct_rows,
    near_duplicates_between,
    search_bytes,
)
from metaselect.memory import Need, predicted, require_memory
from metaselect.records import Json
from metaselect.stages.evaluate.candidates import predict_with
from metaselect.stages.evaluate.judging import EvaluationSetup
from metaselect.stages.ingest_cost import Probe, probe
from metaselect.stages.select.similar import averaged_block

SAMPLE_BYTES = (
    600  # of memory for a sample of the pool: its id and label, the tables of models, one after another
)
TABLE_BYTES = 40  # of disk for a sample of the test set, besides its id, and as much for each model
TABLE_SECONDS = 15e-6  # for a sample of the pool, and for a tested one and each model, in the tables
PROBE = 1024  # samples of the pool that each model predicts
COMPARED = 256  # of these, that are compared with all of them
HINT = "A smaller test set takes less."


def require_room(pool: Dataset, device: torch.device) -> None:
    """Check that an evaluation fits --max-memory, as far as it depends on the pool.

    Raises:
        ResourceError: it does not.
    """
    require_memory(_need(pool, 0, 0, device), f"An evaluation beside a pool of {len(pool):,} samples", HINT)


def needs(test: Path | None, bought: int, setup: EvaluationSetup) -> dict[str, Json]:
    """Samples, memory, disk and seconds of an evaluation; nothing is written.

    Args:
        test: the test set; None: the bought labels.
        bought: their number.
        setup: what is evaluated.
    """
    count, decoded = bought, Probe(0, 0.0)
    started = time.monotonic()
    if test is not None:
        count, decoded = _test_samples(test, setup.options, setup.pool)
    listed = time.monotonic() - started
    judged = _seconds_of_models(setup) * count if test is not None else 0.0
    compared = _seconds_of_comparison(setup, count) if test is not None else 0.0
    disk = count * TABLE_BYTES * (1 + len(setup.models))
    memory = predicted(_need(setup.pool, count, decoded.row_bytes, setup.device), disk)
    tables = TABLE_SECONDS * (len(setup.pool) + count * len(setup.models))
    seconds = listed + tables + count * decoded.seconds + judged + compared
    return {"samples": count, "models": len(setup.models), **memory, "seconds": round(seconds, 1)}


def _need(pool: Dataset, count: int, row_bytes: int, device: torch.device) -> Need:
    n, inputs = len(pool) + count, pool.inputs
    search = search_bytes((n, *inputs.shape[1:]), device, averaged_block(inputs))
    return Need(n * SAMPLE_BYTES + search, inputs.nbytes + count * row_bytes)


def _test_samples(test: Path, options: EvaluateOptions, pool: Dataset) -> tuple[int, Probe]:
    """The number of a test set's samples, and what one of them takes to be read."""
    bad, stored = BadSamples(options.on_bad_sample), pool.preprocess
    source = open_source(test, options)
    listing = list_samples(source, bad, pool.classes)
    source.take(stored.task)
    listing = listing.joined()
    width = pool.inputs.shape[1] if pool.inputs.ndim == 2 else 0
    target = Target(stored.size, stored.mode, width, stored.pixel_range, stored.fit)
    return int(listing.keep.sum()), probe(listing, lambda _: target, bad)


def _seconds_of_models(setup: EvaluationSetup) -> float:
    """Seconds that all models take to predict a sample."""
    pool, count = setup.pool, min(PROBE, len(setup.pool))
    part = replace(
        pool, sample_ids=pool.sample_ids[:count], labels=pool.labels[:count], inputs=pool.inputs[:count]
    )
    seconds = 0.0
    for candidate in setup.models:
        predict_with(setup.run, candidate, part, setup.device)  # once before it counts: first allocations
        started = time.monotonic()
        predict_with(setup.run, candidate, part, setup.device)
        seconds += time.monotonic() - started
    return seconds / count


def _seconds_of_comparison(setup: EvaluationSetup, count: int) -> float:
    """Seconds of the search for near duplicates between so many samples and the pool."""
    inputs, total = setup.pool.inputs, len(setup.pool) + count
    some = inputs[:PROBE]
    few = some[:COMPARED]
    compared = comparable(total, inputs.shape, setup.device)
    started = time.monotonic()
    if compared:
        near_duplicates_between(few, some, setup.device, block=averaged_block(inputs))
    else:
        distinct_rows((few, some), averaged_block(inputs))
    growth = total / (len(few) + len(some))
    return (time.monotonic() - started) * growth * (count / len(few) if compared else 1)
