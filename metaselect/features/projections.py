"""Kronecker projections of one layer's gradient, for every sample of a batch, without forming the gradient.

A layer's gradient is an (O, I) matrix G, weight and bias together (the bias is the last column). The features are
P_out G P_in^T, a Kronecker projection of its entries to k_out k_in entries. No patches of a convolution and no G of a
large layer are ever formed.

Source: Choe et al. 2024 (arXiv:2405.13954), section 3, "LoGra".
Differs: rows are orthonormal instead of Gaussian or eigenvectors, and a small side is not projected.
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
# From this many output positions on, a weight gradient per sample takes less time than k_in filters, if k_out < k_in:
# 3x3 convolution of 32 channels, 32 samples, k_in 64, one CPU thread: 1.3 ms against 3.8 at 16 x 16 positions, but
# 1.8 against 0.5 at 8 x 8.
MANY_POSITIONS = 256
# With at most so many input channels (images), ``_by_rows`` is faster than a grouped convolution: 1.6 ms, not 2.4, for
# a 3x3 convolution of 3 channels to 32 at 32 x 32 positions, 32 samples, one CPU thread.
FEW_CHANNELS = 3


class Projection(NamedTuple):
    """P_out (k_out, O) and P_in (k_in, I) for a layer whose gradient, with the bias as last column, is (O, I)."""

    outputs: torch.Tensor
    inputs: torch.Tensor


def make_projection(layer: nn.Module, max_entries: int, generator: torch.Generator) -> Projection:
    """A Kronecker projection of a layer's gradient to at most ``max_entries`` entries.

    Rows are orthonormal, scaled so that inner products keep their expectation. The relative error is the sum of 1/k
    over the sides that are projected. With N for ``max_entries``: projecting both sides to sqrt(N) gives 2 / sqrt(N);
    keeping a side of size s and projecting the other to N / s gives s / N, which is less while s <= 2 sqrt(N).
    """
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    outputs = weight.shape[0]
    inputs = weight[0].numel() + (layer.bias is not None)
    k_out, k_in = outputs, inputs  # both sides whole, if that is few enough entries
    if outputs * inputs > max_entries:
        root, small, large = max_entries**0.5, min(outputs, inputs), max(outputs, inputs)
        low, high = (
            (small, max_entries // small) if small <= min(2 * root, max_entries) else (int(root), int(root))
        )
        k_out, k_in = (low, min(high, large)) if outputs <= inputs else (min(high, large), low)
    # Both are drawn on the CPU, so that the projection is the same on every device.
    return Projection(
        _orthonormal(k_out, outputs, generator).to(weight.device, weight.dtype),
        _orthonormal(k_in, inputs, generator).to(weight.device, weight.dtype),
    )


def project_gradients(
    layer: nn.Module, inputs: torch.Tensor, output_gradients: torch.Tensor, projection: Projection
) -> torch.Tensor:
    """(B, k_out, k_in) P_out G P_in^T, from a layer's inputs and the gradients by its outputs."""
    bias = projection.inputs[:, -1] if layer.bias is not None else None
    weights = projection.inputs if bias is None else projection.inputs[:, :-1]
    if isinstance(layer, nn.Linear):
        a, b = F.linear(inputs, weights, bias), F.linear(output_gradients, projection.outputs)
        a, b = a.view(len(a), -1, a.shape[-1]), b.view(len(b), -1, b.shape[-1])  # (B, positions, k)
        return b.transpose(1, 2) @ a  # (B, k_out, k_in), summed over positions
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    inputs, padding = _padded(layer, inputs)
    many = output_gradients[0, 0].numel() >= MANY_POSITIONS
    if layer.groups == 1 and not (many and len(projection.outputs) < len(projection.inputs)):
        # Used as filters, the rows of P_in give the projected patches as responses: (B, k_in, positions).
        filters = weights.reshape(len(weights), *layer.weight.shape[1:])
        dims = layer.weight.dim() - 2
        a = CONVOLVE[dims](inputs, filters, bias, layer.stride, padding, layer.dilation).flatten(2)
        return (projection.outputs @ output_gradients.flatten(2)) @ a.transpose(1, 2)
    gradient = _convolution_gradients(layer, inputs, output_gradients, projection.outputs, padding)
    block = gradient @ weights.T
    if bias is not None:
        block += (projection.outputs @ output_gradients.flatten(2).sum(2)[:, :, None]) * bias
    return block


def _convolution_gradients(
    layer: Convolution,
    inputs: torch.Tensor,
    output_gradients: torch.Tensor,
    outputs: torch.Tensor,
    padding: tuple[int, ...],
) -> torch.Tensor:
    """(B, k_out, I) P_out G without the bias, by one weight gradient in which each sample is a group of its own."""
    size, groups = len(inputs), layer.groups
    if groups == 1 and len(outputs) < outputs.shape[1]:  # with groups, outputs of different inputs would mix
        output_gradients = (outputs @ output_gradients.flatten(2)).view(size, -1, *output_gradients.shape[2:])
    if groups == 1 and layer.in_channels <= FEW_CHANNELS and layer.stride == layer.dilation == (1, 1):
        return _by_rows(F.pad(inputs, (padding[1], padding[1], padding[0], padding[0])), output_gradients)
    shape = (size * output_gradients.shape[1], *layer.weight.shape[1:])
    weight_gradient: Callable[..., torch.Tensor] = WEIGHT_GRADIENT[layer.weight.dim() - 2]
    gradient = weight_gradient(
        inputs.flatten(0, 1)[None],
        shape,
        output_gradients.flatten(0, 1)[None],
        layer.stride,
        padding,
        layer.dilation,
        size * groups,
    ).view(size, output_gradients.shape[1], -1)
    return outputs @ gradient if groups > 1 else gradient


def _by_rows(inputs: torch.Tensor, output_gradients: torch.Tensor) -> torch.Tensor:
    """(B, k_out, I) P_out G of a plain 2-D convolution of stride 1.

    Patches are unfolded along the width only; the rows of a patch are views of the unfolded image.
    """
    size, channels, height, width = inputs.shape
    rows, columns = output_gradients.shape[2:]
    kernel = width - columns + 1
    steps = inputs.stride()
    across = inputs.as_strided(
        (size, channels, kernel, height, columns), (steps[0], steps[1], steps[3], steps[2], steps[3])
    ).reshape(size, channels * kernel, height * columns)
    flat = output_gradients.flatten(2)  # (B, k_out, rows columns)
    parts = [
        flat @ across[:, :, top * columns : (top + rows) * columns].transpose(1, 2)
        for top in range(height - rows + 1)
    ]
    return torch.stack(parts, 2).view(size, -1, len(parts), channels, kernel).transpose(2, 3).flatten(2)


def _padded(layer: Convolution, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The inputs, padded here where ``padding`` is "same" (the two ends may differ), and the padding still to do."""
    if not isinstance(layer.padding, str):
        return inputs, layer.padding
    none = (0,) * (layer.weight.dim() - 2)
    if layer.padding == "valid":
        return inputs, none
    sides: list[int] = []  # F.pad takes the last dimension first
    for size, dilation in zip(reversed(layer.kernel_size), reversed(layer.dilation), strict=True):
        total = dilation * (size - 1)
        sides += [total // 2, total - total // 2]
    return F.pad(inputs, sides), none


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, columns) float64, orthonormal rows times sqrt(columns / rows); the identity where ``rows == columns``."""
    if rows == columns:
        return torch.eye(columns, dtype=torch.float64)
    gaussian = torch.randn(columns, rows, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)  # fix the signs, which depend on the library
    scaled: torch.Tensor = q.T * (columns / rows) ** 0.5
    return scaled
