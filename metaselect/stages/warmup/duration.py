"""How long a warm-up will take, from a few steps on a part of the pool, and what would be quicker."""

import math
import time
from dataclasses import replace

import torch

from metaselect.random import generator
from metaselect.records import SilentReporter
from metaselect.reweighting.uniform import UniformRun
from metaselect.stages.warmup.descent import batches_for
from metaselect.stages.warmup.plan import WarmupPlan
from metaselect.text import counted
from metaselect.training.loop import start_training, train
from metaselect.training.predict import predict

LONG = 600.0  # seconds, from which on quicker ways are named
LARGE_SIDE = 64  # pixels, above which a training of images on a CPU is long
LARGE_TRAINING = 3e9  # numbers that pass through the model's input, from which on any training is
LONGEST_PROBE = 2.0  # seconds, after which no further batch is tried
MOST_BATCHES = 8


def may_be_long(plan: WarmupPlan) -> bool:
    """Whether the training is worth a probe: by its images on a CPU, or by its length anywhere."""
    if plan.descent is None:
        return False
    shape = plan.pool.inputs.shape[1:]
    if len(shape) > 1 and max(shape[1:]) > LARGE_SIDE and plan.device.type == "cpu":
        return True
    passes = plan.descent.config.epochs * (1 + plan.folds)
    return len(plan.train_ids) * math.prod(shape) * passes > LARGE_TRAINING


def estimated_seconds(plan: WarmupPlan) -> float | None:
    """The seconds that training and predictions will take; None for ``linear``, which is solved within seconds.

    A model of its own takes 1, 2, 4, ... steps on random samples, as long as that is quick; nothing of it is kept.
    """
    if plan.descent is None:
        return None
    config, count = plan.descent.config, 1
    one_epoch = replace(config, epochs=1)
    batches = batches_for(plan, plan.descent.model)
    model = plan.initial_model(seed=0)
    order = plan.train_ids[torch.randperm(len(plan.train_ids), generator=generator(config.seed, "probe"))]
    state = start_training(model.to(plan.device), one_epoch, UniformRun())
    while True:
        state.epoch = 0
        ids = order[: count * config.batch_size * config.accumulate]
        started = time.monotonic()
        for _ in train(
            state,
            batches,
            one_epoch,
            ids=ids,
            bought=torch.empty(0, dtype=torch.int64),
            meta_batch_size=0,
            report=SilentReporter(),
            what="",
        ):
            pass
        trained = time.monotonic()
        predict(state.model, batches, ids)
        per_batch = (trained - started) / config.batches_in(len(ids))
        per_sample = (time.monotonic() - trained) / len(ids)
        if trained - started > LONGEST_PROBE or count >= MOST_BATCHES or len(ids) == len(order):
            break
        count *= 2
    predicted = len(plan.pool) + config.epochs * len(plan.held_out)
    once = config.epochs * config.batches_in(len(order)) * per_batch + predicted * per_sample
    return once * (1 + plan.folds)


def advice(plan: WarmupPlan, seconds: float) -> str:
    """What to say before it starts: how long it takes, and where that is long, what would be quicker."""
    assert plan.descent is not None
    shape = plan.pool.inputs.shape[1:]
    size = f" images of {shape[1]} x {shape[2]} pixels" if len(shape) > 1 else " samples"
    said = f"The training of {plan.descent.model} on {len(plan.train_ids):,}{size} takes about {spoken(seconds)}."
    if seconds < LONG:
        return said
    ways = []
    if len(shape) > 1 and max(shape[1:]) > LARGE_SIDE:
        ways.append("features of a frozen encoder (metaselect embed)")
        if _pretrained_is_quicker(plan):
            ways.append("--pretrained")
        ways.append(f"--image-size {LARGE_SIDE}")
    if plan.folds:
        ways.append("--folds 0")
    if plan.device.type == "cpu":
        ways.append("a GPU")
    return f"{said} Quicker: {', '.join(ways)}, or fewer --epochs." if ways else said


def _pretrained_is_quicker(plan: WarmupPlan) -> bool:
    """Whether fine-tuning at its defaults takes less time: half the epochs of resnet18, each no longer on a CPU."""
    from metaselect.encoders.efficientnet_lite import is_installed  # it imports torchvision

    assert plan.descent is not None
    at_default = plan.options.model is None and plan.options.epochs is None
    return at_default and plan.descent.model == "resnet18" and plan.device.type == "cpu" and is_installed()


def spoken(seconds: float) -> str:
    """Seconds as people say them: "40 seconds", "12 minutes", "8.5 hours"."""
    if seconds < 90:
        return counted(max(round(seconds), 1), "second", "seconds")
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
