"""The optimiser of a training; ``metagrad.virtual_step`` knows the step of each of them."""

from typing import NamedTuple

import torch
from torch import nn


class OptimiserSettings(NamedTuple):
    """What an optimiser is made with.

    Attributes:
        name: "sgd", "adam" or "adamw".
        lr: rate per step.
        momentum: of SGD, Nesterov's wherever it is not 0; Adam and AdamW have their own two.
        weight_decay: L2 factor; of AdamW, decoupled.
    """

    name: str
    lr: float
    momentum: float
    weight_decay: float


def make_optimiser(model: nn.Module, given: OptimiserSettings) -> torch.optim.Optimizer:
    """The optimiser of all parameters, before its first step."""
    parameters, lr, decay = model.parameters(), given.lr, given.weight_decay
    if given.name == "sgd":
        mu = given.momentum
        return torch.optim.SGD(parameters, lr, momentum=mu, weight_decay=decay, nesterov=mu > 0)
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[given.name](parameters, lr, weight_decay=decay)
