"""THE training loop: warm-up, the control and every re-weighter run through it."""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.errors import ConditionUnmet
from metaselect.metagrad.forward import MIN_META_SAMPLES, Forward
from metaselect.metagrad.jvp import JvpSolver
from metaselect.models.batch import Batch
from metaselect.random import derive_seed, generator
from metaselect.records import Reporter
from metaselect.reweighting.base import Hook, JointRun, MetaRun
from metaselect.training.batches import Batches
from metaselect.training.optimiser import OptimiserSettings, make_optimiser


@dataclass(frozen=True)
class TrainingConfig:
    """Resolved training options.

    Attributes:
        lr: largest rate, per step.
        schedule: "cosine" (to 0), "step" (a tenth at 1/2 and again at 3/4) or "constant".
        augment: random crop and flip.
        amp: bfloat16 autocast.
        optimiser: "sgd", "adam" or "adamw".
        momentum: of SGD alone.
        accumulate: batches whose mean gradient makes a step.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    augment: bool
    amp: bool
    seed: int
    optimiser: str = "sgd"
    accumulate: int = 1

    def lr_at(self, step: int, steps: int) -> float:
        """The rate of step ``step`` (from 0) of ``steps``; never 0 before the end."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * step / steps)) / 2
        if self.schedule == "step":
            return self.lr * 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps))
        return self.lr


class EpochLog(NamedTuple):
    """One row of ``history.csv``.

    Attributes:
        epoch: from 1.
        lr: the rate of its last step.
        loss: mean over samples of the loss that was minimised, weights included.
        accuracy: share of training samples predicted as labelled, as seen while training.
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
    method: Hook | MetaRun
    epoch: int = 0


def start_training(model: nn.Module, plan: TrainingConfig, method: Hook | MetaRun) -> TrainState:
    """A trainee before its first epoch."""
    set_memory_format(model)
    constants = OptimiserSettings(plan.optimiser, plan.lr, plan.momentum, plan.weight_decay)
    return TrainState(model, make_optimiser(model, constants), method)


def set_memory_format(model: nn.Module) -> None:
    """Have a model of colour images work with channels last: up to a sixth less time (grey ones: no less)."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is not None and first.in_channels > 1:
        model.to(memory_format=torch.channels_last)


def train(
    trainee: TrainState,
    batches: Batches,
    plan: TrainingConfig,
    *,
    ids: torch.Tensor,
    bought: torch.Tensor,
    meta_batch_size: int,
    report: Reporter,
    what: str,
) -> Iterator[EpochLog]:
    """Train epoch by epoch, yielding after each, until ``plan.epochs`` are done.

    Every random stream is named by the epoch, so an epoch is the same whether or not the process was killed
    before it.

    Args:
        trainee: changed in place; may have epochs behind it.
        batches: the pool, with bought labels in place.
        plan: resolved options.
        ids: (n',) int64 on the CPU, the samples to train on.
        bought: (m,) int64 on the CPU, the samples with bought labels.
        meta_batch_size: at most m, but for a method that chooses its meta batch itself.
        report: shows progress.
        what: a word for the progress line.

    Raises:
        ConditionUnmet: the loss is not finite any more.
    """
    device, seed = batches.device, plan.seed
    groups = min(math.ceil(len(ids) / plan.batch_size / plan.accumulate), len(ids) // plan.accumulate)
    steps = groups * plan.accumulate
    step = _Step(trainee, batches, plan, bought, meta_batch_size, JvpSolver(report.note))
    with report.track(plan.epochs * len(ids), what, "samples", trainee.epoch * len(ids)) as advance:
        for epoch in range(trainee.epoch + 1, plan.epochs + 1):
            trainee.model.train()
            order = torch.randperm(len(ids), generator=generator(seed, "order", epoch))
            meta_order = generator(seed, "meta", epoch)
            noise = generator(seed, "augment", epoch, device=device) if plan.augment else None
            # Apple's GPUs know no float64.
            wide = torch.float32 if device.type == "mps" else torch.float64
            sums = torch.zeros(4, dtype=wide, device=device)
            # Equal parts rather than a small last batch, which BatchNorm could not bear.
            parts = ids[order].tensor_split(steps)
            for number, (part, batch) in enumerate(batches.stream(parts, noise), (epoch - 1) * steps):
                lr = plan.lr_at(number - number % plan.accumulate, plan.epochs * steps)
                sums += step.take(part, batch, lr, number, meta_order, noise)
                advance(len(part))
            loss, hits, weight, zero_batches = sums.tolist()
            if not math.isfinite(loss):
                raise ConditionUnmet(
                    f"{what} diverged in epoch {epoch}: the loss is not finite.",
                    f"Use a smaller --lr (it was {plan.lr:g}).",
                )
            trainee.epoch = epoch
            if step.meta is not None:
                step.meta.epoch_end(epoch)
            n = len(ids)
            yield EpochLog(epoch, lr, loss / n, hits / n, weight / n, zero_batches / steps)


class _Step:
    """One step of the loop: weights from the method, loss, backward, optimiser."""

    def __init__(
        self,
        trainee: TrainState,
        batches: Batches,
        plan: TrainingConfig,
        bought: torch.Tensor,
        meta_batch_size: int,
        jvp_solver: JvpSolver,
    ) -> None:
        self.trainee, self.batches, self.plan = trainee, batches, plan
        self.meta = trainee.method if isinstance(trainee.method, MetaRun) else None
        self.joint = trainee.method if isinstance(trainee.method, JointRun) else None
        self.bought, self.meta_batch_size, self.jvp_solver = bought, meta_batch_size, jvp_solver
        self.is_bought = torch.zeros(len(batches), dtype=torch.bool, device=batches.device)
        self.is_bought[bought.to(batches.device)] = True

    def take(
        self,
        ids: torch.Tensor,
        batch: Batch,
        lr: float,
        number: int,
        meta_order: torch.Generator,
        noise: torch.Generator | None,
    ) -> torch.Tensor:
        """Take step ``number`` (from 0), or a part of one where gradients accumulate.

        Returns:
            (4,) sums: loss, hits, weight, whether all weights were 0.
        """
        optimiser, count, share = self.trainee.optimiser, len(ids), 1 / self.plan.accumulate
        optimiser.param_groups[0]["lr"] = lr
        if number % self.plan.accumulate == 0:
            optimiser.zero_grad()
        forward = Forward(
            self.trainee.model,
            optimiser,
            batch,
            seed=derive_seed(self.plan.seed, "dropout", number),
            autocast=self.plan.amp,
            meta_running_statistics=min(len(self.bought), self.meta_batch_size) < MIN_META_SAMPLES,
            jvp_solver=self.jvp_solver,
        )
        on_device = ids.to(self.batches.device)
        weights, loss = self._weigh(forward, batch, on_device, meta_order, noise)
        if loss is None:
            forward.backward(weights, share)
            loss = (weights * forward.losses.detach()).sum()
        else:
            (share * loss).backward()  # type: ignore[no-untyped-call]
        if (number + 1) % self.plan.accumulate == 0:
            optimiser.step()
            if self.joint is not None:
                self.joint.stepped(forward.params)
        hits = (forward.logits[:count].detach().argmax(1) == batch.labels).sum()
        return torch.stack([loss.detach() * count, hits, weights.sum() * count, (weights == 0).all()])

    def _weigh(
        self,
        forward: Forward,
        batch: Batch,
        ids: torch.Tensor,
        meta_order: torch.Generator,
        noise: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The batch's weights, and its loss; None: the weights times the cross-entropy of the given labels."""
        if self.meta is None:
            hook = cast(Hook, self.trainee.method)
            weights = torch.full((len(ids),), 1 / len(ids), device=self.batches.device)
            losses = hook.loss(forward.logits, batch.labels, ids, self.is_bought[ids])
            return weights, (weights * losses).sum()
        meta_batch = self.batches.get(self._meta_ids(meta_order), noise)
        lr = self.trainee.optimiser.param_groups[0]["lr"]
        weights, targets = self.meta.step(forward, meta_batch, ids, lr)
        return weights, None if targets is None else _soft_loss(forward, targets)

    def _meta_ids(self, order: torch.Generator) -> torch.Tensor:
        """The method's own choice, or bought samples in random order."""
        if self.joint is not None:
            return self.joint.meta_ids(self.meta_batch_size, order)
        shuffled = torch.randperm(len(self.bought), generator=order)
        return self.bought[shuffled[: self.meta_batch_size]]


def _soft_loss(forward: Forward, targets: torch.Tensor) -> torch.Tensor:
    return -(targets * F.log_softmax(forward.logits, 1)).sum()


def final_model(trainee: TrainState) -> nn.Module:
    """The model that a run is judged by: a copy with averaged parameters, where its method averages them."""
    averaged = trainee.method.averaged() if isinstance(trainee.method, JointRun) else None
    if averaged is None:
        return trainee.model
    model = deepcopy(trainee.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in averaged:
                parameter.copy_(averaged[name])
    return model
