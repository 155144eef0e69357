"""How long a round takes, for --dry-run, from probes on parts of the pool."""

import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf, log, sqrt
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
CLUSTERING_POWER = 2.0  # that of K-means, at most: its clusters grow with the samples, its iterations hardly


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
    n, size = len(round_.pool), min(FIRST_PROBE, len(round_.pool))
    order = torch.randperm(n, generator=generator(round_.options.seed, "probe"))
    found: list[Measured] = []
    if "images" not in round_.method.required_features and round_.options.samples is None:
        _measure(round_, order[:size])  # once before it counts: imports and first allocations
        while (measured := _measure(round_, order[:size])) is not None:
            found.append(measured)
            size *= 2
            if size > n // 2 or measured.features + measured.choice > LONGEST_PROBE:
                break
    neighbours = _neighbours_seconds(round_)
    search: dict[str, Json] = {"seconds_neighbours": round(neighbours, 1)}
    if not found:
        return {"seconds_features": None, "seconds_choice": None, **search, "seconds": None}
    power = CLUSTERING_POWER if hasattr(round_.method, "starts") else MOST_POWER
    features, choice = extrapolated(found[-2:], n, power, _mini_batches_from(round_))
    if round_.options.features:  # each probe has read the whole file
        features = found[-1].features
    choice *= _iterated_share(round_)
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


def _iterated_share(round_: RoundToProbe) -> float:
    """The part of all numbers of all rows that K-means iterates over in a large pool; 1 for a method without it."""
    n, clusters = len(round_.pool), round_.plan.budget
    width = gradient_width(round_)
    if not width:
        return 1.0
    return clustered_rows(n, clusters) / n * sketched_width(n, clusters, width) / width


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


def _mini_batches_from(round_: RoundToProbe) -> float:
    """The number of samples, with their share of the budget, from which on the method clusters by mini-batches."""
    method, n, budget = round_.method, len(round_.pool), round_.plan.budget
    if not hasattr(method, "starts") or hasattr(method, "iterations"):
        return inf
    width = warmup_head(round_).in_features if round_.epochs else LEAST_WIDTH
    return sqrt(MAX_FULL_BATCH_PRODUCTS * n / (budget * width))


def extrapolated(
    measured: Sequence[Measured], n: int, most_power: float = MOST_POWER, linear_from: float = inf
) -> tuple[float, float]:
    """Seconds of features and choice for n samples: a line through both measurements, and a power of their number.

    Args:
        measured: parts of the pool, growing.
        n: samples of all of it.
        most_power: of the time of a choice.
        linear_from: samples from which on that grows linearly.
    """
    first, last = measured[0], measured[-1]
    if len(measured) == 1:
        return last.features * n / last.samples, last.choice * n / last.samples
    slope = max(last.features - first.features, 0.0) / (last.samples - first.samples)
    power = log(max(last.choice, 1e-9) / max(first.choice, 1e-9)) / log(last.samples / first.samples)
    power = min(max(power, LEAST_POWER), most_power)
    bend = min(max(linear_from, last.samples), n)
    choice = last.choice * (bend / last.samples) ** power * n / bend
    return last.features + slope * (n - last.samples), choice


def _measure(round_: RoundToProbe, ids: torch.Tensor) -> Measured | None:
    """The time of a round with its share of the budget among these samples; None where none of them is free."""
    ids = ids.sort().values
    pool, plan, options = round_.pool, round_.plan, round_.options
    position = torch.full((len(pool),), -1, dtype=torch.int64)
    position[ids] = torch.arange(len(ids))
    inside = position[plan.excluded] >= 0
    excluded = position[plan.excluded][inside]
    budget = min(max(round(plan.budget * len(ids) / len(pool)), 1), len(ids) - len(excluded))
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
