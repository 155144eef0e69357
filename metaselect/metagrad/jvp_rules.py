"""How a change of an operation's inputs changes its output: one small function per operation that autograd records.

A rule is called as ``rule(node, *tangents)``. ``node`` is what autograd recorded of one operation, with the tensors
that its backward formula needs (``node._saved_...``); called with a cotangent u, it answers J^T u for each input. A
tangent is the change of an input, None where it does not change; at least one is there. The rule answers J t, the
change of the output, in any dtype and any shape that broadcasts to the output's.

Where J is symmetric, J t = J^T t: the fused backward kernel *is* the forward-mode product. That holds for everything
elementwise, for softmax, and for normalisation without its scale. Every operation without a rule is covered by
``by_two_vjps``: exact for whatever autograd can differentiate twice, but at the price of two backward passes of the
operation. So only what takes time in common models has a rule of its own.

Source: operations and saved tensors as torch lists them in tools/autograd/derivatives.yaml; J from two products with
J^T after Townsend 2017, "A new trick for calculating Jacobian vector products".
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

Tangent: TypeAlias = torch.Tensor | None
Rule: TypeAlias = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]


class NoRule(Exception):
    """An operation has no forward-mode product here; the message says which and why."""


def by_two_vjps(node: Any, *tangents: Tangent) -> tuple[torch.Tensor, ...]:
    """J t for each output, since u -> J^T u is linear: its own transposed derivative along t is J t.

    Raises:
        NoRule: the operation's backward pass cannot itself be differentiated.
    """
    with torch.enable_grad():
        cotangents = [
            torch.zeros(out.shape, dtype=out.dtype, device=out.device, requires_grad=True)
            for out in node._input_metadata
        ]
        answer = node(*cotangents)
    pulled = answer if isinstance(answer, tuple) else (answer,)
    # Autograd sums over what was broadcast only after the node, so a tangent is broadcast before it.
    pairs = [(p, t.to(p.dtype).expand_as(p)) for p, t in zip(pulled, tangents, strict=True) if t is not None]
    outputs, weights = zip(*pairs, strict=True)
    try:
        return torch.autograd.grad(outputs, cotangents, weights, allow_unused=True, materialize_grads=True)
    except RuntimeError as error:
        raise NoRule(f"{node.name()}: {str(error).splitlines()[0]}") from None


def symmetric(node: Any, moved: torch.Tensor) -> torch.Tensor:
    """Operations of one input with a symmetric Jacobian: elementwise ones (also in place), and softmax."""
    pulled: torch.Tensor = node(moved)
    return pulled


def same(node: Any, moved: torch.Tensor) -> torch.Tensor:
    """Copies, also into another dtype, and views that repeat elements."""
    del node
    return moved


def reshaped(node: Any, moved: torch.Tensor) -> torch.Tensor:
    """Views that keep the order of the elements."""
    return moved.reshape(node._input_metadata[0].shape)


def transposed(node: Any, moved: torch.Tensor) -> torch.Tensor:
    """The transpose of a matrix."""
    del node
    return moved.t()


def added(node: Any, left: Tangent, right: Tangent) -> torch.Tensor:
    """``left + alpha right``."""
    alpha: float = node._saved_alpha
    if left is None or right is None:
        return _sum(left, None if right is None else right * alpha)
    return torch.add(left, right, alpha=alpha)


def multiplied(node: Any, left: Tangent, right: Tangent) -> torch.Tensor:
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
    how = (
        node._saved_stride,
        node._saved_padding,
        node._saved_dilation,
        node._saved_transposed,
        node._saved_output_padding,
        node._saved_groups,
    )
    return _sum(
        None if inputs is None else torch.convolution(inputs, node._saved_weight, None, *how),
        None if weight is None else torch.convolution(node._saved_input, weight, None, *how),
        None if bias is None else bias.view(-1, *[1] * len(node._saved_stride)),
    )


def max_pool(node: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Each output follows the input that was the largest."""
    places = node._saved_result1  # positions in the flattened image
    if places.dim() == 4 and places.is_contiguous(memory_format=torch.channels_last):
        # As below with channels at the end, which the answer must keep for what comes after it.
        last = (place := places.permute(0, 2, 3, 1)).shape
        image = inputs.permute(0, 2, 3, 1).flatten(1, 2)
        return image.gather(1, place.flatten(1, 2)).view(last).permute(0, 3, 1, 2)
    return inputs.flatten(-2).gather(-1, places.flatten(-2)).view_as(places)


def batch_norm(node: Any, inputs: Tangent, weight: Tangent, bias: Tangent) -> torch.Tensor:
    """``weight xhat + bias``; in train mode xhat depends on the whole batch, symmetrically within each channel."""
    if not node._saved_training:
        return by_two_vjps(node, inputs, weight, bias)[0]
    x, mean, scale = node._saved_input, node._saved_result1, node._saved_result2
    change = None
    if weight is not None or bias is not None:
        # weight (x - mean) scale + bias, in one pass over x
        factor = scale * (0 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * factor
        channel = (-1, *[1] * (x.dim() - 2))
        change = torch.addcmul(shift.view(channel), x, factor.view(channel))
    # The weight is one number for all of a channel, so J and J^T have it in the same place.
    return _sum(None if inputs is None else node(inputs)[0], change)


def layer_norm(node: Any, inputs: Tangent, weight: Tangent, bias: Tangent) -> torch.Tensor:
    """``weight xhat + bias``; the weight varies within what is normalised, so it is multiplied outside of J^T."""
    x, mean, scale = node._saved_input, node._saved_result1, node._saved_result2
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
    """As ``layer_norm``, with statistics (B, groups) and one weight a channel."""
    x, mean, scale = node._saved_input, node._saved_result1, node._saved_result2
    channel = (-1, *[1] * (x.dim() - 2))
    change = own = None
    if inputs is not None:
        sizes = (node._saved_N, node._saved_C, node._saved_HxW, node._saved_group)
        change = torch.ops.aten.native_group_norm_backward(
            inputs.contiguous(), x.contiguous(), mean, scale, None, *sizes, [True, False, False]
        )[0]
        if node._saved_weight is not None:
            change = change * node._saved_weight.view(channel)
    if weight is not None:
        grouped = x.reshape(*mean.shape, -1)
        own = ((grouped - mean[..., None]) * scale[..., None]).view_as(x) * weight.view(channel)
    return _sum(change, own, None if bias is None else bias.view(channel))


def _sum(*parts: Tangent) -> torch.Tensor:
    """The sum of the parts that are there, in place of the first of them, which has the full shape."""
    total, *rest = (part for part in parts if part is not None)
    for part in rest:
        total.add_(part)
    return total


RULES: dict[str, Rule] = {
    "AddBackward0": added,
    "AddmmBackward0": linear,
    "BmmBackward0": matrix_product,
    "ConvolutionBackward0": convolution,
    "CudnnBatchNormBackward0": batch_norm,
    "MaxPool2DWithIndicesBackward0": max_pool,
    "MmBackward0": matrix_product,
    "MulBackward0": multiplied,
    "NativeBatchNormBackward0": batch_norm,
    "NativeGroupNormBackward0": group_norm,
    "NativeLayerNormBackward0": layer_norm,
    "TBackward0": transposed,
}
"""By the names that autograd gives its nodes."""

ALIKE: dict[Rule, str] = {
    same: "Clone Expand ToCopy",
    reshaped: "ReshapeAlias Unsqueeze UnsafeView View",
    symmetric: "Elu Gelu Hardsigmoid Hardswish Hardtanh LeakyRelu Mish NativeDropout Relu SafeSoftmax Sigmoid Silu "
    "Softmax Softplus Tanh",
}
RULES |= {f"{name}Backward0": rule for rule, names in ALIKE.items() for name in names.split()}
