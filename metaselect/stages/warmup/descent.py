"""The warm-up of a network: plain training by gradient descent, keeping checkpoints."""

from pathlib import Path

import torch

from metaselect.models.build import build_model, input_channels
from metaselect.records import Reporter
from metaselect.reweighting.uniform import UniformRun
from metaselect.run.artefacts import CHECKPOINT, RESUME
from metaselect.stages.warmup.fitted import Fitted, WarmupRow
from metaselect.stages.warmup.plan import WarmupPlan, checkpoint_epochs
from metaselect.training.batches import Batches
from metaselect.training.checkpoint import load_state, save_state
from metaselect.training.config import Resolved
from metaselect.training.loop import EpochLog, TrainState, start_training, train
from metaselect.training.predict import predict
from metaselect.training.saved_models import load_weights, save_model
from metaselect.training.threads import limit_threads


def held_out_losses(plan: WarmupPlan, resolved: Resolved, fitted: Fitted, folder: Path) -> torch.Tensor:
    """Cross-entropy of each held-out sample by the checkpoint to start from."""
    pool, shape = plan.pool, plan.pool.inputs.shape[1:]
    model = build_model(resolved.model, shape, len(pool.classes), seed=0)
    load_weights(model, folder / CHECKPOINT.within(epoch=fitted.start.epoch))
    channels = input_channels(resolved.model, shape)
    batches = Batches(pool.inputs, pool.labels, pool.preprocess, device=plan.device, channels=channels)
    return predict(model.to(plan.device), batches, plan.held_out).losses


def train_by_descent(plan: WarmupPlan, resolved: Resolved, folder: Path, report: Reporter) -> Fitted:
    """Train a network; its checkpoints are in ``folder``, and the state after each epoch, to go on from."""
    config, pool, options = resolved.config, plan.pool, plan.options
    shape = pool.inputs.shape[1:]
    model = build_model(resolved.model, shape, len(pool.classes), seed=config.seed)
    if options.weights is not None:
        load_weights(model, options.weights)
    channels = input_channels(resolved.model, shape)
    batches = Batches(pool.inputs, pool.labels, pool.preprocess, device=plan.device, channels=channels)
    limit_threads(model.to(plan.device), batches, config.batch_size)
    state = start_training(model, config, UniformRun())
    history = [WarmupRow(**row) for row in load_state(state, folder / RESUME)]
    if history:
        report.note(f"Going on with epoch {state.epoch + 1} of {config.epochs}.")
    keep = checkpoint_epochs(config.epochs, options.checkpoints)
    epochs = train(
        state,
        batches,
        config,
        ids=plan.train_ids,
        bought=torch.empty(0, dtype=torch.int64),
        meta_batch_size=0,
        report=report,
        what="warmup",
    )
    for log in epochs:
        history.append(_row(log, state, batches, plan.held_out))
        if log.epoch in keep:
            # Before the state: a restart between the two writes this file once more.
            save_model(state.model, folder / CHECKPOINT.within(epoch=log.epoch))
        save_state(state, history, folder / RESUME)
    return Fitted(resolved.model, history, keep)


def _row(log: EpochLog, state: TrainState, batches: Batches, held_out: torch.Tensor) -> WarmupRow:
    predictions = predict(state.model, batches, held_out)
    return WarmupRow(log.epoch, log.lr, log.loss, log.accuracy, predictions.mean_loss, predictions.accuracy)
