"""The training loop that warm-up and every re-weighting method run through."""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from metaselect import ranks
from metaselect.errors import ConditionUnmet, UsageError
from metaselect.metagrad.forward import MIN_META_SAMPLES, Forward
from metaselect.metagrad.jvp import JvpSolver
from metaselect.random import derive_seed, generator
from metaselect.ranks import all_sums
from metaselect.records import Advance, Reporter
from metaselect.reweighting.base import MethodRun, StepObjective
from metaselect.training.augment import augmentation
from metaselect.training.batches import Batches
from metaselect.training.fine_tuning import FineTuning, freeze_below, set_train_mode
from metaselect.training.optimiser import OptimiserSettings, make_optimiser, set_rate


@dataclass(frozen=True)
class TrainingConfig:
    """Resolved training options.

    Attributes:
        lr: peak learning rate of the schedule, per step; of fine-tuning, the head's.
        schedule: "cosine" (to 0), "step" (a tenth at 1/2 and again at 3/4) or "constant".
        augment: "none", "weak" or "strong", see ``training.augment``.
        amp: bfloat16 autocast.
        optimiser: "sgd", "adam" or "adamw".
        momentum: of SGD alone.
        accumulate: batches whose mean gradient makes a step.
        lr_ramp: share of the steps, at the beginning, over which the rate rises linearly to that of the schedule.
        fine_tuning: of a pre-trained model; None: every parameter is trained at the same rate.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    augment: str
    amp: bool
    seed: int
    optimiser: str = "sgd"
    accumulate: int = 1
    lr_ramp: float = 0.0
    fine_tuning: FineTuning | None = None

    def batches_in(self, samples: int) -> int:
        """Batches of an epoch: a multiple of ``accumulate``, none of them empty."""
        steps = min(
            math.ceil(samples / self.batch_size / self.accumulate),
            samples // self.accumulate,
        )
        return steps * self.accumulate

    def lr_at(self, step: int, steps: int) -> float:
        """The rate of step ``step`` (from 0) of ``steps``; never 0 before the end."""
        ramp = self.lr_ramp * steps
        lr = self.lr * min(1.0, (step + 1) / ramp) if ramp else self.lr
        if self.schedule == "cosine":
            return lr * (1 + math.cos(math.pi * step / steps)) / 2
        if self.schedule == "step":
            return lr * 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps))
        return lr


class EpochLog(NamedTuple):
    """One row of ``history.csv``.

    Attributes:
        epoch: from 1.
        lr: the rate of its last step.
        loss: mean over samples of the loss that was minimised, weights included.
        accuracy: share of training samples predicted as labelled, measured on the training passes (augmented, train
            mode).
        mean_weight: mean of B w_i.
        zero_batches: share of batches in which every weight was 0.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float
    mean_weight: float
    zero_batches: float


@dataclass
class TrainState:
    """Everything that training changes, saved and restored whole; ``epoch`` counts those that are done."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    method: MethodRun
    epoch: int = 0


def start_training(model: nn.Module, config: TrainingConfig, method: MethodRun) -> TrainState:
    """The state before the first epoch."""
    set_memory_format(model)
    settings = OptimiserSettings(config.optimiser, config.lr, config.momentum, config.weight_decay)
    if config.fine_tuning is not None:
        freeze_below(model, config.fine_tuning.part)
        settings = settings._replace(body_rate=config.fine_tuning.body_rate)
    return TrainState(model, make_optimiser(model, settings), method)


def set_memory_format(model: nn.Module) -> None:
    """Have a model of colour images work with channels last: up to a sixth less time (grey ones: no less)."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is not None and first.in_channels > 1:
        model.to(memory_format=torch.channels_last)


def train(
    state: TrainState,
    batches: Batches,
    config: TrainingConfig,
    *,
    ids: torch.Tensor,
    bought: torch.Tensor,
    meta_batch_size: int,
    report: Reporter,
    what: str,
) -> Iterator[EpochLog]:
    """Train epoch by epoch, yielding after each, until ``config.epochs`` are done.

    Args:
        state: changed in place; may have epochs behind it.
        batches: the pool, with bought labels in place.
        config: resolved options.
        ids: (n',) int64 on the CPU, the samples to train on.
        bought: (m,) int64 on the CPU, the samples with bought labels.
        meta_batch_size: as the method says; 0: it has no meta batch.
        report: shows progress.
        what: a word for the progress line.

    Raises:
        ConditionUnmet: the loss is not finite any more.
        UsageError: there are more ranks than samples in a batch.
    """
    epoch_loop = _EpochLoop(state, batches, config, ids, bought, meta_batch_size, JvpSolver(report.note))
    with report.track(config.epochs * len(ids), what, "samples", state.epoch * len(ids)) as advance:
        for epoch in range(state.epoch + 1, config.epochs + 1):
            log = epoch_loop.run(epoch, advance)
            if not math.isfinite(log.loss):
                raise ConditionUnmet(
                    f"{what} diverged in epoch {epoch}: the loss is not finite.",
                    f"Use a smaller --lr (it was {config.lr:g}).",
                )
            state.epoch = epoch
            state.method.epoch_end(epoch)
            yield log


@dataclass
class _EpochLoop:
    """The state, data and options of one training run, for ``run`` on each of its epochs."""

    state: TrainState
    batches: Batches
    config: TrainingConfig
    ids: torch.Tensor
    bought: torch.Tensor
    meta_batch_size: int
    jvp_solver: JvpSolver

    def run(self, epoch: int, advance: Advance) -> EpochLog:
        """Train one epoch: batch, forward, weights, loss, backward, step."""
        config, batches, seed = self.config, self.batches, self.config.seed
        model, optimiser, method = self.state.model, self.state.optimiser, self.state.method
        # Every random stream is named by the epoch, so an epoch is the same after a restart.
        order = method.order(self.ids, generator(seed, "order", epoch))  # (n'',)
        meta_draw = generator(seed, "meta", epoch)
        augment = augmentation(config.augment, generator(seed, "augment", epoch, device=batches.device))
        steps, batch_scale = config.batches_in(len(order)), 1 / config.accumulate
        _require_shares(len(order) // steps)
        # Of losses, hits and weights over samples, and of batches without weight: on the device, read once an epoch.
        sums = torch.zeros(4, dtype=_widest(batches.device), device=batches.device)
        set_train_mode(model)
        # Equal parts rather than a small last batch, whose statistics BatchNorm could not use.
        stream = batches.stream(order.tensor_split(steps), augment, divided=True)
        for number, (ids, batch) in enumerate(stream, (epoch - 1) * steps):
            position = number % config.accumulate  # in the group of batches that make one step
            lr = config.lr_at(number - position, config.epochs * steps)
            set_rate(optimiser, lr)
            if position == 0:
                optimiser.zero_grad()
            meta_ids, meta_batch = None, None
            if self.meta_batch_size:
                meta_ids = method.meta_ids(self.bought, self.meta_batch_size, meta_draw)
                meta_batch = batches.get(meta_ids, augment, divided=True)
            forward = Forward(
                model,
                optimiser,
                batch,
                seed=derive_seed(seed, "dropout", number),
                autocast=config.amp,
                meta_running_statistics=meta_ids is not None
                and len(torch.unique(meta_ids)) < MIN_META_SAMPLES,
                jvp_solver=self.jvp_solver,
            )
            step = method.step(forward, meta_batch, ids.to(batches.device), lr)
            loss = backward(forward, step, batch_scale)
            if position == config.accumulate - 1:
                sum_gradients(model)
                optimiser.step()
                method.after_step(forward.params)
            # A step may be taken on more rows than the batch; its own samples come first.
            hits = (forward.logits[: len(ids)].detach().argmax(1) == batch.labels).sum()
            zero = (step.weights == 0).all()
            sums += torch.stack([loss * len(ids), hits, step.weights.sum() * len(ids), zero])
            advance(len(ids))
        loss_sum, hit_sum, weight_sum, zero_batches = sums.tolist()
        n = len(order)
        return EpochLog(epoch, lr, loss_sum / n, hit_sum / n, weight_sum / n, zero_batches / steps)


def _require_shares(smallest: int) -> None:
    """Check that each rank has a sample of the smallest batch."""
    if smallest < ranks.size():
        raise UsageError(
            f"A batch of {smallest} samples cannot be divided among {ranks.size()} processes.",
            "Start fewer processes, or give a larger --batch-size or a smaller --accumulate.",
        )


def backward(forward: Forward, step: StepObjective, batch_scale: float = 1.0) -> torch.Tensor:
    """Add ``batch_scale`` times the gradient of the step's loss to the parameters' ``grad``; returns the loss.

    Of several ranks, the part of the gradient that comes from this one's rows.
    """
    if step.losses is not None:
        loss = (step.weights * step.losses).sum()
    elif step.targets is not None:
        loss = -(step.targets * F.log_softmax(forward.logits, 1)).sum()
    else:  # the gradient of a virtual step with these very weights may be there already
        forward.backward(step.weights, batch_scale)
        return (step.weights * forward.losses.detach()).sum()
    (batch_scale * loss).backward()
    return loss.detach()


def sum_gradients(model: nn.Module) -> None:
    """Make the gradient of each parameter the sum of those that the ranks have by their parts of the batches."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for gradient, total in zip(gradients, all_sums(gradients), strict=True):
        if total is not gradient:
            gradient.copy_(total)


def _widest(device: torch.device) -> torch.dtype:
    """The type that sums are taken in; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def final_model(state: TrainState) -> nn.Module:
    """The model that a run is judged by: a copy with averaged parameters, where its method averages them."""
    averaged = state.method.averaged()
    if averaged is None:
        return state.model
    model = deepcopy(state.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in averaged:
                parameter.copy_(averaged[name])
    return model
