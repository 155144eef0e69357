"""select: which samples are worth a label, in rounds."""

import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from metaselect.annotation.rounds import bought_ids, round_is_closed
from metaselect.batches import Batches
from metaselect.data.store import Dataset, data_inputs, load_pool
from metaselect.devices import choose_device
from metaselect.errors import ArtefactError, UsageError
from metaselect.features import Factors, last_layer_factors, read_factors, write_factors
from metaselect.models import build_model, last_linear
from metaselect.options import SelectOptions, bearing
from metaselect.records import Json, Outcome, Reporter
from metaselect.registry import SELECTORS, configure, settings
from metaselect.run import Run, Stage
from metaselect.run.files import read_csv, read_json, write_atomically, write_csv
from metaselect.run.key import StageKey
from metaselect.run.layout import META_SET
from metaselect.run.stage import StageRecord, Work, inputs_of
from metaselect.selection import Choice, PoolFeatures, Selector
from metaselect.stages.plan import MIB, dry_run
from metaselect.stages.warmup import checkpoint_file, load_weights
from metaselect.streams import generator

SELECTED_HEADER = ("sample_id", "rank", "cluster", "cluster_size", "cluster_mass", "similarity", "control")


class WarmupModel(NamedTuple):
    """What ``warmup/model.json`` says.

    Attributes:
        architecture: a model's name.
        channels: that it takes.
        checkpoints: epochs that were kept.
        start_epoch: the one that `reweight` starts from.
    """

    architecture: str
    channels: int
    checkpoints: tuple[int, ...]
    start_epoch: int


def warmup_model(run: Run) -> WarmupModel:
    """The warm-up's model.

    Raises:
        ArtefactError: there was no warm-up, or its files are damaged.
    """
    run.stage("warmup").verified("warmup/model.json")
    raw = read_json(run.path("warmup/model.json"), run.stage("warmup").redo)
    return WarmupModel(
        raw["architecture"], raw["input_channels"], tuple(raw["checkpoints"]), raw["start_epoch"]
    )


def select(run: Run, options: SelectOptions, report: Reporter) -> Outcome:
    """Choose ``budget`` samples that were not chosen before.

    Raises:
        UsageError: the budget is not within 1..n.
        ArtefactError: no warm-up yet, or the round is closed and other options are wanted.
    """
    with run.lock():
        return _select(run, options, report)


def _select(run: Run, options: SelectOptions, report: Reporter) -> Outcome:
    run.info()
    method = configure(SELECTORS[options.method], options.option)
    number = _round_number(run, options)
    stage = run.stage(f"select/round-{number}")
    pool = load_pool(run)
    record = _known(stage, force=options.force)
    taken = _taken(run, number, pool, again=record is not None and round_is_closed(run, number))
    budget = _checked_budget(options.budget, len(pool), len(taken), record)
    epochs = _epochs_wanted(run, method)
    device = choose_device(options.device, report) if epochs else torch.device("cpu")
    key = StageKey(
        {**bearing(options), "budget": budget, "option": settings(method), "round": number},
        _inputs(run, number, epochs),
        device.type if epochs else "",
    )
    if not _stays(run, stage, record, key, report, force=options.force):
        if options.dry_run:
            return dry_run(stage, key, _needs(run, pool, epochs))
        with stage.working(key, report) as work:
            started = time.monotonic()
            features = _features(run, pool, epochs, device, work, report)
            featured = time.monotonic()
            stream = generator(options.seed, "select", options.method, number)
            with report.track(0, "choosing", "") as advance:
                choice = method.choose(features, budget, taken, stream, lambda text: advance(0, text))
            work.details["seconds_features"] = round(featured - started, 3)
            work.details["seconds_choice"] = round(time.monotonic() - featured, 3)
            _write(work, pool, choice, budget)
    details = stage.require().details
    return Outcome({"run": str(run.root), "folder": stage.name, **details["result"]})


def _needs(run: Run, pool: Dataset, epochs: tuple[int, ...]) -> dict[str, Json]:
    """Sizes of the factors, which are what grows with the pool: T (K + d) floats a sample, in memory and on disk."""
    found: dict[str, Json] = {"samples": len(pool), "checkpoints": len(epochs)}
    if epochs:
        described = warmup_model(run)
        model = build_model(described.architecture, pool.inputs.shape[1:], len(pool.classes), seed=0)
        last = last_linear(model)
        found["factors_mib"] = round(
            4 * len(pool) * len(epochs) * (last.in_features + last.out_features) / MIB, 1
        )
    return found


def _round_number(run: Run, options: SelectOptions) -> int:
    """The round that the command means."""
    done = [int(name.rpartition("-")[2]) for name in run.stage_names("select")]
    latest = max(done, default=0)
    if options.round is None:
        return max(latest, 1)
    if latest == 0:
        return 1
    if round_is_closed(run, latest):
        return latest + 1
    if latest == 1:
        raise UsageError(
            "Round 1 is still open: it was neither exported nor answered.",
            f"First: metaselect annotate export {run.flag}",
        )
    return latest  # the same command once more


def _taken(run: Run, number: int, pool: Dataset, *, again: bool) -> torch.Tensor:
    """(m,) sorted indices that must not be chosen: selected in earlier rounds, or bought in any way."""
    taken = set(bought_ids(run))
    for earlier in range(1, number):
        taken.update(_selected_ids(run, earlier))
    if again:
        # This very round's own answers must not shut out its samples when it is checked again.
        taken.difference_update(_selected_ids(run, number))
    return torch.tensor(
        [index for index, sample_id in enumerate(pool.sample_ids) if sample_id in taken], dtype=torch.int64
    )


def _selected_ids(run: Run, number: int) -> list[str]:
    path = f"select/round-{number}/selected.csv"
    run.stage(f"select/round-{number}").verified(path)
    return [row["sample_id"] for row in read_csv(run.path(path))[1]]


def _known(stage: Stage, *, force: bool) -> StageRecord | None:
    """The stage's record; ``force`` makes anew what is damaged, so that it is as if it were not there."""
    try:
        record = stage.record()
        if record is not None:
            stage.check()
    except ArtefactError:
        if not force:
            raise
        return None
    return record


def _checked_budget(budget: int | None, n: int, taken: int, record: StageRecord | None) -> int:
    if budget is None and record is not None:
        budget = int(str(record.key.options["budget"]))
    if budget is None:
        raise UsageError("How many labels can you buy?", "Give --budget, for example --budget 50.")
    free = n - taken
    if not 1 <= budget <= free:
        already = f", {taken} of them already chosen" if taken else ""
        raise UsageError(
            f"--budget {budget} is not possible: the pool has {n} samples{already}.",
            f"Choose a budget from 1 to {free}.",
        )
    return budget


def _epochs_wanted(run: Run, method: Selector) -> tuple[int, ...]:
    if not method.wants:
        return ()
    kept = warmup_model(run).checkpoints
    return kept if method.checkpoints == "all" else kept[-1:]


def _inputs(run: Run, number: int, epochs: tuple[int, ...]) -> dict[str, str]:
    if not epochs:
        files = ["data/samples.parquet"]
    else:
        files = [*data_inputs(run), "warmup/model.json"]
        files += [f"warmup/{checkpoint_file(epoch)}" for epoch in epochs]
    if run.path(META_SET).is_file():  # what was bought must not be chosen again
        files.append(META_SET)
    return inputs_of(run, *files)


def _stays(
    run: Run, stage: Stage, record: StageRecord | None, key: StageKey, report: Reporter, *, force: bool
) -> bool:
    """Whether the round is there already; a round that went out to people can only stay."""
    number = int(str(key.options["round"]))
    if not round_is_closed(run, number):
        return stage.is_current(key, report, force=force)
    if force or record is None or dict(record.key.options) != dict(key.options):
        raise ArtefactError(
            f"Round {number} is closed: it was exported or has answers, which cost money.",
            "Open the next one with --round next --budget B, or use a copy of the run for another method.",
        )
    report.note(f"Round {number} is closed and stays as it is.")
    return True


def _features(
    run: Run,
    pool: Dataset,
    epochs: tuple[int, ...],
    device: torch.device,
    work: Work,
    report: Reporter,
) -> PoolFeatures:
    """The factors of every wanted checkpoint; those that an interrupted command wrote are read back."""
    labels = torch.from_numpy(pool.labels)
    if not epochs:
        return PoolFeatures((), (), labels)
    described = warmup_model(run)
    shape = pool.inputs.shape[1:]
    model = build_model(described.architecture, shape, len(pool.classes), seed=0).to(device)
    batches = Batches(pool.inputs, pool.labels, pool.preprocess, device=device, channels=described.channels)
    found: list[Factors] = []
    for epoch in epochs:
        path = work.folder / f"gradients-epoch-{epoch:04d}.parquet"
        if path.is_file():
            report.note(f"Gradient features of epoch {epoch} are there already.")
            found.append(read_factors(path))
            continue
        load_weights(model, run.path(f"warmup/{checkpoint_file(epoch)}"))
        factors = last_layer_factors(model, batches, report, f"features of epoch {epoch}")
        if not torch.isfinite(factors.hidden).all() or not torch.isfinite(factors.probs).all():
            raise ArtefactError(
                f"The warm-up model of epoch {epoch} gives values that are not finite.",
                "Run warmup again with a smaller --lr --force.",
            )
        write_factors(path, list(pool.sample_ids), factors)
        found.append(factors)
    probs, hidden = zip(*found, strict=True)
    return PoolFeatures(
        tuple(value.to(device) for value in probs),
        tuple(value.to(device) for value in hidden),
        labels.to(device),
    )


def _write(work: Work, pool: Dataset, choice: Choice, budget: int) -> None:
    ranked = choice.ranked.tolist()
    assert len(set(ranked)) == len(ranked) == budget
    ranks = {index: rank for rank, index in enumerate(ranked, start=1)}
    sizes = torch.bincount(choice.cluster[choice.cluster >= 0], minlength=max(len(choice.mass), 1)).tolist()
    clustered = len(choice.mass) > 0
    cluster, similarity = choice.cluster.tolist(), choice.similarity.tolist()
    rows = [
        (
            pool.sample_ids[index],
            rank,
            cluster[index] if clustered else "",
            sizes[cluster[index]] if clustered else "",
            round(float(choice.mass[cluster[index]]), 6) if clustered else "",
            round(similarity[index], 6),
            0,
        )
        for index, rank in ranks.items()
    ]
    write_csv(work.folder / "selected.csv", SELECTED_HEADER, rows)
    columns = {
        "sample_id": pa.array(pool.sample_ids, pa.string()),
        "cluster": pa.array(cluster, pa.int32()),
        "similarity": pa.array(similarity, pa.float32()),
        "rank": pa.array([ranks.get(index) for index in range(len(pool))], pa.int32()),
    }
    _write_parquet(work.folder / "clusters.parquet", pa.table(columns))
    work.details["result"] = {"selected": budget, "classes_among_given_labels": _classes(pool, ranked)}
    work.details["choice"] = dict(choice.details)


def _classes(pool: Dataset, ranked: list[int]) -> int:
    return len({int(pool.labels[index]) for index in ranked})


def _write_parquet(path: Path, table: pa.Table) -> None:
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))
