"""The head of a model: the ``nn.Linear`` whose output is the logits; its input is the representation (width d)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from metaselect.errors import UsageError

MARK = "_metaselect_head"  # an attribute of the model; copies of the model have it too


def head_of(model: nn.Module) -> nn.Linear:
    """The head of a model of ``build_model``; of another one, the ``nn.Linear`` that was registered last.

    Raises:
        UsageError: the model has no ``nn.Linear``.
    """
    layers = linear_layers(model)
    if not layers:
        raise UsageError("The model has no nn.Linear layer.", "Its logits must be the output of one.")
    return layers[getattr(model, MARK, list(layers)[-1])]


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Every ``nn.Linear`` by its name, in the order of registration."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


def mark_head(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Find the head by a pass over ``inputs`` (B, ...) in evaluation mode, and remember it; returns the logits.

    Raises:
        UsageError: the logits are not the output of an ``nn.Linear`` that is applied once.
    """
    outputs: list[tuple[str, torch.Tensor]] = []
    was_training = model.training
    with _recorded(model, outputs), torch.no_grad():
        logits: torch.Tensor = model.eval()(inputs)
    model.train(was_training)
    if not isinstance(logits, torch.Tensor):
        raise UsageError(f"The model gives a {type(logits).__name__}.", "It must return the logits, (B, K).")
    found = {name for name, output in outputs if _is_same(output, logits)}
    if len(found) != 1 or [name for name, _ in outputs].count(*found) > 1:
        raise UsageError(_reason(outputs), "Its logits must be the output of an nn.Linear, applied once.")
    setattr(model, MARK, found.pop())
    return logits


@contextmanager
def _recorded(model: nn.Module, outputs: list[tuple[str, torch.Tensor]]) -> Iterator[None]:
    """A context in which the output of every ``nn.Linear`` is added to a list."""

    def record(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_hook(lambda _, __, output: outputs.append((name, output)))

    hooks = [record(name, layer) for name, layer in linear_layers(model).items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_same(output: torch.Tensor, logits: torch.Tensor) -> bool:
    return output.shape == logits.shape and output.data_ptr() == logits.data_ptr()


def _reason(outputs: list[tuple[str, torch.Tensor]]) -> str:
    """Why no layer is the head."""
    if not outputs:
        return "The model has no nn.Linear layer that is used."
    name, output = outputs[-1]
    return (
        f"The model's logits are not the output of an nn.Linear; the last one that is used, {name or 'the model'}, "
        f"gives a tensor of shape {tuple(output.shape)} for {len(output)} samples."
    )
