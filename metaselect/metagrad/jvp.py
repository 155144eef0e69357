"""The product J v of a batch's losses with a direction v, by the first of four ways that the model allows.

In this order: through the forward pass that the step is taken from (``shared_forward``); a pass of its own with dual
numbers; two passes for central differences; differentiating twice. All but the differences are exact. Which one it is
shows on the first batch, where the first way is also checked, and is said if it is not the first.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch.autograd import forward_ad

from metaselect.errors import UsageError
from metaselect.metagrad.jvp_rules import NoRule
from metaselect.metagrad.jvp_through_graph import jvp_through_graph

Params: TypeAlias = dict[str, torch.Tensor]
"""Parameter name -> tensor of the parameter's shape."""

RELATIVE_TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 1e-2,
}  # of the largest entry, by the dtype of the check
DIFFERENCE_STEP = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
}  # length of a finite difference in the space of parameters


def _load_forward_rules() -> None:
    """Make the first dual number, at which torch registers rules through an API that it warns about itself."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


_load_forward_rules()


class LossPasses(NamedTuple):
    """What a way may run.

    Attributes:
        params: theta, leaves that require gradients.
        losses: () -> (B,), of the step's own forward pass, with their graph.
        losses_at: parameters -> (B,), by another pass with the same masks that leaves running statistics alone.
        autocast: the passes run in bfloat16.
    """

    params: Params
    losses: Callable[[], torch.Tensor]
    losses_at: Callable[[Params], torch.Tensor]
    autocast: bool


def through_graph(passes: LossPasses, v: Params) -> torch.Tensor:
    """Through the graph of the step's own forward pass."""
    return jvp_through_graph(passes.losses(), {leaf: v[name] for name, leaf in passes.params.items()})


def dual_numbers(passes: LossPasses, v: Params) -> torch.Tensor:
    """By a second forward pass, at theta + epsilon v."""
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(p.detach(), v[name])  # type: ignore[no-untyped-call]
            for name, p in passes.params.items()
        }
        losses = passes.losses_at(duals)
        tangent: torch.Tensor | None = forward_ad.unpack_dual(losses).tangent  # type: ignore[no-untyped-call]
        # No tangent: no parameter bears on the losses.
        return torch.zeros_like(losses) if tangent is None else tangent


def central_differences(passes: LossPasses, v: Params) -> torch.Tensor:
    """By two more forward passes, at theta plus and minus a short step along v; approximate.

    Raises:
        NoRule: in half precision, where such a step is below what a parameter can show.
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
    """By differentiating u -> J^T u, through the graph of the step's own forward pass.

    Trap: a custom operation that is marked once differentiable may silently be taken for a constant here.
    """
    losses = passes.losses()
    u = torch.zeros_like(losses, requires_grad=True)
    pulled = torch.autograd.grad(
        losses, list(passes.params.values()), u, create_graph=True, allow_unused=True, materialize_grads=True
    )
    along = torch.stack([(p * v[name]).sum() for name, p in zip(passes.params, pulled, strict=True)]).sum()
    return torch.autograd.grad(along, u, materialize_grads=True)[0]


Strategy: TypeAlias = Callable[[LossPasses, Params], torch.Tensor]
STRATEGIES: dict[Strategy, str] = {
    through_graph: "the step's own forward pass",
    dual_numbers: "a forward pass of their own, with dual numbers",
    central_differences: "two forward passes of their own, by central differences (approximate)",
    double_backward: "differentiating twice",
}


REFERENCES: dict[Strategy, tuple[Strategy, ...]] = {
    through_graph: (dual_numbers, central_differences),
    double_backward: (central_differences,),
}
"""What a way is compared with before it is first used, by the first of these that the model allows."""


class JvpSolver:
    """The way that this training's products take, found on its first batch.

    Args:
        notify: is told in one sentence if it is not the first way.
        strategies: in order of preference.
    """

    def __init__(
        self, notify: Callable[[str], None] | None = None, strategies: Sequence[Strategy] = tuple(STRATEGIES)
    ) -> None:
        self.notify, self.strategies = notify, list(strategies)
        self._refused: list[str] = []
        self._checked: Strategy | None = None

    def __call__(self, passes: LossPasses, v: Params, few: Callable[[], LossPasses]) -> torch.Tensor:
        """s: (B,), the derivative of each loss along v.

        Args:
            passes: of the batch.
            v: one tensor for each parameter.
            few: () -> passes of a few of its samples in float64, for the check.

        Raises:
            UsageError: no way leads through this model.
        """
        while self.strategies:
            strategy = self.strategies[0]
            try:
                if strategy is not self._checked:
                    check(strategy, few)
                    self._checked = strategy
                s = strategy(passes, v)
            except (NoRule, RuntimeError) as error:
                if out_of_memory(error):  # a smaller batch helps there, another way does not
                    raise
                self._refuse(error)
            else:
                self._tell()
                return s
        raise UsageError(
            f"No meta gradient can be taken through this model: {'; '.join(self._refused)}.",
            "Choose another model, or a method without a meta gradient.",
        )

    def _refuse(self, error: Exception) -> None:
        self._refused.append(f"not from {STRATEGIES[self.strategies.pop(0)]} ({str(error).splitlines()[0]})")

    def _tell(self) -> None:
        if self._refused and self.notify is not None:
            self.notify(
                f"Meta gradients come from {STRATEGIES[self.strategies[0]]}; {'; '.join(self._refused)}."
            )
        self._refused = []


def check(strategy: Strategy, few: Callable[[], LossPasses]) -> None:
    """Compare a way of ``REFERENCES`` with another, along a random direction.

    Raises:
        NoRule: they differ, or nothing can be compared with.
        RuntimeError: the way does not lead through this model.
    """
    if strategy not in REFERENCES:
        return
    passes = few()
    stream = torch.Generator().manual_seed(0)
    v = {
        name: torch.randn(p.shape, generator=stream).to(p) * p.detach().square().mean().sqrt().clamp(min=0.01)
        for name, p in passes.params.items()
    }
    found = strategy(passes, v)
    for reference in REFERENCES[strategy]:
        try:
            expected = reference(passes, v)
        except (NoRule, RuntimeError):
            continue
        gap = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not gap <= RELATIVE_TOLERANCE[found.dtype]:
            raise NoRule(f"differs by {gap:.0e} from {STRATEGIES[reference]}")
        return
    raise NoRule("nothing could check it")


def out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of memory, of a GPU or of the host, by its words: the latter has no class of its own."""
    return "out of memory" in str(error) or "can't allocate memory" in str(error)
