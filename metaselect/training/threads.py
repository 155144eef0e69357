"""The number of CPU threads of a training: one where the model is small.

Threads wait for each other after every operation. Where operations are short, two of them take three fifths of the time
of one on an idle machine, and many times as long where other processes want the same cores (docs/measurements.md). The
rule counts FLOPs and measures no time, so that a command always takes the same number of threads: sums in another
number are rounded otherwise.
"""

import os
from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from metaselect.training.batches import Batches

SMALL_FLOPS = 10**9  # of a forward pass over a batch, about a hundredth of a second on one core
GIVEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # variables by which a user chooses the number


def limit_threads(model: nn.Module, batches: Batches, batch_size: int) -> None:
    """Have torch use one thread from here on if training the model on a CPU is a small computation.

    A number that the user chose stays, and so does that of a training on another device.

    Args:
        model: on the device of the batches.
        batches: the data.
        batch_size: of the training.
    """
    if batches.device.type != "cpu" or chosen_by_user(os.environ):
        return
    if batch_size * flops_per_sample(model, batches) < SMALL_FLOPS:
        torch.set_num_threads(1)


def continue_with(threads: int) -> None:
    """Have torch use the number of threads that a training began with, unless the user chose another one."""
    if not chosen_by_user(os.environ):
        torch.set_num_threads(threads)


def chosen_by_user(environment: Mapping[str, str]) -> bool:
    """Whether environment variables set the number of threads."""
    return any(environment.get(name) for name in GIVEN_BY)


def flops_per_sample(model: nn.Module, batches: Batches) -> int:
    """FLOPs of the convolutions and matrix products in a forward pass, two for each multiplication and addition."""
    was_training = model.training
    model.eval()  # neither dropout nor BatchNorm changes any state
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(batches.get(torch.zeros(1, dtype=torch.int64)).inputs)
    model.train(was_training)
    return int(counter.get_total_flops())
