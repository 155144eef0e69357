"""The optimiser of a training; ``metagrad.virtual_step`` has the virtual step of each of them."""

from typing import NamedTuple

import torch
from torch import nn


class OptimiserSettings(NamedTuple):
    """Settings of an optimiser.

    Attributes:
        name: "sgd", "adam" or "adamw".
        lr: rate per step.
        momentum: of SGD, Nesterov's where it is not 0; ignored by Adam and AdamW, which keep torch's two betas.
        weight_decay: L2 factor; of AdamW, decoupled.
    """

    name: str
    lr: float
    momentum: float
    weight_decay: float


def make_optimiser(model: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """A new optimiser of all parameters of the model."""
    parameters, lr, decay = model.parameters(), settings.lr, settings.weight_decay
    if settings.name == "sgd":
        mu = settings.momentum
        return torch.optim.SGD(parameters, lr, momentum=mu, weight_decay=decay, nesterov=mu > 0)
    # Their betas and epsilon are torch's defaults, which are the paper's.
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[settings.name](parameters, lr, weight_decay=decay)
