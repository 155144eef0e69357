"""Forward-mode rules: how a change of an operation's inputs changes its output, for operations that autograd records.

A rule is called as ``rule(node, *tangents)``. ``node`` is autograd's record of one operation, with the tensors that its
backward formula needs (``node._saved_...``); ``node(u)`` is J^T u for each input. A tangent is the change of an input,
None for a constant; at least one is not None. The rule returns J t, the change of the output, in any dtype and any
shape that broadcasts to the output's.

Where J is symmetric, J t = J^T t, so the fused backward kernel *is* the forward-mode product. That holds for everything
elementwise, for softmax, and for normalisation without its scale. ``by_two_vjps`` covers every operation without a
rule: exact for whatever autograd can differentiate twice, at the price of two backward passes of the operation. So only
operations that take time in common models have a rule here.

Source: operations and saved tensors as torch lists them in tools/autograd/derivatives.yaml; J from two products with
J^T after Townsend 2017, "A new trick for calculating Jacobian vector products".
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from metaselect.metagrad.batch_statistics import whole_batch_norm_tangent

Tangent: TypeAlias = torch.Tensor | None
Rule: TypeAlias = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]


class NoRule(Exception):
    """An operation without a forward-mode product; the message names it and the reason."""


def by_two_vjps(node: Any, *tangents: Tangent) -> tuple[torch.Tensor, ...]:
    """J t for each output, by differentiating u -> J^T u, which is linear: the transpose of J^T along t is J t.

    Raises:
        NoRule: the operation's backward pass cannot itself be differentiated.
    """
    with torch.enable_grad():
        cotangents = [
            torch.zeros(out.shape, dtype=out.dtype, device=out.device, requires_grad=True)
            for out in node._input_metadata
        ]
        result = node(*cotangents)
    vjps = result if isinstance(result, tuple) else (result,)  # J^T u, one for each input
    # A broadcast input has its VJP in the output's shape, since autograd sums it only after the node; so its tangent
    # is broadcast here.
    pairs = [(p, t.to(p.dtype).expand_as(p)) for p, t in zip(vjps, tangents, strict=True) if t is not None]
    outputs, weights = zip(*pairs, strict=True)
    try:
        return torch.autograd.grad(outputs, cotangents, weights, allow_unused=True, materialize_grads=True)
    except RuntimeError as error:
        raise NoRule(f"{node.name()}: {str(error).splitlines()[0]}") from None


def symmetric(node: Any, tangent: torch.Tensor) -> torch.Tensor:
    """Operations of one input with a symmetric Jacobian: elementwise ones (also in place), and softmax."""
    product: torch.Tensor = node(tangent)  # J^T t = J t
    return product


def identity(node: Any, tangent: torch.Tensor) -> torch.Tensor:
    """Copies, also into another dtype, and views that repeat elements."""
    del node
    return tangent


def reshape(node: Any, tangent: torch.Tensor) -> torch.Tensor:
    """Views that keep the order of the elements."""
    return tangent.reshape(node._input_metadata[0].shape)


def transpose(node: Any, tangent: torch.Tensor) -> torch.Tensor:
    """The transpose of a matrix."""
    del node
    return tangent.t()


def add(node: Any, left: Tangent, right: Tangent) -> torch.Tensor:
    """``left + alpha right``."""
    alpha: float = node._saved_alpha
    if left is None or right is None:
        return _sum(left, None if right is None else right * alpha)
    return torch.add(left, right, alpha=alpha)


def multiply(node: Any, left: Tangent, right: Tangent) -> torch.Tensor:
    """``left * right``."""
    return _sum(
        None if left is None else left * node._saved_other,
        None if right is None else right * node._saved_self,
    )


def matrix_product(node: Any, left: Tangent, right: Tangent) -> torch.Tensor:
    """``left @ right``, of matrices or of batches of them."""
    return _sum(
        None if left is None else left @ node._saved_mat2,
        None if right is None else node._saved_self @ right,
    )


def linear(node: Any, bias: Tangent, inputs: Tangent, weight: Tangent) -> torch.Tensor:
    """``beta bias + alpha inputs @ weight``; both factors are 1 in linear layers."""
    if node._saved_alpha != 1 or node._saved_beta != 1:
        return by_two_vjps(node, bias, inputs, weight)[0]
    return _sum(
        None if inputs is None else inputs @ node._saved_mat2,
        None if weight is None else node._saved_mat1 @ weight,
        bias,
    )


def convolution(node: Any, inputs: Tangent, weight: Tangent, bias: Tangent) -> torch.Tensor:
    """Convolutions of any dimension, also transposed, strided, dilated and in groups: linear in each argument."""
    arguments = (
        node._saved_stride,
        node._saved_padding,
        node._saved_dilation,
        node._saved_transposed,
        node._saved_output_padding,
        node._saved_groups,
    )
    return _sum(
        None if inputs is None else torch.convolution(inputs, node._saved_weight, None, *arguments),
        None if weight is None else torch.convolution(node._saved_input, weight, None, *arguments),
        None if bias is None else bias.view(-1, *[1] * len(node._saved_stride)),
    )


def max_pool(node: Any, inputs: torch.Tensor) -> torch.Tensor:
    """2-D max-pooling: each output changes as the input that was the largest."""
    positions = node._saved_result1  # (B, C, H', W'), indices into the flattened image
    if positions.dim() == 4 and positions.is_contiguous(memory_format=torch.channels_last):
        # The same with channels at the end; the result keeps that memory format for the next operation.
        shape = (position := positions.permute(0, 2, 3, 1)).shape  # (B, H', W', C)
        image = inputs.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H W, C)
        return image.gather(1, position.flatten(1, 2)).view(shape).permute(0, 3, 1, 2)
    return inputs.flatten(-2).gather(-1, positions.flatten(-2)).view_as(positions)


def batch_norm(node: Any, inputs: Tangent, weight: Tangent, bias: Tangent) -> torch.Tensor:
    """``weight xhat + bias``; in train mode xhat depends on the whole batch, symmetrically within each channel."""
    if not node._saved_training:
        return by_two_vjps(node, inputs, weight, bias)[0]
    x, mean, scale = (
        node._saved_input,
        node._saved_result1,
        node._saved_result2,
    )  # scale = 1 / sqrt(var + eps)
    change = None
    if weight is not None or bias is not None:
        # weight (x - mean) scale + bias = x factor + shift, in one pass over x
        factor = scale * (0 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * factor
        channel = (-1, *[1] * (x.dim() - 2))
        change = torch.addcmul(shift.view(channel), x, factor.view(channel))
    # The weight is constant within a channel, so it commutes with the symmetric part: J t = J^T t.
    return _sum(None if inputs is None else node(inputs)[0], change)


def layer_norm(node: Any, inputs: Tangent, weight: Tangent, bias: Tangent) -> torch.Tensor:
    """``weight xhat + bias``; the weight varies within what is normalised, so it is multiplied outside of J^T."""
    x, mean, scale = node._saved_input, node._saved_result1, node._saved_result2  # (..., 1): mean, 1 / std
    change = None
    if inputs is not None:
        change = torch.ops.aten.native_layer_norm_backward(
            inputs.contiguous(),
            x,
            node._saved_normalized_shape,
            mean,
            scale,
            None,
            None,
            [True, False, False],
        )[0]
        if node._saved_weight is not None:
            change = change * node._saved_weight
    return _sum(change, None if weight is None else (x - mean) * scale * weight, bias)


def group_norm(node: Any, inputs: Tangent, weight: Tangent, bias: Tangent) -> torch.Tensor:
    """As ``layer_norm``, with statistics of shape (B, groups) and one weight per channel."""
    x, mean, scale = node._saved_input, node._saved_result1, node._saved_result2
    channel = (-1, *[1] * (x.dim() - 2))
    change = by_weight = None
    if inputs is not None:
        sizes = (node._saved_N, node._saved_C, node._saved_HxW, node._saved_group)
        change = torch.ops.aten.native_group_norm_backward(
            inputs.contiguous(), x.contiguous(), mean, scale, None, *sizes, [True, False, False]
        )[0]
        if node._saved_weight is not None:
            change = change * node._saved_weight.view(channel)
    if weight is not None:
        grouped = x.reshape(*mean.shape, -1)  # (B, groups, channels of a group and pixels)
        by_weight = ((grouped - mean[..., None]) * scale[..., None]).view_as(x) * weight.view(channel)
    return _sum(change, by_weight, None if bias is None else bias.view(channel))


def _sum(*parts: Tangent) -> torch.Tensor:
    """The sum of the parts that are not None, in the memory of the first of them, which has the full shape."""
    total, *rest = (part for part in parts if part is not None)
    for part in rest:
        total.add_(part)
    return total


RULES: dict[str, Rule] = {
    "AddBackward0": add,
    "AddmmBackward0": linear,
    "BmmBackward0": matrix_product,
    "ConvolutionBackward0": convolution,
    "CudnnBatchNormBackward0": batch_norm,
    "MaxPool2DWithIndicesBackward0": max_pool,
    "MmBackward0": matrix_product,
    "MulBackward0": multiply,
    "NativeBatchNormBackward0": batch_norm,
    "NativeGroupNormBackward0": group_norm,
    "NativeLayerNormBackward0": layer_norm,
    "TBackward0": transpose,
    "WholeBatchNormBackward": whole_batch_norm_tangent,
}
"""A rule for each operation, by the name that autograd gives its node."""

RULES_OF_SEVERAL: dict[Rule, str] = {
    identity: "Clone Expand ToCopy",
    reshape: "ReshapeAlias Unsqueeze UnsafeView View",
    symmetric: "Elu Gelu Hardsigmoid Hardswish Hardtanh LeakyRelu Mish NativeDropout Relu SafeSoftmax Sigmoid Silu "
    "Softmax Softplus Tanh",
}
"""Rules that hold for several operations, whose nodes' names stand here without "Backward0"."""
RULES |= {f"{name}Backward0": rule for rule, names in RULES_OF_SEVERAL.items() for name in names.split()}
