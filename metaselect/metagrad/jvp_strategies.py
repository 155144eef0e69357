"""Four strategies for the product J v of a batch's losses with a direction v; ``jvp`` chooses among them.

All but the central differences are exact up to rounding.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, TypeAlias

import torch
from torch.autograd import forward_ad

from metaselect.metagrad.jvp_rules import NoRule
from metaselect.metagrad.jvp_through_graph import jvp_through_graph
from metaselect.models.parameters import Params

# Length of a finite difference in the space of parameters: about eps^(1/3), where rounding and curvature balance.
DIFFERENCE_STEP = {torch.float64: 1e-6, torch.float32: 1e-3}


@cache
def _load_forward_rules() -> None:
    """Create a first dual number, on which torch registers its forward rules with a warning about its own API.

    It takes a fifth of a second, which commands without a meta-gradient save.
    """
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


class LossPasses(NamedTuple):
    """The passes that a strategy may run.

    Attributes:
        params: theta, leaves that require gradients.
        losses: () -> (B,), of the step's own forward pass, with their graph.
        losses_at: parameters -> (B,), by a separate pass with the same dropout masks; running statistics do not change.
        autocast: the passes run in bfloat16.
    """

    params: Params
    losses: Callable[[], torch.Tensor]
    losses_at: Callable[[Params], torch.Tensor]
    autocast: bool


def through_graph(passes: LossPasses, v: Params) -> torch.Tensor:
    """(B,) J v through the graph of the step's own forward pass; no other pass is run."""
    return jvp_through_graph(passes.losses(), {leaf: v[name] for name, leaf in passes.params.items()})


def dual_numbers(passes: LossPasses, v: Params) -> torch.Tensor:
    """(B,) J v by a second forward pass in dual numbers, at theta + epsilon v."""
    _load_forward_rules()
    with torch.no_grad(), forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(p.detach(), v[name]) for name, p in passes.params.items()}
        losses = passes.losses_at(duals)
        tangent: torch.Tensor | None = forward_ad.unpack_dual(losses).tangent
        # No tangent: the losses depend on no parameter.
        return torch.zeros_like(losses) if tangent is None else tangent


def central_differences(passes: LossPasses, v: Params) -> torch.Tensor:
    """(B,) J v, approximately, by two forward passes at theta plus and minus a short step along v.

    Raises:
        NoRule: in half precision, which cannot resolve such a step.
    """
    dtypes = {p.dtype for p in passes.params.values()}
    if passes.autocast or not dtypes <= DIFFERENCE_STEP.keys():
        raise NoRule("half precision is too coarse for a difference")
    with torch.no_grad():
        length = torch.stack([value.norm() for value in v.values()]).norm()
        step = max(DIFFERENCE_STEP[dtype] for dtype in dtypes) / torch.where(length == 0, 1, length)
        ends = [
            passes.losses_at({name: p + sign * step * v[name] for name, p in passes.params.items()})
            for sign in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * step)


def double_backward(passes: LossPasses, v: Params) -> torch.Tensor:
    """(B,) J v as the derivative by u of <J^T u, v>, through the graph of the step's own forward pass.

    A custom operation that is marked ``once_differentiable`` may silently count as a constant here; ``jvp.check``
    finds that out.
    """
    losses = passes.losses()
    u = torch.zeros_like(losses, requires_grad=True)  # (B,)
    vjp = torch.autograd.grad(
        losses, list(passes.params.values()), u, create_graph=True, allow_unused=True, materialize_grads=True
    )  # J^T u, linear in u
    inner = torch.stack([(p * v[name]).sum() for name, p in zip(passes.params, vjp, strict=True)]).sum()
    return torch.autograd.grad(inner, u, materialize_grads=True)[0]


Strategy: TypeAlias = Callable[[LossPasses, Params], torch.Tensor]
STRATEGIES: dict[Strategy, str] = {
    through_graph: "the step's own forward pass",
    dual_numbers: "a forward pass of their own, with dual numbers",
    central_differences: "two forward passes of their own, by central differences (approximate)",
    double_backward: "differentiating twice",
}
"""Every strategy in order of preference, with the words that a message has for it."""

REFERENCES: dict[Strategy, tuple[Strategy, ...]] = {
    through_graph: (dual_numbers, central_differences),
    double_backward: (central_differences,),
}
"""What a strategy is compared with before its first use: the first of these that the model allows."""
