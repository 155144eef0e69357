"""reweight: a robust model and a weight for every training sample, from the bought labels."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from metaselect.annotation.meta_set import MetaSet, load_meta_set
from metaselect.data.store import Dataset, data_inputs, load_pool, require_contents
from metaselect.errors import ArtefactError, UsageError
from metaselect.models.build import build_model, input_channels
from metaselect.options import ReweightOptions
from metaselect.random import generator
from metaselect.records import Json, Outcome, Reporter
from metaselect.registry import REWEIGHTERS, configured_method, settings
from metaselect.reweighting.base import Labels, Method, Start
from metaselect.run.artefacts import (
    CHECKPOINT,
    META_SET,
    RESUME,
    REWEIGHT,
    REWEIGHT_HISTORY,
    ROBUST_MODEL,
    ROBUST_MODEL_INFO,
    WARMUP,
    WARMUP_MODEL,
    WEIGHTS,
)
from metaselect.run.files import write_json
from metaselect.run.inputs import inputs_of
from metaselect.run.key import StageKey
from metaselect.run.layout import Run, checked_folder_name
from metaselect.run.stage import Work, dry_run_outcome
from metaselect.run.tables import write_parquet, write_rows
from metaselect.stages.reweight.failure_check import (
    BoughtScore,
    StartScore,
    failure_reason,
    score_on_bought,
    score_start,
)
from metaselect.stages.reweight.weights_table import weights_table
from metaselect.stages.warmup import RESUME_COPIES
from metaselect.training.batches import Batches
from metaselect.training.checkpoint import load_state, save_state
from metaselect.training.config import Resolved, resolve_reweight, training_needs
from metaselect.training.device import choose_device
from metaselect.training.loop import TrainState, final_model, start_training, train
from metaselect.training.predict import predict
from metaselect.training.saved_models import (
    WarmupModel,
    load_weights,
    model_description,
    save_model,
    warmup_model,
)


class ReweightRow(NamedTuple):
    """One row of ``reweight/<name>/history.csv``; the last two are on the bought samples, NaN without any."""

    epoch: int
    lr: float
    loss: float
    accuracy: float
    mean_weight: float
    zero_batches: float
    bought_loss: float
    bought_accuracy: float


class ReweightSetup(NamedTuple):
    """The inputs of a re-weighting, with every `auto` option resolved.

    Attributes:
        meta_batch_size: 0: the method has no meta batch.
        start: the warm-up whose model is trained on; None: a model from scratch.
    """

    pool: Dataset
    meta_set: MetaSet
    method: Method
    resolved: Resolved
    meta_batch_size: int
    start: WarmupModel | None
    device: torch.device
    run: Run


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
    setup = _resolve(run, options, report)
    key = StageKey(
        {
            **setup.resolved.as_options(options),
            "option": settings(setup.method),
            "meta_batch_size": setup.meta_batch_size,
        },
        _inputs(run, setup),
        setup.device.type,
        (*setup.resolved.auto(options), *([] if options.meta_batch_size else ["meta_batch_size"])),
    )
    stage = run.stage(REWEIGHT.name(name=name))
    if not stage.is_current(key, report, force=options.force):
        if options.dry_run:
            return dry_run_outcome(
                stage, key, training_needs(_start_model(setup), setup.pool, 1 + RESUME_COPIES)
            )
        with stage.working(key, report) as work:
            _train(setup, name, work, report)
    result = stage.require().details["result"]
    return Outcome({"run": str(run.root), "name": name, **result}, unmet=result["dead"] or "")


def _resolve(run: Run, options: ReweightOptions, report: Reporter) -> ReweightSetup:
    method: Method = configured_method(REWEIGHTERS, options, report)
    pool = load_pool(run)
    meta_set = load_meta_set(run, pool)  # empty where nothing was bought
    if method.needs_bought and not len(meta_set.bought):
        raise ArtefactError(
            f"{options.method} learns from bought labels, and {run.root} has none.",
            f"First: metaselect annotate export {run.flag}, then annotate import FILE {run.flag}; or --method fsr.",
        )
    start = _start(run, options)
    device = choose_device(options.device, report)
    model = start.architecture if start else (options.model or _any_model(run, pool))
    trained = len(_train_ids(pool, meta_set, method))
    if trained < 1:
        raise ArtefactError("Every sample of the pool was bought; there is nothing to weigh.", "Use uniform.")
    resolved = resolve_reweight(options, pool, trained, model, device)
    size = method.meta_batch_size(options.meta_batch_size, resolved.config.batch_size, len(meta_set.bought))
    if 0 < size < (options.meta_batch_size or 0):
        report.note(
            f"There are {size} bought samples, so a step takes {size}, not {options.meta_batch_size}."
        )
    return ReweightSetup(pool, meta_set, method, resolved, size, start, device, run)


def _start(run: Run, options: ReweightOptions) -> WarmupModel | None:
    """The warm-up to start from; None for --init scratch."""
    if options.init == "scratch":
        return None
    start = warmup_model(run)
    if options.model not in (None, start.architecture):
        raise UsageError(
            f"--model {options.model} cannot start from the warm-up's {start.architecture}.",
            "Leave --model out, or add --init scratch.",
        )
    return start


def _any_model(run: Run, pool: Dataset) -> str:
    """The warm-up's model if there was one, else the default for the data."""
    from metaselect.models.build import auto_model

    if run.stage(WARMUP.name()).record() is not None:
        return warmup_model(run).architecture
    return auto_model(pool.inputs.shape[1:])


def _inputs(run: Run, setup: ReweightSetup) -> dict[str, str]:
    files = list(data_inputs(run))
    if run.path(META_SET.path()).is_file():
        files.append(META_SET.path())
    if setup.start is not None:
        files += [WARMUP_MODEL.path(), CHECKPOINT.path(epoch=setup.start.start_epoch)]
    return inputs_of(run, *files)


def _train_ids(pool: Dataset, meta_set: MetaSet, method: Method) -> torch.Tensor:
    """(n',) int64, the samples to train on: never unusable ones, and bought ones unless the method excludes them."""
    mask = np.ones(len(pool), bool)
    mask[meta_set.unusable] = False
    if method.excludes_bought:
        mask[meta_set.bought] = False
    return torch.from_numpy(mask.nonzero()[0])


def _train(setup: ReweightSetup, name: str, work: Work, report: Reporter) -> None:
    pool, config = setup.pool, setup.resolved.config
    bought = torch.from_numpy(setup.meta_set.bought)
    ids = _train_ids(pool, setup.meta_set, setup.method)
    labels = pool.labels.copy()  # with bought labels in place
    labels[setup.meta_set.bought] = setup.meta_set.labels
    shape = pool.inputs.shape[1:]
    model = _start_model(setup).to(setup.device)
    channels = input_channels(setup.resolved.model, shape)
    batches = Batches(pool.inputs, labels, pool.preprocess, device=setup.device, channels=channels)
    # After a restart too: the model is not yet the one that was saved.
    before = score_start(model, batches, bought)
    pool_labels = Labels(torch.from_numpy(labels), len(pool.classes), ids, bought)
    draw = generator(config.seed, "reweight", "method")
    method = setup.method.begin(Start(pool_labels, config.epochs, config.lr, draw, setup.device))
    state = start_training(model, config, method)
    history = [ReweightRow(**row) for row in load_state(state, work.folder / RESUME)]
    if history:
        report.note(f"Going on with epoch {state.epoch + 1} of {config.epochs}.")
    epochs = train(
        state,
        batches,
        config,
        ids=ids,
        bought=bought,
        meta_batch_size=setup.meta_batch_size,
        report=report,
        what=f"reweight {name}",
    )
    for log in epochs:
        history.append(ReweightRow(*log, *score_on_bought(final_model(state), batches, bought)))
        save_state(state, history, work.folder / RESUME)
    _finish(setup, state, batches, history, before, work)


def _start_model(setup: ReweightSetup) -> nn.Module:
    pool, config = setup.pool, setup.resolved.config
    model = build_model(setup.resolved.model, pool.inputs.shape[1:], len(pool.classes), seed=config.seed)
    if setup.start is not None:
        load_weights(model, setup.run.path(CHECKPOINT.path(epoch=setup.start.start_epoch)))
    return model


def _finish(
    setup: ReweightSetup,
    state: TrainState,
    batches: Batches,
    history: list[ReweightRow],
    before: StartScore,
    work: Work,
) -> None:
    pool, config = setup.pool, setup.resolved.config
    model = final_model(state)
    # Weights are of the given labels, so bought ones are taken out again.
    predictions = predict(model, batches.relabelled(pool.labels), torch.arange(len(pool)))
    weights = state.method.pool_weights(predictions).float().cpu().numpy().clip(0, 1)
    write_rows(work.folder / REWEIGHT_HISTORY.within(), REWEIGHT_HISTORY, history)
    save_model(model, work.folder / ROBUST_MODEL.within())
    write_json(work.folder / ROBUST_MODEL_INFO.within(), model_description(setup.resolved.model, pool))
    table = weights_table(pool, setup.meta_set, weights, setup.method.weight_kind, predictions)
    write_parquet(work.folder / WEIGHTS.within(), WEIGHTS, table)
    (work.folder / RESUME).unlink(missing_ok=True)
    zero_batches = sum(row.zero_batches for row in history) / len(history)
    after = BoughtScore(history[-1].bought_loss, history[-1].bought_accuracy)
    dead = failure_reason(zero_batches, before, after, predictions.predicted) if setup.method.judged else ""
    result: dict[str, Json] = {
        "model": setup.resolved.model,
        "epochs": config.epochs,
        "bought": len(setup.meta_set.bought),
        "bought_accuracy": after.accuracy if len(setup.meta_set.bought) else None,
        "zero_batches": zero_batches,
        "dead": dead,
    }
    work.details["result"] = result
