"""The optimiser of a training; ``metagrad.virtual_step`` has the virtual step of each of them."""

from typing import Any, NamedTuple

import torch
from torch import nn

from metaselect.models.head import head_of


class OptimiserSettings(NamedTuple):
    """Settings of an optimiser.

    Attributes:
        name: "sgd", "adam" or "adamw".
        lr: rate per step, of the head.
        momentum: of SGD, Nesterov's where it is not 0; ignored by Adam and AdamW, which keep torch's two betas.
        weight_decay: L2 factor; of AdamW, decoupled.
        body_rate: rate of the other parameters, as a multiple of the head's.
    """

    name: str
    lr: float
    momentum: float
    weight_decay: float
    body_rate: float = 1.0


def make_optimiser(model: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """A new optimiser of all parameters of the model; the first group is the head's where the rates differ."""
    groups, lr, decay = _groups(model, settings.body_rate), settings.lr, settings.weight_decay
    if settings.name == "sgd":
        mu = settings.momentum
        optimiser: torch.optim.Optimizer = torch.optim.SGD(
            groups, lr, momentum=mu, weight_decay=decay, nesterov=mu > 0
        )
    else:  # Their betas and epsilon are torch's defaults, which are the paper's.
        kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimiser = kinds[settings.name](groups, lr, weight_decay=decay)
    set_rate(optimiser, lr)
    return optimiser


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give each group of an optimiser of ``make_optimiser`` its share of the rate ``lr``."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["share"]


def _groups(model: nn.Module, body_rate: float) -> list[dict[str, Any]]:
    if body_rate == 1:
        return [{"params": list(model.parameters()), "share": 1.0}]
    head = list(head_of(model).parameters())
    own = {id(parameter) for parameter in head}
    body = [parameter for parameter in model.parameters() if id(parameter) not in own]
    return [{"params": head, "share": 1.0}, {"params": body, "share": body_rate}]
