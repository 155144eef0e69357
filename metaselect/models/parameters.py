"""A model's parameters by name, and the parts of a model that an option can name."""

from math import ceil
from typing import TypeAlias

import torch
from torch import nn

from metaselect.models.head import head_of

Params: TypeAlias = dict[str, torch.Tensor]
"""From the name of a parameter to a tensor of its shape."""


def parameters_in(model: nn.Module, scope: str) -> frozenset[str]:
    """Names of the parameters in a scope of the model.

    Args:
        model: any that has a last linear layer.
        scope: "all"; "last", the last linear layer; or "top", the last third of the layers in the order of
            registration (of ResNet-32 its last stage and the last linear layer).
    """
    tensors = dict(model.named_parameters())
    if scope == "all":
        return frozenset(tensors)
    head = head_of(model)
    names = {name for name, value in tensors.items() if value is head.weight or value is head.bias}
    if scope == "top":
        # A layer begins with its weight, a tensor of two or more dimensions; biases and norms follow it.
        layers = [position for position, value in enumerate(tensors.values()) if value.dim() > 1]
        names |= set(list(tensors)[layers[-ceil(len(layers) / 3)] :])
    return frozenset(names)
