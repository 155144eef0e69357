"""How long a round takes, for --dry-run, from probes on parts of the pool."""

import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf, log
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import nn

from metaselect.data.readers.external_features import read_external_features
from metaselect.data.store import Dataset
from metaselect.features.near_duplicates import LEAST_WIDTH, comparable, distinct_rows, similar_samples
from metaselect.models.head import head_of
from metaselect.options import SelectOptions
from metaselect.random import generator
from metaselect.ranks import alone
from metaselect.records import Json, Reporter, SilentReporter
from metaselect.run.layout import Run
from metaselect.run.stage import Work
from metaselect.selection.base import Selector, no_progress
from metaselect.selection.clustering.euclidean import MAX_FULL_BATCH_PRODUCTS
from metaselect.selection.clustering.representatives import clustered_rows, sketched_width
from metaselect.stages.select.choice import choose, pool_features
from metaselect.stages.select.round_plan import RoundPlan
from metaselect.training.saved_models import recorded_model, warmup_model

FIRST_PROBE = 128  # samples; each further probe has twice as many
LONGEST_PROBE = 2.0  # seconds, after which there is no further one
NEIGHBOURS_PROBE = 4096  # samples, among which the search for near duplicates is tried
LEAST_POWER, MOST_POWER = 1.0, 3.0  # of the number of samples, by which the time of a choice grows
MINI_BATCH_POWER = (
    0.5  # of K-means by mini-batches, which ends when they improve no more: 0.15 to 0.7 were measured
)


class RoundToProbe(NamedTuple):
    """A round that would be computed: the arguments of ``select``, resolved."""

    run: Run
    pool: Dataset
    method: Selector
    options: SelectOptions
    plan: RoundPlan
    epochs: tuple[int, ...]
    device: torch.device


class Measured(NamedTuple):
    """Seconds that the features of some samples and a choice among them took."""

    samples: int
    features: float
    choice: float


@alone()  # how long it takes decides how much is tried, which must not differ between ranks
def seconds(round_: RoundToProbe, report: Reporter) -> dict[str, Json]:
    """The seconds that the features and the choice will take, estimated from growing parts of the pool; and the search.

    None for a method that trains networks on images, of which no part takes a part of the time, and for a list.
    """
    n, size = len(round_.pool), _first_probe(round_)
    order = torch.randperm(n, generator=generator(round_.options.seed, "probe"))
    found: list[Measured] = []
    if "images" not in round_.method.required_features and round_.options.samples is None:
        _measure(round_, order[:size])  # once before it counts: imports and first allocations
        while (measured := _measure(round_, order[:size])) is not None:
            found.append(measured)
            size *= 2
            long = measured.features + measured.choice > LONGEST_PROBE
            if size > n // 2 or (long and len(found) >= _least_probes(round_)):
                break
    neighbours = _neighbours_seconds(round_)
    search: dict[str, Json] = {"seconds_neighbours": round(neighbours, 1)}
    if not found:
        return {"seconds_features": None, "seconds_choice": None, **search, "seconds": None}
    features, choice = extrapolated(found[-2:], n, by_line=_clusters(round_))
    if _by_mini_batches(round_):
        choice = found[-1].choice * (n / found[-1].samples) ** MINI_BATCH_POWER
    if round_.options.features:  # each probe has read the whole file
        features = found[-1].features
    choice *= _iterated_share(round_, found[-1].samples)
    total = features + neighbours + choice
    report.note(f"The round would take about {total:.0f} seconds, by a probe of {found[-1].samples} samples.")
    return {
        "seconds_features": round(features, 1),
        "seconds_choice": round(choice, 1),
        **search,
        "seconds": round(total, 1),
    }


def _neighbours_seconds(round_: RoundToProbe) -> float:
    """The seconds of the search for near duplicates, estimated from the same search among some of the samples."""
    pool, file = round_.pool, round_.options.features
    inputs = pool.inputs
    if file is not None:
        inputs = read_external_features(file, pool.sample_ids, len(pool.classes)).features
    if inputs.shape[1] == 0:
        return 0.0
    growth = len(pool) / min(len(pool), NEIGHBOURS_PROBE)
    compared = comparable(len(pool), inputs.shape, round_.device)
    started = time.monotonic()
    if compared:
        similar_samples(inputs[:NEIGHBOURS_PROBE], round_.device)
    else:
        distinct_rows((inputs[:NEIGHBOURS_PROBE],))
    return (time.monotonic() - started) * (growth**2 if compared else growth)


def _clusters(round_: RoundToProbe) -> bool:
    """Whether the method clusters the samples, into as many clusters in a probe as in the pool."""
    return hasattr(round_.method, "starts")


def _by_mini_batches(round_: RoundToProbe) -> bool:
    """Whether the method clusters the pool, and a probe of at most half of it, by mini-batches."""
    return _clusters(round_) and len(round_.pool) > 2 * _most_full_batch(round_)


def _most_full_batch(round_: RoundToProbe) -> float:
    """The number of samples up to which the method's K-means takes all of them in an iteration."""
    if hasattr(round_.method, "iterations"):
        return inf
    width = warmup_head(round_).in_features if round_.epochs else LEAST_WIDTH
    return MAX_FULL_BATCH_PRODUCTS // (round_.plan.budget * width)


def _first_probe(round_: RoundToProbe) -> int:
    """Samples of the first probe: enough for the clusters, and for mini-batches where the pool is clustered by them."""
    size = max(FIRST_PROBE, 2 * round_.plan.budget) if _clusters(round_) else FIRST_PROBE
    if _by_mini_batches(round_):
        size = max(size, int(_most_full_batch(round_)) + 1)
    return min(size, len(round_.pool))


def _least_probes(round_: RoundToProbe) -> int:
    """Probes, of which the last may be a long one: seeds take a time that depends on the number of clusters alone."""
    return 2 if _clusters(round_) and not _by_mini_batches(round_) else 1


def _iterated_share(round_: RoundToProbe, probed: int) -> float:
    """The part of all numbers of all rows that K-means iterates over in a large pool; 1 for a method without it.

    Args:
        round_: the round.
        probed: samples of the probe, whose rows may be sketches already.
    """
    n, clusters = len(round_.pool), round_.plan.budget
    width = gradient_width(round_)
    if not width:
        return 1.0
    narrower = sketched_width(n, clusters, width) / sketched_width(probed, clusters, width)
    return clustered_rows(n, clusters) / n * narrower


def gradient_width(round_: RoundToProbe) -> int:
    """Numbers of a gradient that the method clusters, of all checkpoints; 0 where it clusters none."""
    method = round_.method
    if not hasattr(method, "iterations") or not round_.epochs:
        return 0
    last = warmup_head(round_)
    with_probs = "probs" in method.required_features
    numbers = last.in_features * (last.out_features if with_probs else 1)
    return int(getattr(method, "width", numbers)) * len(round_.epochs)


def warmup_head(round_: RoundToProbe) -> nn.Linear:
    """The last layer of the warm-up's model."""
    pool, architecture = round_.pool, warmup_model(round_.run).architecture
    return head_of(recorded_model(round_.run, architecture, pool.inputs.shape[1:], len(pool.classes)))


def extrapolated(measured: Sequence[Measured], n: int, *, by_line: bool = False) -> tuple[float, float]:
    """Seconds of features and choice for n samples: a line through both measurements, and a power of their number.

    Args:
        measured: parts of the pool, growing.
        n: samples of all of it.
        by_line: the choice by a line too.
    """
    first, last = measured[0], measured[-1]
    if len(measured) == 1:
        return last.features * n / last.samples, last.choice * n / last.samples
    further = (n - last.samples) / (last.samples - first.samples)
    features = last.features + max(last.features - first.features, 0.0) * further
    if by_line:
        return features, last.choice + max(last.choice - first.choice, 0.0) * further
    power = log(max(last.choice, 1e-9) / max(first.choice, 1e-9)) / log(last.samples / first.samples)
    power = min(max(power, LEAST_POWER), MOST_POWER)
    return features, last.choice * (n / last.samples) ** power


def _measure(round_: RoundToProbe, ids: torch.Tensor) -> Measured | None:
    """The time of a round among these samples; None where none of them is free.

    It has its share of the budget, or, where that is a number of clusters, all of it.
    """
    ids = ids.sort().values
    pool, plan, options = round_.pool, round_.plan, round_.options
    position = torch.full((len(pool),), -1, dtype=torch.int64)
    position[ids] = torch.arange(len(ids))
    inside = position[plan.excluded] >= 0
    excluded = position[plan.excluded][inside]
    share = plan.budget if _clusters(round_) else max(round(plan.budget * len(ids) / len(pool)), 1)
    budget = min(share, len(ids) - len(excluded))
    if budget < 1:
        return None
    part = replace(
        pool,
        sample_ids=[pool.sample_ids[index] for index in ids.tolist()],
        labels=pool.labels[ids.numpy()],
        inputs=pool.inputs[ids.numpy()],
    )
    plan = plan._replace(excluded=excluded, labels=plan.labels[inside], budget=budget, control=0)
    with TemporaryDirectory() as folder:
        started = time.monotonic()
        features = pool_features(
            *(round_.run, pool if options.features else part, round_.method, options, round_.epochs),
            device=round_.device,
            work=Work(Path(folder), resumed=False),
            report=SilentReporter(),
            reuse=False,
        )
        featured = time.monotonic()
    if options.features:
        features = features.subset(ids)
    choose(round_.method, features, plan, replace(options, min_per_class=0), no_progress)
    return Measured(len(ids), featured - started, time.monotonic() - featured)
