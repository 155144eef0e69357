"""warmup: a model of the given labels, keeping a history of models.

By gradient descent a tenth of the pool is held out. Nobody needs a clean label for that: the checkpoint with the
smallest cross-entropy on the held-out *given* labels has learnt what the labels have in common and not yet the wrong
ones by heart, and `reweight` starts from it. The model ``linear`` is solved exactly instead, with the weight decay that
cross-validation chooses.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from metaselect.data.listing import open_source
from metaselect.data.store import data_inputs, load_pool, preprocess_of, require_contents
from metaselect.data_options import IngestOptions
from metaselect.errors import DataError, UsageError
from metaselect.memory import Need, require_memory
from metaselect.models.cross_fit import is_above
from metaselect.options import WarmupOptions
from metaselect.ranks import by_first
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import (
    FOLD_MODEL,
    PRETRAINED,
    WARMUP,
    WARMUP_HISTORY,
    WARMUP_MODEL,
    WARMUP_PREDICTIONS,
)
from metaselect.run.files import parse_json, sha256_file, write_atomically, write_json
from metaselect.run.inputs import inputs_of
from metaselect.run.key import EXTERNAL, StageKey
from metaselect.run.layout import IMAGES, Run
from metaselect.run.stage import Work, dry_run_outcome
from metaselect.run.tables import write_rows
from metaselect.run.unfinished import BEST, COMPARED, FOLD, RESUME
from metaselect.stages.ingest import ingest, same_data
from metaselect.stages.warmup.descent import held_out_losses, train_by_descent
from metaselect.stages.warmup.duration import advice, estimated_seconds, may_be_long
from metaselect.stages.warmup.exact import LinearFit, save_solution, solve
from metaselect.stages.warmup.fitted import Fitted
from metaselect.stages.warmup.fold_models import pool_predictions_by_descent
from metaselect.stages.warmup.plan import WarmupPlan, plan_warmup
from metaselect.stages.warmup.pretrained import load_pretrained, with_encoder
from metaselect.training.config import Resolved
from metaselect.training.device import choose_device
from metaselect.training.pool_predictions import PoolPredictions, write_pool_predictions
from metaselect.training.saved_models import LINEAR, model_description, save_tensors

MEMORY_HINT = "--model mlp holds less than linear, --folds 0 less than folds; so does ingest --limit."


def warmup(
    data: Path | None, run: Run, options: WarmupOptions, reading: IngestOptions, report: Reporter
) -> Outcome:
    """Fit a model to the given labels and keep checkpoints.

    Args:
        data: ingested first if the run is new; else it must be the run's data. None: the run's data.
        run: the run.
        options: training options.
        reading: how to read ``data`` if it is new.
        report: where to say what happens.

    Raises:
        DataError: ``data`` is new and has ids and labels alone.
        ArtefactError: the run is of other data, or of ids and labels alone.
    """
    if data is not None and run.exists:
        same_data(data, run, reading, report)
    elif data is not None and options.dry_run:
        raise UsageError(
            "--dry-run needs data that was ingested.", f"First: metaselect ingest {data} --run {run.root}"
        )
    elif data is not None:
        # Before there is a run: one of ids and labels alone would be in the way of the right command.
        kinds = open_source(data, reading).kinds
        if not kinds:
            raise DataError(
                f"{data} has neither images nor features that are known as such, so nothing can be trained on it.",
                "Name the column of images with --image-column or those of features with --feature-columns "
                "'PATTERN' (of files named by ids: --image-column id --image-folder DIR --image-suffix .jpg); ids and "
                "labels alone are for ingest and select.",
            )
        _require_kinds(options, kinds, data)
        by_first(partial(ingest, data, run, reading, report))
    with run.lock():
        return _warmup(run, options, report)


def _warmup(run: Run, options: WarmupOptions, report: Reporter) -> Outcome:
    require_contents(run)
    kinds = preprocess_of(run).kinds
    _require_kinds(options, tuple(kinds), run.root)
    on = options.on or (IMAGES if options.pretrained else preprocess_of(run).task)
    by_rule = ("on",) if options.on is None else ()
    if len(kinds) > 1 and by_rule and not options.pretrained:
        report.note("The samples have images and features; the models take the features (--on images).")
    options = replace(options, on=on if len(kinds) > 1 else None)
    inputs = inputs_of(run, *data_inputs(run, on))
    if options.weights is not None and not options.weights.is_file():
        raise UsageError(f"--weights {options.weights} does not exist.", "Name a safetensors file.")
    pool, pretrained = load_pool(run, on, workers=options.workers), None
    if options.pretrained:
        options = with_encoder(options)
        pretrained = load_pretrained(options, pool)
        inputs[f"{EXTERNAL}weights"] = str(pretrained.described["weights_sha256"])
    elif options.weights is not None:
        inputs[f"{EXTERNAL}weights"] = sha256_file(options.weights)
    device = choose_device(options.device, report)
    plan = plan_warmup(pool, options, device, report, pretrained)
    stage = run.stage(WARMUP.name())
    key = StageKey(plan.as_options(), inputs, device.type, (*plan.auto(), *by_rule))
    if not stage.is_current(key, report, force=options.force):
        if cost := plan.cost():
            report.note(cost)
        if options.dry_run:
            seconds = estimated_seconds(plan)  # first: its probe takes the memory of a few batches
            needs = {**plan.needs(), "seconds": None if seconds is None else round(seconds, 1)}
            return dry_run_outcome(stage, key, needs)
        require_memory(Need(plan.held), f"A warm-up on {len(pool):,} samples", MEMORY_HINT)
        if may_be_long(plan) and (seconds := estimated_seconds(plan)) is not None:
            report.note(advice(plan, seconds, run))
        with stage.working(key, report) as work:
            _finish(plan, *_fit(plan, work, report), work)
    details = stage.require().details
    return Outcome({"run": str(run.root), **details["result"]})


def _require_kinds(options: WarmupOptions, kinds: Sequence[str], place: Path) -> None:
    """Check that the samples have what the model takes, of ``kinds``, which is not empty."""
    if options.on is not None and options.on not in kinds:
        raise UsageError(
            f"--on {options.on}: the samples of {place} have {kinds[0]} alone.",
            "Leave it out, or name data that has both.",
        )
    if options.pretrained and IMAGES not in kinds:
        raise UsageError(
            f"--pretrained is of models of images, and the samples of {place} have {kinds[0]} alone.",
            "Leave it out.",
        )


def _fit(plan: WarmupPlan, work: Work, report: Reporter) -> tuple[Fitted, PoolPredictions]:
    """The model of the plan, with its checkpoints in the work folder; of two models, the better one."""
    if plan.descent is None:
        linear = solve(plan)
        save_solution(linear, plan, work.folder)
        return linear.fitted(), linear.pool_predictions(plan)
    means: dict[str, float] | None = None
    if plan.solves:
        linear = solve(plan)
        taken, means = _compared(plan, plan.descent, linear, work, report)
        if taken == LINEAR:
            save_solution(linear, plan, work.folder)
            return linear.fitted()._replace(held_out_losses=means), linear.pool_predictions(plan)
    # After a comparison nothing is left to do.
    trained = train_by_descent(plan, plan.descent, work.folder, report)
    predictions = pool_predictions_by_descent(plan, plan.descent, trained, work.folder, report)
    return trained._replace(held_out_losses=means), predictions


def _compared(
    plan: WarmupPlan, descent: Resolved, linear: LinearFit, work: Work, report: Reporter
) -> tuple[str, dict[str, float]]:
    """The better model for features, and the held-out loss of both; the network is trained for it.

    It is kept in a file: the checkpoints that it came from are replaced by the solution, where that is better.
    """
    path = work.folder / COMPARED
    if not path.is_file():
        trained = train_by_descent(plan, descent, work.folder, report)
        losses, others = linear.held_out_losses(plan), held_out_losses(plan, trained, work.folder)
        means = {LINEAR: float(losses.double().mean()), trained.model: float(others.double().mean())}
        # The one-standard-error rule: the epoch of the others was chosen on these samples, so they look too low.
        taken = trained.model if is_above(losses, others) else LINEAR
        write_json(path, {"taken": taken, "held_out_losses": {**means}})
        report.note(
            f"Taking {taken}: the cross-entropy with held-out given labels is {means[LINEAR]:.4f} for {LINEAR} and "
            f"{means[trained.model]:.4f} for {trained.model}. --model NAME takes one without a comparison."
        )
    found = parse_json(path)
    return found["taken"], found["held_out_losses"]


def _finish(plan: WarmupPlan, fitted: Fitted, predictions: PoolPredictions, work: Work) -> None:
    """Write the tables, and what the command prints."""
    write_rows(work.folder / WARMUP_HISTORY.within(), WARMUP_HISTORY, fitted.history)
    checkpoints: list[Json] = list(fitted.checkpoints)
    described = {
        **model_description(fitted.model, plan.pool),
        "checkpoints": checkpoints,
        "start_epoch": fitted.start.epoch,
    }
    result: dict[str, Json] = {
        "model": fitted.model,
        "epochs": len(fitted.history),
        "checkpoints": checkpoints,
        "start_epoch": fitted.start.epoch,
        "accuracy_on_given_labels": fitted.history[-1].accuracy,
        "held_out_accuracy_on_given_labels": fitted.history[-1].held_out_accuracy,
    }
    if plan.pretrained is not None:
        options = plan.options
        described["pretrained"] = {
            **plan.pretrained.described,
            "finetune": options.finetune,
            "body_rate": options.body_rate,
        }
        save_tensors(plan.pretrained.body, work.folder / PRETRAINED.within())
    if fitted.weight_decay is not None:
        described["weight_decay"] = result["weight_decay"] = fitted.weight_decay
    if fitted.held_out_losses is not None:
        result["held_out_losses"] = dict(fitted.held_out_losses)
    write_json(work.folder / WARMUP_MODEL.within(), described)
    path = work.folder / WARMUP_PREDICTIONS.within()
    write_pool_predictions(path, plan.pool.sample_ids, predictions)
    if predictions.fold is not None:
        _keep_fold_models(plan, work.folder)
    work.unfinished |= {
        RESUME,
        COMPARED,
        *(FOLD.format(number=number) for number in range(1, plan.folds + 1)),
    }
    work.details["result"] = result


def _keep_fold_models(plan: WarmupPlan, folder: Path) -> None:
    for number in range(1, plan.folds + 1):
        best = folder / FOLD.format(number=number) / BEST
        if best.is_file():
            write_atomically(folder / FOLD_MODEL.within(number=number), partial(shutil.copyfile, best))
