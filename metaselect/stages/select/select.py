"""`select`: choose the samples whose labels are bought, in rounds.

A killed select leaves its work folder (see ``run.stage``); the same command reuses the features of the checkpoints that
were finished there, and makes the choice anew.
"""

import time
from dataclasses import replace

import pyarrow as pa
import torch

from metaselect.annotation.ledger import Ledger, read_ledger
from metaselect.annotation.rounds import round_is_closed
from metaselect.data.store import Dataset, data_inputs, load_pool
from metaselect.errors import ArtefactError, DataError
from metaselect.features.external_features import load_external_features, require_external_support
from metaselect.features.warmup_features import WarmupFeatures, required_epochs
from metaselect.models.head import head_of
from metaselect.options import SelectOptions, key_options
from metaselect.random import generator
from metaselect.records import Json, Outcome, Reporter
from metaselect.registry import AUTO_SELECTOR, SELECTORS, configured_method, settings
from metaselect.run.artefacts import CHECKPOINT, CLUSTERS, META_SET, SAMPLES, SELECT, SELECTED, WARMUP_MODEL
from metaselect.run.files import sha256_file
from metaselect.run.inputs import inputs_of
from metaselect.run.key import EXTERNAL, StageKey, differences
from metaselect.run.layout import Run
from metaselect.run.record import StageRecord
from metaselect.run.stage import Stage, Work, dry_run_outcome
from metaselect.run.tables import write_parquet, write_rows
from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, Selector
from metaselect.selection.min_per_class import with_min_per_class
from metaselect.stages.select.auto_method import with_resolved_method
from metaselect.stages.select.round_plan import RoundPlan, plan_round, round_number
from metaselect.training.config import MIB
from metaselect.training.device import choose_device
from metaselect.training.saved_models import recorded_model, warmup_model


def select(run: Run, options: SelectOptions, report: Reporter) -> Outcome:
    """Choose ``budget`` samples that were not chosen before, and write them as a round of the run.

    Raises:
        UsageError: the budget is not within 1 to n minus the excluded samples, or an option does not fit the method.
        DataError: the file of features cannot be used.
        ArtefactError: no warm-up yet, or the round is closed and other options are wanted.
    """
    with run.lock():
        return _select(run, options, report)


def _select(run: Run, options: SelectOptions, report: Reporter) -> Outcome:
    run.info()
    ledger = read_ledger(run)
    number = round_number(run, options, ledger)
    stage = run.stage(SELECT.name(number=number))
    pool = load_pool(run)
    record = _existing_record(stage, force=options.force)
    plan = plan_round(run, options, number, pool, ledger=ledger, record=record, report=report)
    by_rule = ("method", "option") if options.method == AUTO_SELECTOR else ()
    options = with_resolved_method(run, options, report, has_labels=bool((plan.labels >= 0).any()))
    flags = {} if options.gradient is None else {"gradient": options.gradient}
    method: Selector = configured_method(SELECTORS, options, report, **flags)
    if options.features is not None:
        require_external_support(method, options.method)
    epochs = required_epochs(run, method, options.features)
    device = choose_device(options.device, report, needed=bool(method.required_features))
    key = StageKey(
        {
            **key_options(options),
            "budget": plan.budget,
            "replaces": plan.replaces,
            "option": settings(method),
            "round": number,
        },
        _inputs(run, options, epochs),
        device.type if method.required_features else "",
        by_rule,
    )
    if not _is_done(ledger, stage, record, key, report, force=options.force):
        if options.dry_run:
            return dry_run_outcome(stage, key, _feature_sizes(run, pool, method, epochs, plan.budget))
        with stage.working(key, report) as work:
            started = time.monotonic()
            features = _features(run, pool, method, options, epochs, device=device, work=work, report=report)
            featured = time.monotonic()
            with report.track(0, "choosing", "") as advance:
                choice, control = _choose(method, features, plan, options, lambda text: advance(0, text))
            work.details["seconds_features"] = round(featured - started, 3)
            work.details["seconds_choice"] = round(time.monotonic() - featured, 3)
            _write(work, pool, choice, control)
            _report_clustering(choice, report)
    result: dict[str, Json] = {
        "run": str(run.root),
        "folder": stage.name,
        "method": options.method,
        **stage.require().details["result"],
    }
    total = len(plan.excluded) + plan.budget
    return Outcome({**result, "total": total, "closed": round_is_closed(ledger, number)})


def _features(
    run: Run,
    pool: Dataset,
    method: Selector,
    options: SelectOptions,
    epochs: tuple[int, ...],
    *,
    device: torch.device,
    work: Work,
    report: Reporter,
) -> PoolFeatures:
    """The features that the method requires: from a file, from the warm-up, or labels alone."""
    if options.features is not None:
        return load_external_features(
            options.features, pool, method, options.method, device=device, report=report
        )
    if not epochs:
        return PoolFeatures((), (), torch.from_numpy(pool.labels))
    warmup_features = WarmupFeatures(
        run, pool, method, seed=options.seed, device=device, work=work, report=report
    )
    return warmup_features.features(epochs)


def _choose(
    method: Selector,
    features: PoolFeatures,
    plan: RoundPlan,
    options: SelectOptions,
    progress: ProgressCallback,
) -> tuple[Choice, set[int]]:
    """The method's choice, with --min-per-class, and the control samples ranked last; and the indices of these.

    The control is drawn uniformly from all samples that may be chosen, before the method runs and without them in the
    method's input. So its share of wrong labels estimates that of the pool, whatever the method prefers.
    """
    n = len(features.labels)
    free = torch.ones(n, dtype=torch.bool)
    free[plan.excluded] = False
    random_stream = generator(options.seed, "control", plan.number)
    shuffled = free.nonzero()[:, 0][torch.randperm(int(free.sum()), generator=random_stream)]
    control = shuffled[: plan.control].sort().values
    random_stream = generator(options.seed, "select", options.method, plan.number)
    if plan.control == plan.budget:
        drawn = Choice(control, torch.full((n,), -1), torch.zeros(n), torch.empty(0), {})
        return drawn, set(control.tolist())
    rest = torch.ones(n, dtype=torch.bool)
    rest[control] = False
    visible_ids = rest.nonzero()[:, 0]
    visible_position = rest.cumsum(0) - 1  # (n,) row of a sample in the method's input
    visible_features = features.subset(visible_ids) if len(control) else features
    bought = visible_position[plan.excluded]
    if "bought_labels" in method.required_features:
        visible_features = visible_features._replace(bought_labels=plan.labels)
    choice = method.choose(visible_features, plan.budget - plan.control, bought, random_stream, progress)
    if options.min_per_class:
        picks = with_min_per_class(choice, visible_features.labels.cpu(), options.min_per_class, bought)
        choice = choice._replace(ranked=picks)
    cluster = torch.full((n,), -1, dtype=torch.int64)
    similarity = torch.zeros(n)
    cluster[visible_ids], similarity[visible_ids] = choice.cluster, choice.similarity
    ranked = torch.cat([visible_ids[choice.ranked], control])
    return Choice(ranked, cluster, similarity, choice.mass, choice.details), set(control.tolist())


def _report_clustering(choice: Choice, report: Reporter) -> None:
    """Note the result of K-means, for a method that clusters gradients."""
    details = choice.details
    if "objective" not in details:
        return
    objective, clusters, ratio = (
        details[name] for name in ("objective", "non_empty_clusters", "theorem_1_ratio")
    )
    assert isinstance(objective, list)
    assert isinstance(clusters, list)
    assert isinstance(ratio, dict)
    report.note(
        f"K-means: objective {objective[-1]:.4f} after {len(objective)} iterations, "
        f"{clusters[-1]} of {len(choice.mass)} clusters with members, Theorem 1's ratio {ratio['mean']:.2f} on average."
    )


def _feature_sizes(
    run: Run, pool: Dataset, method: Selector, epochs: tuple[int, ...], budget: int
) -> dict[str, Json]:
    """Memory and disk for the features, in MiB, for --dry-run; only these grow with the pool."""
    sizes: dict[str, Json] = {"samples": len(pool), "checkpoints": len(epochs)}
    if epochs and "images" not in method.required_features:
        description = warmup_model(run)
        model = recorded_model(run, description.architecture, pool.inputs.shape[1:], len(pool.classes))
        last = head_of(model)
        factors = 4 * (last.in_features + last.out_features)  # bytes per sample and checkpoint, float32
        # Projected gradients: a float32 norm and float16 directions.
        width = 4 + 2 * getattr(method, "width", 0) if "gradients" in method.required_features else factors
        sizes["features_mib"] = round(len(pool) * len(epochs) * width / MIB, 1)
        if hasattr(
            method, "starts"
        ):  # K-means holds four (M, D) float32: old and new centroids, sums, a product
            numbers = (
                last.in_features * last.out_features
                if "probs" in method.required_features
                else last.in_features
            )
            numbers = getattr(method, "width", numbers)
            sizes["clustering_mib"] = round(4 * 4 * budget * len(epochs) * numbers / MIB, 1)
    return sizes


def _existing_record(stage: Stage, *, force: bool) -> StageRecord | None:
    """The record of the round, None if there is none; with ``force`` also None if the round is damaged."""
    try:
        record = stage.record()
        if record is not None:
            stage.check()
    except ArtefactError:
        if not force:
            raise
        return None
    return record


def _inputs(run: Run, options: SelectOptions, epochs: tuple[int, ...]) -> dict[str, str]:
    """Hashes of the files that the choice depends on, by their names in the run."""
    if not epochs:
        files = [SAMPLES.path()]
    else:
        files = [*data_inputs(run), WARMUP_MODEL.path()]
        files += [CHECKPOINT.path(epoch=epoch) for epoch in epochs]
    if run.path(META_SET.path()).is_file():  # labelled samples must not be chosen again
        files.append(META_SET.path())
    hashes = inputs_of(run, *files)
    if options.features is not None:
        if not options.features.is_file():
            raise DataError(f"--features {options.features} is not a file.", "Check the path.")
        hashes[f"{EXTERNAL}features"] = sha256_file(options.features)
    return hashes


def _is_done(
    ledger: Ledger, stage: Stage, record: StageRecord | None, key: StageKey, report: Reporter, *, force: bool
) -> bool:
    """Whether the round exists already with this key; a closed round (exported or answered) is never recomputed.

    Raises:
        ArtefactError: the round is closed, and other options or ``force`` are given.
    """
    number = int(str(key.options["round"]))
    if not round_is_closed(ledger, number):
        return stage.is_current(key, report, force=force)
    # The device is no reason to differ: a closed round may be checked on another machine.
    # Nor is a choice of the rule, which may know more labels by now.
    by_rule = set(record.key.auto) & set(key.auto) if record else ()
    if force or record is None or differences(replace(record.key, device=key.device), key, ignore=by_rule):
        raise ArtefactError(
            f"Round {number} is closed: it was exported or has answers, which cost money.",
            "Open the next one with --round next --budget B, or use a copy of the run for another method.",
        )
    report.note(f"Round {number} is closed and stays as it is.")
    return True


def _write(work: Work, pool: Dataset, choice: Choice, control: set[int]) -> None:
    """Write ``selected.csv`` and ``clusters.parquet``, and the details for ``stage.json``."""
    ranked = choice.ranked.tolist()
    assert len(set(ranked)) == len(ranked)
    ranks = {index: rank for rank, index in enumerate(ranked, start=1)}
    # A method without clusters has -1 everywhere, and its cells for clusters are empty.
    sizes = torch.bincount(choice.cluster[choice.cluster >= 0], minlength=max(len(choice.mass), 1)).tolist()
    cluster, similarity = choice.cluster.tolist(), choice.similarity.tolist()
    rows = [
        (
            pool.sample_ids[index],
            rank,
            cluster[index] if cluster[index] >= 0 else "",
            sizes[cluster[index]] if cluster[index] >= 0 else "",
            round(float(choice.mass[cluster[index]]), 6) if cluster[index] >= 0 else "",
            "" if index in control else round(similarity[index], 6),
            int(index in control),
        )
        for index, rank in ranks.items()
    ]
    write_rows(work.folder / SELECTED.within(), SELECTED, rows)
    columns = {
        "sample_id": pa.array(pool.sample_ids, pa.string()),
        "cluster": pa.array(cluster, pa.int32()),
        "similarity": pa.array(similarity, pa.float32()),
        "rank": pa.array([ranks.get(index) for index in range(len(pool))], pa.int32()),
    }
    write_parquet(work.folder / CLUSTERS.within(), CLUSTERS, columns)
    classes = len({int(pool.labels[index]) for index in ranked} - {-1})
    work.details["result"] = {
        "selected": len(ranked),
        "control": len(control),
        "classes_among_given_labels": classes,
    }
    work.details["choice"] = dict(choice.details)
