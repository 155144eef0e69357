"""Per-sample gradients of a few sampled layers, in one batched backward pass, projected while they are formed.

Sample j's loss has the gradient J_j^T (softmax(z_j) - onehot(y_j)) with J_j the Jacobian of its logits z_j. Where no
layer couples the samples (BatchNorm in eval mode), one backward pass with the rows softmax(z_j) - onehot(y_j) as
cotangent gives every sample's gradient with respect to every layer's *output*; the weight's gradient is the product of
that with the layer's input. So parameters are frozen, no weight gradient is ever formed, and the pass stops at the
earliest sampled layer. The label-free gradient has softmax(z_j) alone as cotangent.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Eq. 13 and 14 (layers drawn by the energy of their mean
gradient); the projection is that of Choe et al. 2024 (arXiv:2405.13954), with orthonormal rows.
Differs: a layer is its weight and bias together, the energies come from a seeded subset of the pool, and repeated
draws are merged. The authors' code draws single tensors with the energy divided by their size.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.features.projections import Projection, project_gradients
from metaselect.models.batch import Batch, full_precision, widest_float


class DrawnLayer(NamedTuple):
    """A layer that was drawn, perhaps several times.

    Attributes:
        name: in the model.
        times: number of draws.
        scale: factor of its features, sqrt(times / (draws p)) with p its probability, which makes inner products
            summed over the drawn layers unbiased (Eq. 14).
    """

    name: str
    times: int
    scale: float


def sampleable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear and convolutional layers by name, without convolutions that pad with anything but zeros."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.padding_mode == "zeros")
    }


def layers_called_per_sample(model: nn.Module, batch: Batch) -> set[str]:
    """Names of the layers that a forward pass calls with one row of input and of output per sample.

    Others have no per-sample gradient here: the output projection of ``nn.MultiheadAttention`` is used without a call
    of its module, and some layers get positions or patches in place of samples. Batches of two sizes are tried, since
    for one size the number of rows may agree by chance.
    """
    return _called_with(model, batch, 3) & _called_with(model, batch, 5)


def _called_with(model: nn.Module, batch: Batch, size: int) -> set[str]:
    """The layers whose every call has ``size`` rows of input and output in a pass over ``size`` samples."""
    called: dict[str, bool] = {}

    def record(name: str, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        whole = bool(inputs) and isinstance(inputs[0], torch.Tensor) and len(inputs[0]) == len(output) == size
        called[name] = called.get(name, True) and whole

    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, name=name: record(name, inputs, output))
        for name, layer in sampleable_layers(model).items()
    ]
    try:
        with torch.no_grad():
            model(batch.inputs[:1].expand(size, *batch.inputs.shape[1:]).contiguous())
    finally:
        for hook in hooks:
            hook.remove()
    return {name for name, whole in called.items() if whole}


def layers_without_gradients(model: nn.Module, sampled: Collection[str]) -> list[str]:
    """Names of the layers with parameters of their own that are not in ``sampled``."""
    return [
        name
        for name, layer in model.named_modules()
        if name not in sampled and any(True for _ in layer.parameters(recurse=False))
    ]


def cotangent(logits: torch.Tensor, labels: torch.Tensor, gradient: str) -> torch.Tensor:
    """(B, K) d loss / d logits: "full", softmax - onehot(label); "label-free", softmax alone; without a graph."""
    probs = logits.detach().softmax(1)
    return probs - F.one_hot(labels, probs.shape[1]) if gradient == "full" else probs


def layer_energies(
    model: nn.Module,
    batches: Iterable[Batch],
    gradient: str,
    *,
    all_sum: Callable[[torch.Tensor], torch.Tensor] = lambda values: values,
) -> dict[str, float]:
    """A_l (Eq. 13): squared norm of the mean gradient of each layer (weight and bias), in the model's order.

    Only layers of ``layers_called_per_sample`` whose weight no other layer shares. Gradients are added in float64.

    Args:
        model: in eval mode.
        batches: samples of the mean, or those of this rank; at least one batch.
        gradient: as in ``cotangent``.
        all_sum: the sum of a tensor over the ranks, where each has some of the batches.
    """
    layers = sampleable_layers(model)
    weights = [layer.weight for layer in layers.values()]
    batches = iter(batches)
    first = next(batches)
    called = layers_called_per_sample(model, first)
    sampled = {
        name: layer
        for name, layer in layers.items()
        if name in called
        and sum(layer.weight is weight for weight in weights) == 1
        and isinstance(layer.weight, nn.Parameter)
    }
    params = {
        (name, part): value for name, layer in sampled.items() for part, value in layer.named_parameters()
    }
    if not params:
        return {}
    sums: dict[tuple[str, str], torch.Tensor] = {}  # of the gradients of weights and biases, over all batches
    wide = widest_float(first.inputs.device)
    count = torch.zeros(1, dtype=wide, device=first.inputs.device)
    with _frozen(model, list(params.values())):
        for batch in chain((first,), batches):
            logits = full_precision(model(batch.inputs))
            gradients = torch.autograd.grad(
                logits,
                list(params.values()),
                cotangent(logits, batch.labels, gradient),
                allow_unused=True,
            )
            count += len(batch.labels)
            for key, value in zip(params, gradients, strict=True):
                if value is not None:
                    sums[key] = sums[key].add_(value) if key in sums else value.to(wide)
    count = all_sum(count)
    energies: dict[str, float] = {}
    for (name, _), total in sums.items():
        mean = (all_sum(total) / count).cpu().double()
        energies[name] = energies.get(name, 0.0) + float(mean.square().sum())
    return energies


def draw_layers(energies: Mapping[str, float], draws: int, generator: torch.Generator) -> list[DrawnLayer]:
    """``draws`` layers, with replacement and probability p_l = A_l / A (Eq. 13); repeated draws are merged.

    Uniform where every energy is 0, as for a model whose gradients vanish.
    """
    weights = torch.tensor(list(energies.values()), dtype=torch.float64)
    if not weights.sum() > 0:
        weights = torch.ones_like(weights)
    p = weights / weights.sum()  # Eq. 13
    drawn = torch.multinomial(p, draws, replacement=True, generator=generator)
    counts = torch.bincount(drawn, minlength=len(p))
    return [
        DrawnLayer(name, int(count), float((count / (draws * share)).sqrt()))
        for name, count, share in zip(energies, counts, p, strict=True)
        if count
    ]


class SampledGradients:
    """Computes the projected per-sample gradients of the drawn layers of one model.

    Args:
        model: in eval mode.
        draws: the layers.
        projections: one each.
        gradient: as in ``cotangent``.
    """

    def __init__(
        self, model: nn.Module, draws: Sequence[DrawnLayer], projections: Sequence[Projection], gradient: str
    ) -> None:
        self.model, self.gradient = model, gradient
        # The scale of a layer's block is applied to its projection once instead of to every sample.
        self.projections = [
            Projection(projection.outputs, projection.inputs * draw.scale)
            for draw, projection in zip(draws, projections, strict=True)
        ]
        modules = dict(model.named_modules())
        self.layers = [modules[draw.name] for draw in draws]

    @property
    def width(self) -> int:
        """r: numbers in a row."""
        return sum(len(projection.outputs) * len(projection.inputs) for projection in self.projections)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """(B, r) rows that concatenate, for each layer, P_out G P_in^T flattened and times the layer's scale."""
        calls: list[
            tuple[int, torch.Tensor, torch.Tensor]
        ] = []  # (layer, input, output), in order of the pass
        with _frozen(self.model, []), self._recorded(calls):
            logits = full_precision(self.model(batch.inputs))
            output_gradients = torch.autograd.grad(
                logits,
                [output for _, _, output in calls],
                cotangent(logits, batch.labels, self.gradient),
                allow_unused=True,
                materialize_grads=True,
            )
        blocks: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for (position, inputs, _), output_gradient in zip(calls, output_gradients, strict=True):
                layer, projection = self.layers[position], self.projections[position]
                block = project_gradients(layer, inputs, output_gradient, projection).flatten(1)
                # Added up: the gradient of a layer that is used several times in a pass is the sum over its calls.
                blocks[position] = blocks[position] + block if position in blocks else block
            return torch.cat([blocks[position] for position in range(len(self.layers))], 1)

    @contextmanager
    def _recorded(self, calls: list[tuple[int, torch.Tensor, torch.Tensor]]) -> Iterator[None]:
        """Append ``(position, input, output)`` to ``calls`` at each call of a sampled layer in this block.

        The outputs require gradients: the loss is differentiated with respect to them.
        """

        def record(position: int, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            if not output.requires_grad:
                output.requires_grad_()
            calls.append((position, inputs.detach(), output))
            return output.clone()  # the next layer may change its input in place

        hooks = [
            layer.register_forward_hook(
                lambda _, inputs, output, position=position: record(position, inputs[0], output)
            )
            for position, layer in enumerate(self.layers)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _frozen(model: nn.Module, trainable: Sequence[nn.Parameter]) -> Iterator[None]:
    """Only the ``trainable`` parameters require gradients in this block."""
    saved = [(value, value.requires_grad) for value in model.parameters()]
    for value, _ in saved:
        value.requires_grad_(False)
    for value in trainable:
        value.requires_grad_(True)
    try:
        yield
    finally:
        for value, requires in saved:
            value.requires_grad_(requires)
