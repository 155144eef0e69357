"""reweight: a robust model and a weight for every training sample, from the bought labels."""

from typing import Any

import pyarrow as pa

from metaselect.annotation.rounds import rounds
from metaselect.data.store import data_inputs, require_contents
from metaselect.memory import Need, require_memory
from metaselect.options import ReweightOptions
from metaselect.records import Json, Outcome, Reporter
from metaselect.registry import settings
from metaselect.reweighting.base import REFITS
from metaselect.run.artefacts import (
    CHECKPOINT,
    CROSS_FIT,
    META_SET,
    NEIGHBOURS,
    PRETRAINED,
    REWEIGHT,
    REWEIGHT_HISTORY,
    ROBUST_MODEL,
    ROBUST_MODEL_INFO,
    WARMUP_MODEL,
    WEIGHTS,
)
from metaselect.run.files import write_json
from metaselect.run.inputs import inputs_of
from metaselect.run.key import EXTERNAL, StageKey
from metaselect.run.layout import Run, checked_folder_name
from metaselect.run.stage import Work, dry_run_outcome
from metaselect.run.tables import write_parquet, write_rows
from metaselect.run.unfinished import CROSS_FIT_WORK, RESUME
from metaselect.stages.evaluate.truth import truth_digest
from metaselect.stages.reweight.comparison import compare
from metaselect.stages.reweight.cross_fit import (
    CrossFitted,
    arms,
    comparison_epochs,
    cost,
    cross_fit,
    is_solved,
    reason_without,
)
from metaselect.stages.reweight.duration import advice, estimated_seconds, held_bytes, may_be_long
from metaselect.stages.reweight.evidence import label_evidence
from metaselect.stages.reweight.failure_check import failure_reason
from metaselect.stages.reweight.issues import Suggested, known_predictions, suggest, write_issues
from metaselect.stages.reweight.other_model import knows_truth, model_files
from metaselect.stages.reweight.setup import ReweightSetup, resolve_setup
from metaselect.stages.reweight.surroundings import surroundings_round
from metaselect.stages.reweight.trace import Trace, require_trace, trace_mib, write_changes
from metaselect.stages.reweight.training import start_model, train_method
from metaselect.stages.reweight.weights_table import weights_table
from metaselect.stages.wrong_labels import wrong_labels
from metaselect.training.config import RESUME_COPIES, training_needs
from metaselect.training.pool_predictions import (
    PoolPredictions,
    fold_model_inputs,
    warmup_predictions_input,
)
from metaselect.training.saved_models import model_description, save_model, warmup_model

MEMORY_HINT = "--method uniform holds less than auto; so does ingest --limit."


def reweight(run: Run, options: ReweightOptions, report: Reporter) -> Outcome:
    """Train with one method; the folder is ``reweight/<name>``.

    Raises:
        ArtefactError: no warm-up to start from, no bought labels for a method that needs them, or a run
            of ids and labels alone.
        UsageError: options that do not fit together.
    """
    with run.lock():
        return _reweight(run, options, report)


def _reweight(run: Run, options: ReweightOptions, report: Reporter) -> Outcome:
    require_contents(run)
    name = checked_folder_name(options.method if options.name is None else options.name)
    setup = resolve_setup(run, options, report)
    if options.trace:
        require_trace(setup)
    key = StageKey(
        {
            **setup.resolved.as_options(options),
            **_left_to_method(setup),
            **({"trace": True} if options.trace else {}),  # else runs of earlier versions had another key
            "option": settings(setup.method),
            "meta_batch_size": setup.meta_batch_size,
        },
        _inputs(run, setup),
        setup.device.type,
        (*setup.resolved.auto(options), *([] if options.meta_batch_size else ["meta_batch_size"])),
    )
    stage = run.stage(REWEIGHT.name(name=name))
    missing = reason_without(setup, options.folds)
    if not stage.is_current(key, report, force=options.force):
        folds = 0 if missing else options.folds
        report.note(missing or cost(setup, folds))
        if options.dry_run:
            seconds = estimated_seconds(setup, folds)  # first: its probe takes the memory of a few batches
            needs = training_needs(start_model(setup), setup.pool, 1 + RESUME_COPIES, held_bytes(setup))
            needs["comparison_epochs"] = comparison_epochs(setup, folds)
            needs["seconds"] = None if seconds is None else round(seconds, 1)
            if options.trace:
                needs["trace_mib"] = trace_mib(setup)
            return dry_run_outcome(stage, key, needs)
        require_memory(Need(held_bytes(setup)), f"A re-weighting of {len(setup.pool):,} samples", MEMORY_HINT)
        if may_be_long(setup, folds) and (seconds := estimated_seconds(setup, folds)) is not None:
            report.note(advice(setup, folds, seconds))
        with stage.working(key, report) as work:
            if setup.method.needs_evidence:
                setup = setup._replace(evidence=label_evidence(setup, report))
            known = known_predictions(setup)
            result, weights, suggested = _train(setup, known, name, work, report)
            crossed = _cross_fit(setup, folds, name, work, report) if folds else None
            comparison = None if crossed is None else _compare(setup, crossed, name)
            issues = write_issues(setup, known, weights, suggested, crossed, work)
            work.details["result"] = {**result, "comparison": comparison, "issues": issues}
            work.unfinished |= {RESUME, CROSS_FIT_WORK}
    # Of an earlier version, there are no issues.
    shown: dict[str, Any] = {"run": str(run.root), "name": name, "issues": None, "oracle": False}
    shown |= stage.require().details["result"]
    wrong = wrong_labels(run, name, rounds(run))
    return Outcome({**shown, "wrong_labels": wrong and wrong._asdict()}, unmet=shown["dead"] or "")


def _left_to_method(setup: ReweightSetup) -> dict[str, Json]:
    """Options that the method may set by what it finds: a default that is given is not the same as none given."""
    if not setup.method.needs_evidence:
        return {}
    names = ("batch_size", "epochs", "momentum", "weight_decay")
    return {"left_to_method": [name for name in names if getattr(setup.options, name) is None]}


def _inputs(run: Run, setup: ReweightSetup) -> dict[str, str]:
    files = list(data_inputs(run))
    if run.path(META_SET.path()).is_file():
        files.append(META_SET.path())
    start = warmup_model(run) if setup.method.needs_evidence else setup.start
    if start is not None:
        files += [WARMUP_MODEL.path(), CHECKPOINT.path(epoch=start.start_epoch)]
        files += warmup_predictions_input(run)
    if setup.method.needs_evidence:
        files += fold_model_inputs(run)
    if setup.other:
        files += model_files(setup.other)
    if setup.resolved.config.fine_tuning is not None:
        files += [WARMUP_MODEL.path(), PRETRAINED.path()]
    inputs = inputs_of(run, *files)
    number = surroundings_round(setup)
    if (
        number is not None
    ):  # a round of a time before today's answers is stale, and its near duplicates are not
        inputs |= inputs_of(run, NEIGHBOURS.path(number=number), stale_ok=True)
    if setup.options.oracle_truth is not None:
        inputs[f"{EXTERNAL}oracle_truth"] = truth_digest(setup.options.oracle_truth)
    return inputs


def _train(
    setup: ReweightSetup, known: PoolPredictions | None, name: str, work: Work, report: Reporter
) -> tuple[dict[str, Json], dict[str, pa.Array], Suggested]:
    """The result, the columns of ``weights.parquet``, and what the labels should be."""
    after_epoch = Trace(setup, work.folder).after_epoch if setup.options.trace else None
    trained = train_method(setup, work.folder / RESUME, f"reweight {name}", report, after_epoch)
    if sentence := trained.run.sentence():
        report.note(sentence)
    work.details["method"] = trained.run.describe()
    if not is_solved(setup, setup.method):
        work.details["training"] = {
            "epochs": trained.config.epochs,
            "batch_size": trained.config.batch_size,
            "momentum": trained.config.momentum,
        }
    pool = setup.pool
    history, predictions = trained.history, trained.predictions
    write_rows(work.folder / REWEIGHT_HISTORY.within(), REWEIGHT_HISTORY, history)
    save_model(trained.model, work.folder / ROBUST_MODEL.within())
    write_json(work.folder / ROBUST_MODEL_INFO.within(), model_description(setup.resolved.model, pool))
    held_out_prob = None if setup.start is None else known and known.label_probs(pool.labels)
    kind = setup.method.weight_kind
    table = weights_table(pool, setup.meta_set, trained.weights, kind, predictions, held_out_prob)
    write_parquet(work.folder / WEIGHTS.within(), WEIGHTS, table)
    if setup.options.trace and setup.method.trace == REFITS:
        write_changes(setup, trained.run.label_effects(), work.folder, report)
    zero_batches = sum(row.zero_batches for row in history) / len(history)
    dead = failure_reason(zero_batches, trained.before, trained.after) if setup.method.judged else ""
    result: dict[str, Json] = {
        "model": setup.resolved.model,
        "epochs": None if is_solved(setup, setup.method) else len(history),
        "bought": len(setup.meta_set.bought),
        "bought_accuracy": trained.after.on_bought.accuracy if len(setup.meta_set.bought) else None,
        "zero_batches": zero_batches,
        "dead": dead or None,
        "oracle": setup.method.needs_truth or bool(setup.other and knows_truth(setup.run, setup.other)),
    }
    return result, table, suggest(setup, trained, known)


def _cross_fit(
    setup: ReweightSetup, folds: int, name: str, work: Work, report: Reporter
) -> CrossFitted | None:
    """The predictions of the comparison, which are written; None where one of its trainings diverged."""
    folder = work.folder / CROSS_FIT_WORK
    crossed = cross_fit(setup, folds, folder, name, report)
    if crossed is not None:
        write_rows(work.folder / CROSS_FIT.within(), CROSS_FIT, crossed.rows)
    return crossed


def _compare(setup: ReweightSetup, crossed: CrossFitted, name: str) -> Json:
    """The comparison with the warm-up and the baseline."""
    left = setup.pool.labelled.copy()
    left[setup.meta_set.bought] = left[setup.meta_set.unusable] = False
    return {"not_bought": int(left.sum()), **compare(crossed.rows, name, is_baseline=len(arms(setup)) == 1)}
