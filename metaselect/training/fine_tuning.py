"""Fine-tuning: which part of a pre-trained model is trained, and at which learning rates."""

from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from metaselect.models.parameters import parameters_in


class FineTuning(NamedTuple):
    """How a pre-trained model is trained.

    Attributes:
        part: a scope of ``models.parameters.parameters_in``: "all", or "top", the last third of the layers.
        body_rate: learning rate of all parameters but the head's, as a multiple of the head's; in [0.0001, 1].
    """

    part: str
    body_rate: float


def freeze_below(model: nn.Module, part: str) -> None:
    """Let only the parameters of a part be trained, which are "all" or the "top"."""
    names = parameters_in(model, part)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in names)


def set_train_mode(model: nn.Module) -> None:
    """Train mode, but for BatchNorm whose parameters are all frozen: it goes on with the statistics that it has."""
    model.train()
    for layer in model.modules():
        parameters = list(layer.parameters(recurse=False))
        if isinstance(layer, _BatchNorm) and parameters and not any(p.requires_grad for p in parameters):
            layer.eval()
