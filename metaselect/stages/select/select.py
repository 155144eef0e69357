"""`select`: choose the samples whose labels are bought, in rounds.

A killed select leaves its work folder (see ``run.stage``); the same command reuses the features of the checkpoints that
were finished there, and makes the choice anew.
"""

import time
from dataclasses import replace

import pyarrow as pa
import torch

from metaselect.annotation.ledger import Ledger, read_ledger
from metaselect.annotation.ledger_record import require_recorded
from metaselect.annotation.rounds import round_is_closed
from metaselect.data.store import Dataset, data_inputs, load_pool
from metaselect.errors import ArtefactError, DataError
from metaselect.features.external_features import require_external_support
from metaselect.features.warmup_features import required_epochs
from metaselect.options import SelectOptions, key_options
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
from metaselect.selection.base import Choice, Selector
from metaselect.stages.select.auto_method import with_resolved_method
from metaselect.stages.select.choice import choose, pool_features
from metaselect.stages.select.cost import RoundToProbe, seconds
from metaselect.stages.select.listed import Listed, listed_scores
from metaselect.stages.select.needs import round_needs
from metaselect.stages.select.round_plan import plan_round, round_number
from metaselect.stages.select.similar import find_similar, write_similar
from metaselect.training.device import choose_device


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
    require_recorded(run)
    ledger = read_ledger(run)
    number = round_number(run, options, ledger)
    stage = run.stage(SELECT.name(number=number))
    pool = load_pool(run, workers=options.workers)
    record = _existing_record(stage, force=options.force)
    plan = plan_round(run, options, number, pool, ledger=ledger, record=record, report=report)
    by_rule = ("method", "option") if options.method == AUTO_SELECTOR and options.samples is None else ()
    options = with_resolved_method(run, options, report, has_labels=bool((plan.labels >= 0).any()))
    flags = {} if options.gradient is None else {"gradient": options.gradient}
    method: Selector = (
        configured_method(SELECTORS, options, report, **flags) if options.samples is None else Listed()
    )
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
        round_ = RoundToProbe(run, pool, method, options, plan, epochs, device)
        needs = round_needs(round_)
        needs.require(options.method)
        if options.dry_run:
            return dry_run_outcome(stage, key, needs.described() | seconds(round_, report))
        with stage.working(key, report) as work:
            started = time.monotonic()
            features = pool_features(
                run, pool, method, options, epochs, device=device, work=work, report=report
            )
            featured = time.monotonic()
            if options.samples is not None:
                scores = listed_scores(options.samples, pool, plan, report)
                features = features._replace(scores=scores)
            similar = find_similar(
                pool, features, external=options.features is not None, device=device, report=report
            )
            compared = time.monotonic()
            with report.track(0, "choosing", "") as advance:
                choice, control = choose(
                    *(method, features, plan, options, lambda text: advance(0, text)),
                    similar if options.samples is None else None,  # people may list near duplicates
                )
            work.details["seconds_features"] = round(featured - started, 3)
            work.details["seconds_neighbours"] = round(compared - featured, 3)
            work.details["seconds_choice"] = round(time.monotonic() - compared, 3)
            alike = write_similar(run, number, work, pool, similar, report)
            _write(work, pool, choice, control, alike)
            _report_clustering(choice, report)
    result: dict[str, Json] = {
        "run": str(run.root),
        "folder": stage.name,
        "method": options.method,
        **stage.require().details["result"],
    }
    total = len(plan.excluded) + plan.budget
    return Outcome({**result, "total": total, "closed": round_is_closed(ledger, number)})


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
    if options.features is not None:
        files = [SAMPLES.path()]
    elif not epochs:
        files = [*data_inputs(run)]  # near duplicates are looked for in every pool
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
    if options.samples is not None:
        if not options.samples.is_file():
            raise DataError(f"--samples {options.samples} is not a file.", "Check the path.")
        hashes[f"{EXTERNAL}samples"] = sha256_file(options.samples)
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


def _write(work: Work, pool: Dataset, choice: Choice, control: set[int], alike: dict[str, Json]) -> None:
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
        "near_duplicates": alike,
    }
    work.details["choice"] = dict(choice.details)
