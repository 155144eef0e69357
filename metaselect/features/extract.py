"""One pass of a checkpoint over the pool: last-layer factors, or projected gradients of sampled layers."""

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
from metaselect.models.batch import full_precision
from metaselect.models.build import last_linear
from metaselect.records import Json, Reporter
from metaselect.selection.base import Gradients
from metaselect.training.batches import Batches

FEATURE_BATCH, FEATURE_PIXELS = 500, 2**21  # at most, of a batch without a backward pass
GRADIENT_BATCH, GRADIENT_PIXELS = 256, 2**18  # of one with a backward pass, whose activations stay in memory


class GradientSettings(Protocol):
    """What a selector says of the gradients that it wants; see ``selection.gbc``."""

    draws: int
    width: int
    sample: int
    gradient: str


def last_layer_factors(model: nn.Module, batches: Batches, report: Reporter, what: str) -> LastLayerFactors:
    """Run the model in eval mode, without augmentation, over the whole pool.

    Source: Wu et al. 2023 (arXiv:2302.04418), Eq. 11 and 12. Only forward passes are needed, and labels play no
    part in them.

    Args:
        model: on the batches' device.
        batches: n samples.
        report: shows progress.
        what: a word for the progress line.
    """
    model.eval()
    caught: list[torch.Tensor] = []
    hook = last_linear(model).register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    size = _batch_size(batches, FEATURE_PIXELS, FEATURE_BATCH)
    chunks = torch.split(torch.arange(len(batches)), size)
    factors: LastLayerFactors | None = None
    try:
        with (
            torch.no_grad(),
            report.track(len(batches), what, "samples") as advance,
        ):
            for ids, batch in batches.stream(chunks):
                probs = full_precision(model(batch.inputs)).softmax(1).cpu()
                hidden = caught.pop().float().cpu()
                if factors is None:
                    n = len(batches)
                    factors = LastLayerFactors(
                        torch.empty(n, probs.shape[1]), torch.empty(n, hidden.shape[1])
                    )
                factors.probs[ids], factors.hidden[ids] = probs, hidden
                advance(len(ids))
    finally:
        hook.remove()
    assert factors is not None  # a pool is never empty
    return factors


def gradient_features(
    model: nn.Module,
    batches: Batches,
    method: GradientSettings,
    generator: torch.Generator,
    report: Reporter,
    what: str,
) -> tuple[Gradients, dict[str, Json]]:
    """Projected gradients of layers that are drawn once for all samples; and which layers those are.

    Args:
        model: on the batches' device.
        batches: n samples.
        method: how many layers, numbers and samples, and which part of the gradient.
        generator: on the CPU; of the sample, the layers and the projections.
        report: shows progress.
        what: a word for the progress line.

    Raises:
        UsageError: the model has no layer that can be sampled.
    """
    model.eval()
    n = len(batches)
    size = _batch_size(batches, GRADIENT_PIXELS, GRADIENT_BATCH)
    some = torch.randperm(n, generator=generator)[: method.sample].sort().values
    energies = layer_energies(
        model, (batch for _, batch in batches.stream(torch.split(some, size))), method.gradient
    )
    if not energies:
        raise UsageError(
            "This model has no linear or convolutional layer that can be sampled.", "Use --method rbc."
        )
    draws = draw_layers(energies, method.draws, generator)
    layers = dict(model.named_modules())
    projections = [
        make_projection(layers[draw.name], method.width * draw.times // method.draws, generator)
        for draw in draws
    ]
    sampled = SampledGradients(model, draws, projections, method.gradient)
    found = Gradients(torch.empty(n), torch.empty(n, sampled.width, dtype=torch.float16))
    with report.track(n, what, "samples") as advance:
        for ids, batch in batches.stream(torch.split(torch.arange(n), size)):
            rows = sampled(batch)
            norms = rows.norm(dim=1)
            found.norms[ids] = norms.cpu().float()
            found.directions[ids] = rows.mul_((1 / norms.clamp(min=1e-30))[:, None]).half().cpu()
            advance(len(ids))
    drawn: list[Json] = [{"layer": d.name, "draws": d.times, "scale": round(d.scale, 6)} for d in draws]
    unable: list[Json] = [*layers_without_gradients(model, energies)]
    return found, {"sampled_layers": drawn, "width": sampled.width, "layers_without_gradients": unable}


def _batch_size(batches: Batches, pixels: int, most: int) -> int:
    """Samples of a batch: at most ``most``, and fewer where they are large; at least 8."""
    return min(max(pixels // batches.raw[0].numel(), 8), most)
