"""The warm-up of a network: plain training by gradient descent, keeping checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.build import build_model, input_channels
from metaselect.models.predictions import Predictions
from metaselect.records import Reporter
from metaselect.reweighting.base import State, StepObjective
from metaselect.reweighting.uniform import UniformRun
from metaselect.run.artefacts import CHECKPOINT
from metaselect.run.unfinished import RESUME
from metaselect.stages.warmup.fitted import Fitted, WarmupRow
from metaselect.stages.warmup.plan import WarmupPlan, checkpoint_epochs
from metaselect.training.batches import Batches
from metaselect.training.checkpoint import load_state, save_state
from metaselect.training.config import Resolved
from metaselect.training.loop import TrainingConfig, TrainState, start_training, train
from metaselect.training.predict import predict
from metaselect.training.saved_models import load_weights, save_model
from metaselect.training.threads import limit_threads


class CountingRun(UniformRun):
    """Plain training that counts, for each sample, the epochs in which the prediction was not the given label.

    Of a sample that is trained on, it is the prediction in the training pass.

    Attributes:
        wrong: (n,) int32 on the device.
    """

    def __init__(self, n: int, device: torch.device) -> None:
        self.wrong = torch.zeros(n, dtype=torch.int32, device=device)

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """1/B for each sample."""
        self.wrong[ids] += (forward.logits.detach().argmax(1) != forward.batch.labels).int()
        return super().step(forward, meta_batch, ids, lr)

    def state_dict(self) -> State:
        """The counts."""
        return {"wrong": self.wrong}

    def load_state_dict(self, state: State) -> None:
        """Continue with saved counts."""
        self.wrong = state["wrong"].to(self.wrong.device)


@dataclass
class Descent:
    """A training that can be killed: its state is saved in a folder after each epoch.

    Attributes:
        state: of the training.
        run: the counts in it.
        batches: the pool.
        config: resolved options.
        folder: of the saved state.
        history: the epochs so far.
    """

    state: TrainState
    run: CountingRun
    batches: Batches
    config: TrainingConfig
    folder: Path
    history: list[WarmupRow]

    @classmethod
    def begin(cls, plan: WarmupPlan, name: str, config: TrainingConfig, folder: Path) -> "Descent":
        """Before its first epoch, or after the last one that was saved in ``folder``; ``name`` is the model's."""
        model = plan.initial_model(config.seed)
        batches = batches_for(plan, name)
        run = CountingRun(len(plan.pool), plan.device)
        limit_threads(model.to(plan.device), batches, config.batch_size)
        state = start_training(model, config, run)
        history = [WarmupRow(**row) for row in load_state(state, folder / RESUME)]
        return cls(state, run, batches, config, folder, history)

    def epochs(
        self, ids: torch.Tensor, held_out: torch.Tensor, report: Reporter, what: str
    ) -> Iterator[tuple[WarmupRow, Predictions]]:
        """Train epoch by epoch, and save the state when the next one is asked for.

        Args:
            ids: (n',) int64, samples to train on.
            held_out: int64, samples that are predicted after each epoch.
            report: shows progress.
            what: for the progress line.
        """
        if 0 < len(self.history) < self.config.epochs:
            report.note(f"Going on with epoch {self.state.epoch + 1} of {self.config.epochs}.")
        epochs = train(
            self.state,
            self.batches,
            self.config,
            ids=ids,
            bought=torch.empty(0, dtype=torch.int64),
            meta_batch_size=0,
            report=report,
            what=what,
        )
        for log in epochs:
            predictions = predict(self.state.model, self.batches, held_out)
            held = predictions.mean_loss, predictions.accuracy
            self.history.append(WarmupRow(log.epoch, log.lr, log.loss, log.accuracy, *held))
            yield self.history[-1], predictions
            save_state(self.state, self.history, self.folder / RESUME)


def held_out_losses(plan: WarmupPlan, fitted: Fitted, folder: Path) -> torch.Tensor:
    """Cross-entropy of each held-out sample by the checkpoint to start from."""
    path = folder / CHECKPOINT.within(epoch=fitted.start.epoch)
    model, batches = saved_model(plan, fitted.model, path)
    return predict(model, batches, plan.held_out).losses


def saved_model(plan: WarmupPlan, name: str, weights: Path) -> tuple[nn.Module, Batches]:
    """A model with saved parameters, on the device, and the pool's batches for it."""
    model = build_model(name, plan.pool.inputs.shape[1:], len(plan.pool.classes), seed=0)
    load_weights(model, weights)
    return model.to(plan.device), batches_for(plan, name)


def batches_for(plan: WarmupPlan, name: str) -> Batches:
    """The pool as a model takes it."""
    pool = plan.pool
    channels = input_channels(name, pool.inputs.shape[1:])
    return Batches(pool.inputs, pool.labels, pool.preprocess, device=plan.device, channels=channels)


def train_by_descent(plan: WarmupPlan, resolved: Resolved, folder: Path, report: Reporter) -> Fitted:
    """Train a network; its checkpoints are in ``folder``, and the state after each epoch, to go on from."""
    config = resolved.config
    descent = Descent.begin(plan, resolved.model, config, folder)
    keep = checkpoint_epochs(config.epochs, plan.options.checkpoints)
    for row, predictions in descent.epochs(plan.train_ids, plan.held_out, report, "warmup"):
        descent.run.wrong[plan.held_out.to(plan.device)] += (~predictions.hits).int()
        if row.epoch in keep:
            # Before the state: a restart between the two writes this file once more.
            save_model(descent.state.model, folder / CHECKPOINT.within(epoch=row.epoch))
    return Fitted(resolved.model, descent.history, keep, descent.run.wrong.cpu() / config.epochs)
