"""Per-sample gradients of a few sampled layers, in one batched backward pass, projected while they are formed.

Sample j's loss has the gradient J_j^T (softmax(z_j) - onehot(y_j)) with J_j the Jacobian of its logits z_j. Where no
layer couples the samples (BatchNorm in eval mode), one backward pass with the rows softmax(z_j) - onehot(y_j) as
cotangent brings every sample's gradient with respect to every layer's *output*; the weight's gradient is the product
of that with the layer's input. So parameters are frozen, no weight gradient is ever formed, and the pass stops at the
earliest sampled layer. The label-free part is the same with softmax(z_j) alone.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Eq. 13 and 14 (layers drawn by the energy of their mean
gradient); the projection is that of Choe et al. 2024 (arXiv:2405.13954), with orthonormal rows.
Differs: a layer is its weight and bias together, the energies come from a seeded subset of the pool, and repeated
draws are merged. The authors' code draws single tensors with the energy divided by their size.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.features.projections import Projection, project_gradients
from metaselect.models.batch import Batch, full_precision


class DrawnLayer(NamedTuple):
    """One sampled layer.

    Attributes:
        name: in the model.
        times: how often it was drawn.
        scale: its block's factor, sqrt(times / (draws p)), which makes sums of inner products unbiased.
    """

    name: str
    times: int
    scale: float


def sampleable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear and convolutional layers by name; those with a padding other than zeros are left out."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.padding_mode == "zeros")
    }


def layers_called_per_sample(model: nn.Module, batch: Batch) -> set[str]:
    """Those that a forward pass calls with one row of input and output for each sample.

    An attention's projection is used without being called, and a layer may work on positions or patches as if they
    were samples. Two sizes tell them apart, where one could agree by accident.
    """
    return _called_with(model, batch, 3) & _called_with(model, batch, 5)


def _called_with(model: nn.Module, batch: Batch, size: int) -> set[str]:
    """The layers whose every call takes and gives ``size`` rows when the model is given so many samples."""
    called: dict[str, bool] = {}

    def note(name: str, given: tuple[object, ...], output: torch.Tensor) -> None:
        whole = bool(given) and isinstance(given[0], torch.Tensor) and len(given[0]) == len(output) == size
        called[name] = called.get(name, True) and whole

    hooks = [
        layer.register_forward_hook(lambda _, given, output, name=name: note(name, given, output))
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
    """Names of the layers that have parameters of their own and are not among those that can be sampled."""
    return [
        name
        for name, layer in model.named_modules()
        if name not in sampled and any(True for _ in layer.parameters(recurse=False))
    ]


def cotangent(logits: torch.Tensor, labels: torch.Tensor, gradient: str) -> torch.Tensor:
    """(B, K) rows of d loss / d logits: "full" softmax - onehot(label), "label-free" softmax alone; no graph."""
    probs = logits.detach().softmax(1)
    return probs - F.one_hot(labels, probs.shape[1]) if gradient == "full" else probs


def layer_energies(model: nn.Module, batches: Iterable[Batch], gradient: str) -> dict[str, float]:
    """A_l: the squared norm of the mean gradient of each sampleable layer (weight and bias), in order of the model.

    Layers that ``layers_called_per_sample`` leaves out, or whose weight another layer shares, are left out.

    Args:
        model: in eval mode.
        batches: samples that the mean is taken over; at least one batch.
        gradient: as in ``cotangent``.
    """
    layers = sampleable_layers(model)
    weights = [layer.weight for layer in layers.values()]
    batches = iter(batches)
    first = next(batches)
    watched = layers_called_per_sample(model, first)
    owned = {
        name: layer
        for name, layer in layers.items()
        if name in watched
        and sum(layer.weight is weight for weight in weights) == 1
        and isinstance(layer.weight, nn.Parameter)
    }
    params = {
        (name, part): value for name, layer in owned.items() for part, value in layer.named_parameters()
    }
    if not params:
        return {}
    sums: dict[tuple[str, str], torch.Tensor] = {}
    count = 0
    with _frozen(model, list(params.values())):
        for batch in chain((first,), batches):
            logits = full_precision(model(batch.inputs))
            found = torch.autograd.grad(
                logits,
                list(params.values()),
                cotangent(logits, batch.labels, gradient),
                allow_unused=True,
            )
            count += len(batch.labels)
            for key, value in zip(params, found, strict=True):
                if value is not None:
                    sums[key] = sums[key] + value if key in sums else value
    energies: dict[str, float] = {}
    for (name, _), total in sums.items():
        energies[name] = energies.get(name, 0.0) + float((total / count).cpu().double().square().sum())
    return energies


def draw_layers(energies: Mapping[str, float], draws: int, generator: torch.Generator) -> list[DrawnLayer]:
    """``draws`` layers with replacement, with probability p_l = A_l / A; repeated ones merged.

    Uniform where every energy is 0, as in a model that is dead.
    """
    weights = torch.tensor(list(energies.values()), dtype=torch.float64)
    if not weights.sum() > 0:
        weights = torch.ones_like(weights)
    p = weights / weights.sum()
    drawn = torch.multinomial(p, draws, replacement=True, generator=generator)
    counts = torch.bincount(drawn, minlength=len(p))
    return [
        DrawnLayer(name, int(count), float((count / (draws * share)).sqrt()))
        for name, count, share in zip(energies, counts, p, strict=True)
        if count
    ]


class SampledGradients:
    """Projected per-sample gradients of the drawn layers of one model.

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
        # A block's scale goes into its projection, where it costs nothing.
        self.projections = [
            Projection(side.outputs, side.inputs * draw.scale)
            for draw, side in zip(draws, projections, strict=True)
        ]
        named = dict(model.named_modules())
        self.layers = [named[draw.name] for draw in draws]

    @property
    def width(self) -> int:
        """r: numbers in a row."""
        return sum(len(side.outputs) * len(side.inputs) for side in self.projections)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """(B, r): each block is P_out G P_in^T of one layer, flattened, times its scale."""
        calls: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        with _frozen(self.model, []), self._watched(calls):
            logits = full_precision(self.model(batch.inputs))
            deltas = torch.autograd.grad(
                logits,
                [output for _, _, output in calls],
                cotangent(logits, batch.labels, self.gradient),
                allow_unused=True,
                materialize_grads=True,
            )
        blocks: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for (place, given, _), delta in zip(calls, deltas, strict=True):
                block = project_gradients(self.layers[place], given, delta, self.projections[place]).flatten(
                    1
                )
                # Added up, since a layer may be used more than once in a pass.
                blocks[place] = blocks[place] + block if place in blocks else block
            return torch.cat([blocks[place] for place in range(len(self.layers))], 1)

    @contextmanager
    def _watched(self, calls: list[tuple[int, torch.Tensor, torch.Tensor]]) -> Iterator[None]:
        """Keep inputs and outputs of the sampled layers; their outputs are what is differentiated by."""

        def keep(place: int, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            if not output.requires_grad:
                output.requires_grad_()
            calls.append((place, given.detach(), output))
            return output.clone()  # the next layer may work in place

        hooks = [
            layer.register_forward_hook(lambda _, given, output, place=place: keep(place, given[0], output))
            for place, layer in enumerate(self.layers)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _frozen(model: nn.Module, wanted: Sequence[nn.Parameter]) -> Iterator[None]:
    """Only the ``wanted`` parameters require gradients in this block."""
    saved = [(value, value.requires_grad) for value in model.parameters()]
    for value, _ in saved:
        value.requires_grad_(False)
    for value in wanted:
        value.requires_grad_(True)
    try:
        yield
    finally:
        for value, requires in saved:
            value.requires_grad_(requires)
