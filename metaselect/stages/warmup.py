"""warmup: plain training on the given labels, keeping a history of models.

A tenth of the pool is held out. Nobody needs a clean label for that: the checkpoint with the smallest cross-entropy
on the held-out *given* labels has learnt what the labels have in common and not yet the wrong ones by heart, and
`reweight` starts from it.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from metaselect.data.listing import open_source
from metaselect.data.store import Dataset, data_inputs, load_pool, require_contents
from metaselect.errors import DataError, UsageError
from metaselect.models.build import build_model, input_channels
from metaselect.options import IngestOptions, WarmupOptions
from metaselect.random import generator
from metaselect.records import Json, Outcome, Reporter
from metaselect.reweighting.uniform import UniformRun
from metaselect.run.artefacts import CHECKPOINT, RESUME, WARMUP, WARMUP_HISTORY, WARMUP_MODEL
from metaselect.run.files import sha256_file, write_json
from metaselect.run.inputs import inputs_of
from metaselect.run.key import EXTERNAL, StageKey
from metaselect.run.layout import IDS_ALONE, Run
from metaselect.run.stage import Work, dry_run_outcome
from metaselect.run.tables import write_rows
from metaselect.stages.ingest import ingest, same_data
from metaselect.training.batches import Batches
from metaselect.training.checkpoint import load_state, save_state
from metaselect.training.config import Resolved, resolve_warmup, training_needs
from metaselect.training.device import choose_device
from metaselect.training.loop import EpochLog, TrainState, start_training, train
from metaselect.training.predict import predict
from metaselect.training.saved_models import load_weights, model_description, save_model
from metaselect.training.threads import limit_threads

HELD_OUT = 0.1  # of the pool
RESUME_COPIES = 3  # parameters and momentum, and the new state beside the old one while it is written


class WarmupRow(NamedTuple):
    """One row of ``warmup/history.csv``; losses are cross-entropy with given labels."""

    epoch: int
    lr: float
    loss: float
    accuracy: float
    held_out_loss: float
    held_out_accuracy: float


def warmup(
    data: Path | None, run: Run, options: WarmupOptions, reading: IngestOptions, report: Reporter
) -> Outcome:
    """Train on the given labels and keep checkpoints.

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
        if open_source(data, reading).task == IDS_ALONE:
            raise DataError(
                f"{data} has neither images nor features that are known as such, so nothing can be trained on it.",
                "Name the column of images with --image-column or those of features with --feature-columns "
                "'PATTERN'; ids and labels alone are for ingest and select.",
            )
        ingest(data, run, reading, report)
    with run.lock():
        return _warmup(run, options, report)


def _warmup(run: Run, options: WarmupOptions, report: Reporter) -> Outcome:
    require_contents(run)
    inputs = inputs_of(run, *data_inputs(run))
    if options.weights is not None:
        if not options.weights.is_file():
            raise UsageError(f"--weights {options.weights} does not exist.", "Name a safetensors file.")
        inputs[f"{EXTERNAL}weights"] = sha256_file(options.weights)
    pool = load_pool(run)
    device = choose_device(options.device, report)
    train_ids, held_out = split_held_out(len(pool), options.seed)
    resolved = resolve_warmup(options, pool, len(train_ids), device)
    stage = run.stage(WARMUP.name())
    key = StageKey(resolved.as_options(options), inputs, device.type, resolved.auto(options))
    if not stage.is_current(key, report, force=options.force):
        if options.dry_run:
            model = build_model(resolved.model, pool.inputs.shape[1:], len(pool.classes), seed=0)
            copies = len(checkpoint_epochs(resolved.config.epochs, options.checkpoints)) + RESUME_COPIES
            return dry_run_outcome(stage, key, training_needs(model, pool, copies))
        with stage.working(key, report) as work:
            _train(pool, resolved, options, train_ids, held_out, device, work, report)
    details = stage.require().details
    return Outcome({"run": str(run.root), **details["result"]})


def split_held_out(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted indices to train on, and of the tenth that is held out (at least 1)."""
    order = torch.randperm(n, generator=generator(seed, "held out"))
    count = max(round(HELD_OUT * n), 1)
    return order[count:].sort().values, order[:count].sort().values


def checkpoint_epochs(epochs: int, count: int) -> list[int]:
    """Evenly spread epochs (from 1), the last one among them: (20, 5) -> 4, 8, 12, 16, 20."""
    return sorted({max(round(epochs * part / count), 1) for part in range(1, count + 1)})


def _train(
    pool: Dataset,
    resolved: Resolved,
    options: WarmupOptions,
    train_ids: torch.Tensor,
    held_out: torch.Tensor,
    device: torch.device,
    work: Work,
    report: Reporter,
) -> None:
    config, shape = resolved.config, pool.inputs.shape[1:]
    model = build_model(resolved.model, shape, len(pool.classes), seed=config.seed)
    if options.weights is not None:
        load_weights(model, options.weights)
    channels = input_channels(resolved.model, shape)
    batches = Batches(pool.inputs, pool.labels, pool.preprocess, device=device, channels=channels)
    limit_threads(model.to(device), batches, config.batch_size)
    state = start_training(model, config, UniformRun())
    history = [WarmupRow(**row) for row in load_state(state, work.folder / RESUME)]
    if history:
        report.note(f"Going on with epoch {state.epoch + 1} of {config.epochs}.")
    keep = checkpoint_epochs(config.epochs, options.checkpoints)
    epochs = train(
        state,
        batches,
        config,
        ids=train_ids,
        bought=torch.empty(0, dtype=torch.int64),
        meta_batch_size=0,
        report=report,
        what="warmup",
    )
    for log in epochs:
        history.append(_row(log, state, batches, held_out))
        if log.epoch in keep:
            # Before the state: a restart between the two writes this file once more.
            save_model(state.model, work.folder / CHECKPOINT.within(epoch=log.epoch))
        save_state(state, history, work.folder / RESUME)
    _finish(work, pool, resolved, history, keep)


def _row(log: EpochLog, state: TrainState, batches: Batches, held_out: torch.Tensor) -> WarmupRow:
    predictions = predict(state.model, batches, held_out)
    return WarmupRow(log.epoch, log.lr, log.loss, log.accuracy, predictions.mean_loss, predictions.accuracy)


def _finish(work: Work, pool: Dataset, resolved: Resolved, history: list[WarmupRow], keep: list[int]) -> None:
    # The checkpoint with the lowest held-out loss, the earliest of equal ones.
    start = min((row for row in history if row.epoch in keep), key=lambda row: row.held_out_loss)
    write_rows(work.folder / WARMUP_HISTORY.within(), WARMUP_HISTORY, history)
    checkpoints: list[Json] = list(keep)
    description = model_description(resolved.model, pool)
    write_json(
        work.folder / WARMUP_MODEL.within(),
        {**description, "checkpoints": checkpoints, "start_epoch": start.epoch},
    )
    (work.folder / RESUME).unlink(missing_ok=True)
    work.details["result"] = {
        "model": resolved.model,
        "epochs": resolved.config.epochs,
        "checkpoints": checkpoints,
        "start_epoch": start.epoch,
        "accuracy_on_given_labels": history[-1].accuracy,
        "held_out_accuracy_on_given_labels": history[-1].held_out_accuracy,
    }
