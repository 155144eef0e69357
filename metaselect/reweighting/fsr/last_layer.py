"""One virtual step of the last linear layer, and what it does to the meta loss, in closed form.

With h_i the layer's input, z_i = W h_i + c and e_i = softmax(z_i) - t_i, the gradient of a sample's loss in (W, c)
is (e_i h_i', e_i). So the layer after a step with weights w is known, and with it the meta gradient:

    dF_m/dw_i = -rate (1/m) sum_j (e_j . e_i) (h_j . h_i + 1),

with j over the meta batch, its errors taken behind the step. All of it is a few matrix products.

Source: Zhang, Pfister 2021 (FSR), Eq. 6, last row, with the last layer as the meta parameters, and Algorithm 1.
Differs: as in Eq. 6, the layer's L2 term is no part of the meta loss (the authors' code adds it).
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.reweighting.soft_targets import soft_cross_entropy

NEVER_ZERO = 1e-5  # the authors' constant: where the weights' sum comes near it, the step gets shorter


class Layer(NamedTuple):
    """A linear layer's tensors, or their momentum buffers: W (K, d), and c (K,) if it has one."""

    weight: torch.Tensor
    bias: torch.Tensor | None


class Features(NamedTuple):
    """The layer's inputs for a batch (B, d), and targets (B, K) whose rows sum to 1."""

    hidden: torch.Tensor
    targets: torch.Tensor


class LookAhead(NamedTuple):
    """A training batch before its real step.

    Attributes:
        logits: (B, K) now.
        loss: (B,) now.
        loss_ahead: (B,) behind the virtual step.
        g: (B,), the meta gradient dF_m/dw_i.
    """

    logits: torch.Tensor
    loss: torch.Tensor
    loss_ahead: torch.Tensor
    g: torch.Tensor


class VirtualStep(NamedTuple):
    """What the virtual step is taken with.

    Attributes:
        rate: eta.
        momentum: factor on the real optimiser's buffers.
        weight_decay: L2 factor.
    """

    rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def apply(self, value: torch.Tensor, gradient: torch.Tensor, buffer: torch.Tensor | None) -> torch.Tensor:
        """``value - rate (momentum buffer + gradient + weight_decay value)``."""
        step = gradient + self.weight_decay * value
        if buffer is not None:
            step = step + self.momentum * buffer
        return value - self.rate * step


def look_ahead(
    layer: Layer, batch: Features, meta: Features, step: VirtualStep, buffers: Layer | None
) -> LookAhead:
    """The virtual step with weights 1/B, and what more weight for each sample would do to the meta loss.

    Args:
        layer: now.
        batch: B training samples.
        meta: m meta samples.
        step: the virtual step's constants.
        buffers: of the real optimiser; None before its first step.
    """
    logits = logits_of(layer, batch.hidden)  # (B, K)
    errors = logits.softmax(1) - batch.targets  # e_i
    ahead = layer_ahead(layer, mean_gradient(batch.hidden, errors), step, buffers)
    meta_errors = logits_of(ahead, meta.hidden).softmax(1) - meta.targets  # e_j, (m, K)
    along = mean_gradient(meta.hidden, meta_errors)
    return LookAhead(
        logits,
        soft_cross_entropy(logits, batch.targets),
        soft_cross_entropy(logits_of(ahead, batch.hidden), batch.targets),
        meta_gradient(batch.hidden, errors, along, rate=step.rate, has_bias=layer.bias is not None),
    )


def layer_ahead(layer: Layer, gradient: Layer, step: VirtualStep, buffers: Layer | None) -> Layer:
    """The layer after a virtual step along the gradient of the weighted loss."""
    weight = step.apply(layer.weight, gradient.weight, None if buffers is None else buffers.weight)
    if layer.bias is None or gradient.bias is None:
        return Layer(weight, None)
    return Layer(weight, step.apply(layer.bias, gradient.bias, None if buffers is None else buffers.bias))


def layer_of(linear: nn.Linear) -> Layer:
    """Its parameters, without a graph."""
    return Layer(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())


def buffers_of(linear: nn.Linear, optimiser: torch.optim.Optimizer) -> Layer | None:
    """Its momentum buffers; None where there are none (yet)."""
    weight = optimiser.state.get(linear.weight, {}).get("momentum_buffer")
    if weight is None:
        return None
    return Layer(weight, optimiser.state.get(linear.bias, {}).get("momentum_buffer"))


def logits_of(layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
    """(B, K) from (B, d)."""
    return F.linear(hidden, layer.weight, layer.bias)


def mean_gradient(hidden: torch.Tensor, errors: torch.Tensor) -> Layer:
    """The gradient of the mean loss in (W, c), from (B, d) and (B, K)."""
    return Layer(errors.T @ hidden / len(hidden), errors.mean(0))


def meta_gradient(
    hidden: torch.Tensor, errors: torch.Tensor, meta: Layer, *, rate: float, has_bias: bool
) -> torch.Tensor:
    """g: (B,), dF_m/dw_i.

    Args:
        hidden: (B, d) of the training batch.
        errors: (B, K), its errors before the step.
        meta: the gradient of the meta loss behind the step.
        rate: of the virtual step.
        has_bias: the layer has a bias.
    """
    # Summed over j first: (K, d) and (K,) instead of a product for each of the B m pairs.
    products = ((errors @ meta.weight) * hidden).sum(1)  # (B,)
    if has_bias:
        assert meta.bias is not None
        products = products + errors @ meta.bias
    return -rate * products


def relu_weights(g: torch.Tensor, step: float) -> torch.Tensor:
    """(B,) weights for noisy labels: what lies above 1/B after a step against g, normalised; 0 for the rest."""
    return _normalised((-step * g).clamp(min=0))


def shifted_weights(g: torch.Tensor, step: float) -> torch.Tensor:
    """(B,) weights for long tails: moved up until the lowest is 1/B, normalised; none is 0."""
    moved = -step * g
    return _normalised(moved - moved.min() + 1 / len(g))


def _normalised(weights: torch.Tensor) -> torch.Tensor:
    return weights / (weights.sum() + NEVER_ZERO)
