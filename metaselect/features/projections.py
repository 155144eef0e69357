"""The gradient of one layer for every sample of a batch, projected while it is formed.

A layer's gradient is an (O, I) matrix G, weight and bias together (the bias is the last column); what is kept of it is
P_out G P_in^T, a Kronecker projection of its entries with k_out k_in numbers. No patch of a convolution and no G of a
large layer is ever built.

Source: Choe et al. 2024 (arXiv:2405.13954), section 3, "LoGra".
Differs: rows are orthonormal instead of Gaussian or eigenvectors, and a side that is small stays as it is.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn import grad as nn_grad

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
WEIGHT_GRADIENT = {1: nn_grad.conv1d_weight, 2: nn_grad.conv2d_weight, 3: nn_grad.conv3d_weight}
MANY_POSITIONS = 256  # from here on, one weight gradient a sample costs less than many filters
FEW_CHANNELS = 3  # an image: too few for a library's convolution to be efficient


class Projection(NamedTuple):
    """P_out (k_out, O) and P_in (k_in, I) of a layer whose gradient, bias as last column, is (O, I)."""

    outputs: torch.Tensor
    inputs: torch.Tensor


def make_projection(layer: nn.Module, numbers: int, generator: torch.Generator) -> Projection:
    """A Kronecker projection of a layer's gradient to at most ``numbers`` numbers.

    Rows are orthonormal, scaled so that inner products keep their expectation; a side that is small stays as it is.
    The relative error is about 1/k_out + 1/k_in over the sides that are projected, so keeping a side of s whole,
    at 1 / (numbers / s), beats halving the exponent between both, at 2 / sqrt(numbers), while s <= 2 sqrt(numbers).
    """
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    outputs = weight.shape[0]
    inputs = weight[0].numel() + (layer.bias is not None)
    k_out, k_in = outputs, inputs
    if outputs * inputs > numbers:
        root, small, large = numbers**0.5, min(outputs, inputs), max(outputs, inputs)
        low, high = (small, numbers // small) if small <= min(2 * root, numbers) else (int(root), int(root))
        k_out, k_in = (low, min(high, large)) if outputs <= inputs else (min(high, large), low)
    # Both are drawn on the CPU, so that the projection is the same on every device.
    return Projection(
        _orthonormal(k_out, outputs, generator).to(weight.device, weight.dtype),
        _orthonormal(k_in, inputs, generator).to(weight.device, weight.dtype),
    )


def project_gradients(
    layer: nn.Module, given: torch.Tensor, delta: torch.Tensor, side: Projection
) -> torch.Tensor:
    """(B, k_out, k_in) P_out G P_in^T from a layer's input and the gradient with respect to its output."""
    bias = side.inputs[:, -1] if layer.bias is not None else None
    weights = side.inputs if bias is None else side.inputs[:, :-1]
    if isinstance(layer, nn.Linear):
        a, b = F.linear(given, weights, bias), F.linear(delta, side.outputs)
        a, b = a.view(len(a), -1, a.shape[-1]), b.view(len(b), -1, b.shape[-1])  # (B, positions, k)
        return b.transpose(1, 2) @ a
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    given, padding = _padded(layer, given)
    many = delta[0, 0].numel() >= MANY_POSITIONS
    if layer.groups == 1 and not (many and len(side.outputs) < len(side.inputs)):
        # The rows of P_in are filters, whose responses are the projected patches; no patch is ever built.
        filters = weights.reshape(len(weights), *layer.weight.shape[1:])
        dims = layer.weight.dim() - 2
        a = CONVOLVE[dims](given, filters, bias, layer.stride, padding, layer.dilation).flatten(2)
        return (side.outputs @ delta.flatten(2)) @ a.transpose(1, 2)
    gradient = _convolution_gradients(layer, given, delta, side.outputs, padding)
    found = gradient @ weights.T
    if bias is not None:
        found += (side.outputs @ delta.flatten(2).sum(2)[:, :, None]) * bias
    return found


def _convolution_gradients(
    layer: Convolution,
    given: torch.Tensor,
    delta: torch.Tensor,
    outputs: torch.Tensor,
    padding: tuple[int, ...],
) -> torch.Tensor:
    """(B, k_out, I) P_out G without the bias: one weight gradient in which every sample is a group of its own."""
    size, groups = len(given), layer.groups
    if groups == 1 and len(outputs) < outputs.shape[1]:  # else outputs that see different inputs would mix
        delta = (outputs @ delta.flatten(2)).view(size, -1, *delta.shape[2:])
    if groups == 1 and layer.in_channels <= FEW_CHANNELS and layer.stride == layer.dilation == (1, 1):
        return _by_rows(F.pad(given, (padding[1], padding[1], padding[0], padding[0])), delta)
    shape = (size * delta.shape[1], *layer.weight.shape[1:])
    weight_gradient: Callable[..., torch.Tensor] = WEIGHT_GRADIENT[layer.weight.dim() - 2]
    gradient = weight_gradient(
        given.flatten(0, 1)[None],
        shape,
        delta.flatten(0, 1)[None],
        layer.stride,
        padding,
        layer.dilation,
        size * groups,
    ).view(size, delta.shape[1], -1)
    return outputs @ gradient if groups > 1 else gradient


def _by_rows(given: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """(B, k_out, I) of a plain 2-D convolution: patches are unfolded across only, since rows of them are views."""
    size, channels, height, width = given.shape
    rows, columns = delta.shape[2:]
    kernel = width - columns + 1
    steps = given.stride()
    across = given.as_strided(
        (size, channels, kernel, height, columns), (steps[0], steps[1], steps[3], steps[2], steps[3])
    ).reshape(size, channels * kernel, height * columns)
    flat = delta.flatten(2)
    parts = [
        flat @ across[:, :, top * columns : (top + rows) * columns].transpose(1, 2)
        for top in range(height - rows + 1)
    ]
    return torch.stack(parts, 2).view(size, -1, len(parts), channels, kernel).transpose(2, 3).flatten(2)


def _padded(layer: Convolution, given: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The input and the padding that is left to do, as numbers: "same" may pad the two sides unequally."""
    if not isinstance(layer.padding, str):
        return given, layer.padding
    none = (0,) * (layer.weight.dim() - 2)
    if layer.padding == "valid":
        return given, none
    sides: list[int] = []
    for size, dilation in zip(reversed(layer.kernel_size), reversed(layer.dilation), strict=True):
        total = dilation * (size - 1)
        sides += [total // 2, total - total // 2]
    return F.pad(given, sides), none


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, columns) float64, orthonormal rows times sqrt(columns / rows); the identity where nothing is lost."""
    if rows == columns:
        return torch.eye(columns, dtype=torch.float64)
    draw = torch.randn(columns, rows, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(draw)
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)  # the sign is the library's choice otherwise
    found: torch.Tensor = q.T * (columns / rows) ** 0.5
    return found
