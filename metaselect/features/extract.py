"""The features of all samples at one checkpoint: last-layer factors, or projected gradients of sampled layers."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from metaselect.errors import UsageError
from metaselect.features.files import LastLayerFactors
from metaselect.features.per_sample_gradients import (
    SampledGradients,
    draw_layers,
    layer_energies,
    layers_without_gradients,
)
from metaselect.features.projections import make_projection
from metaselect.models.batch import Batch, full_precision
from metaselect.models.head import head_of
from metaselect.ranks import divide_chunks
from metaselect.records import Json, Reporter
from metaselect.selection.base import Gradients
from metaselect.training.batches import Batches
from metaselect.training.blocks import in_blocks

# Limits of a batch, in samples and in input values. A backward pass keeps the activations, so its batch is smaller.
FORWARD_BATCH, FORWARD_PIXELS = 500, 2**21
BACKWARD_BATCH, BACKWARD_PIXELS = 256, 2**18


class GradientSettings(Protocol):
    """Fields of a selector that requires gradients, such as ``selection.gbc.GBC``.

    Attributes:
        draws: layers that are drawn, with replacement.
        width: entries of a sample's projected gradient, over all layers.
        sample: samples that the layers' energies are computed from.
        gradient: "full", or "label-free".
    """

    draws: int
    width: int
    sample: int
    gradient: str


def last_layer_factors(
    model: nn.Module, batches: Batches, report: Reporter, what: str, ids: torch.Tensor | None = None
) -> LastLayerFactors:
    """The factors of the last layer's gradient, by default for the whole pool; eval mode, without augmentation.

    Of several ranks each computes a part of them, and all get the whole.

    Source: Wu et al. 2023 (arXiv:2302.04418), Eq. 11 and 12. Only forward passes are needed, and no labels.

    Args:
        model: on the batches' device.
        batches: n samples.
        report: shows progress.
        what: the progress line's text.
        ids: (n',) int64 on the CPU, for these samples alone, in their order.
    """
    model.eval()
    ids = torch.arange(len(batches)) if ids is None else ids
    hidden_inputs: list[torch.Tensor] = []

    def compute(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_inputs.clear()  # of a block that was too large
        with torch.no_grad():
            probs = full_precision(model(batch.inputs)).softmax(1).cpu()
        return probs, hidden_inputs.pop().float().cpu()

    hook = head_of(model).register_forward_pre_hook(lambda _, inputs: hidden_inputs.append(inputs[0]))
    size = _batch_size(batches, FORWARD_PIXELS, FORWARD_BATCH)
    factors: LastLayerFactors | None = None
    chunks, division = divide_chunks(torch.split(ids, size))
    own = division.own
    try:
        with report.track(len(ids), what, "samples") as advance:
            done = 0
            for chunk, (probs, hidden) in in_blocks(batches, chunks, compute):
                if factors is None:
                    n = own.stop - own.start
                    factors = LastLayerFactors(
                        torch.empty(n, probs.shape[1]), torch.empty(n, hidden.shape[1])
                    )
                rows = slice(done, done + len(chunk))
                factors.probs[rows], factors.hidden[rows] = probs, hidden
                done += len(chunk)
                advance(len(chunk))
    finally:
        hook.remove()
    assert factors is not None  # there is a sample
    return LastLayerFactors(*map(division.joined, factors))


def gradient_features(
    model: nn.Module,
    batches: Batches,
    method: GradientSettings,
    generator: torch.Generator,
    *,
    report: Reporter,
    what: str,
) -> tuple[Gradients, dict[str, Json]]:
    """Projected gradients of layers that are drawn once for all samples; and, for ``stage.json``, these layers.

    Of several ranks each computes a part of them, and all get the whole.

    Args:
        model: on the batches' device.
        batches: n samples.
        method: its fields ``draws``, ``width``, ``sample`` and ``gradient``.
        generator: on the CPU; draws the subset for the energies, the layers and the projections.
        report: shows progress.
        what: the progress line's text.

    Raises:
        UsageError: the model has no layer whose gradient can be taken per sample.
    """
    model.eval()
    n = len(batches)
    size = _batch_size(batches, BACKWARD_PIXELS, BACKWARD_BATCH)
    sample = torch.randperm(n, generator=generator)[: method.sample].sort().values
    energies = _energies(model, batches, torch.split(sample, size), method.gradient)
    if not energies:
        raise UsageError(
            "This model has no linear or convolutional layer that can be sampled.", "Use --method rbc."
        )
    draws = draw_layers(energies, method.draws, generator)  # Eq. 13
    layers = dict(model.named_modules())
    # A layer that was drawn k times gets k shares of the width.
    projections = [
        make_projection(layers[draw.name], method.width * draw.times // method.draws, generator)
        for draw in draws
    ]
    sampled = SampledGradients(model, draws, projections, method.gradient)

    def compute(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        rows = sampled(batch)  # (b, r)
        norms = rows.norm(dim=1)
        return norms.cpu().float(), rows.mul_((1 / norms.clamp(min=1e-30))[:, None]).half().cpu()

    chunks, division = divide_chunks(torch.split(torch.arange(n), size))
    own = division.own
    gradients = Gradients(
        torch.empty(own.stop - own.start),
        torch.empty(own.stop - own.start, sampled.width, dtype=torch.float16),
    )
    with report.track(n, what, "samples") as advance:
        for ids, (norms, directions) in in_blocks(batches, chunks, compute):
            gradients.norms[ids - own.start], gradients.directions[ids - own.start] = norms, directions
            advance(len(ids))
    gradients = Gradients(*map(division.joined, gradients))
    sampled_layers: list[Json] = [
        {"layer": d.name, "draws": d.times, "scale": round(d.scale, 6)} for d in draws
    ]
    others: list[Json] = [*layers_without_gradients(model, energies)]
    return gradients, {
        "sampled_layers": sampled_layers,
        "width": sampled.width,
        "layers_without_gradients": others,
    }


def _energies(
    model: nn.Module, batches: Batches, chunks: Sequence[torch.Tensor], gradient: str
) -> dict[str, float]:
    """``layer_energies`` over the samples of all ``chunks``, of which each rank computes some.

    They are rounded to 8 digits, so that nothing depends on the order in which ranks add float64 numbers.
    """
    own, division = divide_chunks(chunks)
    found = layer_energies(
        model,
        (batch for _, batch in batches.stream(own)),
        gradient,
        all_sum=division.summed,
    )
    return {name: float(f"{energy:.8g}") for name, energy in found.items()}


def _batch_size(batches: Batches, pixels: int, most: int) -> int:
    """Samples in a batch: at most ``most``, fewer where samples are large, at least 8."""
    return min(max(pixels // batches.sample_numbers, 8), most)
