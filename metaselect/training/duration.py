"""How long a training will take, from a few of its steps on a part of the pool, and how to say it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from metaselect.random import generator
from metaselect.ranks import alone
from metaselect.records import SilentReporter
from metaselect.reweighting.base import MethodRun
from metaselect.text import counted
from metaselect.training.batches import Batches
from metaselect.training.loop import TrainingConfig, start_training, train
from metaselect.training.predict import predict
from metaselect.training.threads import limit_threads

LONG = 600.0  # seconds, from which on quicker ways are named
LARGE_SIDE = 64  # pixels, above which a training of images on a CPU is long
LARGE_TRAINING = 3e9  # numbers that pass through the model's input, from which on any training is
LONGEST_PROBE = 2.0  # seconds, after which no further batch is tried
MOST_BATCHES = 8
PROBE_RATE = 1e-6  # a learning rate at which no probe diverges


class Pace(NamedTuple):
    """Seconds that a sample takes in a training step, and in a prediction."""

    training: float
    prediction: float


def may_be_long(shape: Sequence[int], visits: int, device: torch.device) -> bool:
    """Whether a training is worth a probe: by its images on a CPU, or by its length anywhere.

    Args:
        shape: of a sample.
        visits: samples that are trained on, once for each epoch.
        device: of the training.
    """
    return (device.type == "cpu" and has_large_images(shape)) or visits * math.prod(shape) > LARGE_TRAINING


def has_large_images(shape: Sequence[int]) -> bool:
    """Whether samples of this shape are images of more than 64 pixels."""
    return len(shape) > 1 and max(shape[1:]) > LARGE_SIDE


@alone()  # how long it takes decides how much is tried, which must not differ between ranks
def measured_pace(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    begin: Callable[[], MethodRun],
    *,
    ids: torch.Tensor,
    bought: torch.Tensor,
    meta_batch_size: int,
) -> Pace:
    """The pace of 1, 2, 4, ... steps on random samples, as many as are quick; nothing but the model changes.

    Args:
        model: for the probe alone, on the device of the batches.
        batches: the pool, with bought labels in place.
        config: of the training.
        begin: a new run of the method, for one epoch.
        ids: (n',) int64 on the CPU, the samples to train on.
        bought: (m,) int64 on the CPU.
        meta_batch_size: 0: the method has no meta batch.
    """
    one_epoch = replace(config, epochs=1, lr=PROBE_RATE)
    order = ids[torch.randperm(len(ids), generator=generator(config.seed, "probe"))]
    threads, count = torch.get_num_threads(), 1
    limit_threads(model, batches, config.batch_size)
    try:
        while True:
            part = order[: count * config.batch_size * config.accumulate]
            state = start_training(model, one_epoch, begin())
            started = time.monotonic()
            for _ in train(
                state,
                batches,
                one_epoch,
                ids=part,
                bought=bought,
                meta_batch_size=meta_batch_size,
                report=SilentReporter(),
                what="",
            ):
                pass
            trained = time.monotonic()
            predict(model, batches, part)
            if trained - started > LONGEST_PROBE or count >= MOST_BATCHES or len(part) == len(order):
                return Pace((trained - started) / len(part), (time.monotonic() - trained) / len(part))
            count *= 2
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def duration_note(what: str, shape: Sequence[int], seconds: float, ways: Sequence[str]) -> str:
    """What to say before a training: how long it takes, and where that is long, what would be quicker.

    Args:
        what: "The training of resnet18 on 2,700", such as; the samples follow.
        shape: of a sample.
        seconds: that it takes.
        ways: that are quicker, besides fewer epochs.
    """
    size = f" images of {shape[1]} x {shape[2]} pixels" if len(shape) > 1 else " samples"
    said = f"{what}{size} takes about {spoken(seconds)}."
    if seconds < LONG:
        return said
    return f"{said} Quicker: {', '.join(ways)}, or fewer --epochs." if ways else said


def spoken(seconds: float) -> str:
    """Seconds as people say them: "40 seconds", "12 minutes", "8.5 hours"."""
    if seconds < 90:
        return counted(max(round(seconds), 1), "second", "seconds")
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
