"""The virtual step: one step of an optimiser on a copy of the parameters, with its rate and its slope.

A step is theta_hat = theta - u(g), with u elementwise in the gradient g = sum_i w_i grad f_i. So more weight for sample
i moves theta_hat by -D grad f_i, D = du/dg, and with v = grad F_m(theta_hat)

    dF_m/dw_i = -<D v, grad f_i> = -c <slope v, grad f_i>,      D = c slope,

with c the rate (``virtual_rate``: the learning rate, with Nesterov momentum times 1 + mu) of the first group of
parameters. SGD has slope 1 there, and in another group the quotient of its rate and c. Adam's slope is one number for
each entry, times that quotient; two of its terms nearly cancel in the first steps and are summed in closed form.

Source: Kingma, Ba 2015 (arXiv:1412.6980), Algorithm 1; Loshchilov, Hutter 2019 (arXiv:1711.05101), Algorithm 2; steps
as torch.optim takes them.
"""

from typing import Any, NamedTuple

import torch

from metaselect.errors import UsageError


class SteppedParameter(NamedTuple):
    """One parameter after a virtual step, and the derivative of the step by the gradient.

    Attributes:
        value: theta_hat, of the parameter's shape.
        slope: D / c, of the same shape, or a single number (); None means 1 everywhere.
    """

    value: torch.Tensor
    slope: torch.Tensor | None


def virtual_rate(optimiser: torch.optim.Optimizer) -> float:
    """The rate c of the virtual step, that of the first group: of SGD with Nesterov momentum, the rate times 1 + mu."""
    return _rate_of(optimiser.param_groups[0])


def relative_rate(optimiser: torch.optim.Optimizer, value: torch.Tensor) -> float:
    """The rate of a parameter's group, divided by ``virtual_rate``."""
    group = _group_of(optimiser, value)
    return 1.0 if group is optimiser.param_groups[0] else _rate_of(group) / virtual_rate(optimiser)


def step_parameter(
    optimiser: torch.optim.Optimizer, value: torch.Tensor, gradient: torch.Tensor
) -> SteppedParameter:
    """One parameter after the optimiser's next step; the parameter and the optimiser's state do not change.

    Args:
        optimiser: one that ``require_supported`` accepts, such as those of ``training.optimiser``.
        value: the parameter.
        gradient: of the weighted loss, of the parameter's shape.

    Raises:
        UsageError: as ``require_supported``.
    """
    require_supported(optimiser)
    group, state = _group_of(optimiser, value), optimiser.state.get(value, {})
    relative = relative_rate(optimiser, value)
    with torch.no_grad():
        if isinstance(optimiser, torch.optim.SGD):
            slope = None if relative == 1 else value.new_full((), relative)
            return SteppedParameter(_sgd(value, gradient, group, state), slope)
        decoupled = isinstance(optimiser, torch.optim.AdamW)
        stepped = _adam(value, gradient, group, state, decoupled=decoupled)
        assert stepped.slope is not None
        return stepped if relative == 1 else stepped._replace(slope=relative * stepped.slope)


def require_supported(optimiser: torch.optim.Optimizer) -> None:
    """Refuse an optimiser whose virtual step is not implemented here.

    Raises:
        UsageError: not SGD, Adam or AdamW, or one with dampening, amsgrad or maximize.
    """
    flags = ("dampening", "amsgrad", "maximize")
    unsupported = [name for name in flags if any(group.get(name) for group in optimiser.param_groups)]
    if type(optimiser) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        unsupported = [type(optimiser).__name__]
    if unsupported:
        raise UsageError(
            f"The virtual step of the meta gradient does not support {unsupported[0]}.",
            "Use SGD (also with momentum, Nesterov's or not), Adam or AdamW.",
        )


def _rate_of(group: dict[str, Any]) -> float:
    return float(group["lr"] * (1 + group.get("momentum", 0) * group.get("nesterov", False)))


def _group_of(optimiser: torch.optim.Optimizer, value: torch.Tensor) -> dict[str, Any]:
    """The group of a parameter; the first one for a tensor that is in none, such as a copy."""
    groups: list[dict[str, Any]] = optimiser.param_groups
    return next((group for group in groups[1:] if any(value is each for each in group["params"])), groups[0])


def _sgd(
    value: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any], state: dict[str, Any]
) -> torch.Tensor:
    """theta_hat of SGD, in the order of operations of ``torch.optim.SGD``."""
    step = gradient.add(value, alpha=group["weight_decay"])
    if group["momentum"]:
        buffer = state.get("momentum_buffer")  # missing before the first step
        momentum = step if buffer is None else step.add(buffer, alpha=group["momentum"])
        step = step.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
    return value - float(group["lr"]) * step


def _adam(
    value: torch.Tensor,
    gradient: torch.Tensor,
    group: dict[str, Any],
    state: dict[str, Any],
    *,
    decoupled: bool,
) -> SteppedParameter:
    """theta_hat and slope of Adam; of AdamW where the weight decay is ``decoupled`` from the gradient."""
    (beta1, beta2), eps, lr, decay = group["betas"], group["eps"], group["lr"], group["weight_decay"]
    count = float(state.get("step", 0)) + 1
    first, second = 1 - beta1**count, 1 - beta2**count  # bias corrections
    m = state.get("exp_avg", torch.zeros_like(value))
    square = state.get("exp_avg_sq", torch.zeros_like(value))
    g = gradient if decoupled else gradient.add(value, alpha=decay)
    root = ((beta2 * square + (1 - beta2) * g * g) / second).sqrt()  # of the second moment, bias-corrected
    decayed = value * (1 - lr * decay) if decoupled else value
    u = (beta1 * m + (1 - beta1) * g) / (first * (root + eps))
    # slope = du/dg by the quotient rule. Both of its terms contain (1 - beta1)(1 - beta2) g^2 with opposite signs; it
    # is left out of both, since in the first steps it is far larger than what remains.
    difference = ((1 - beta1) * beta2 * square - beta1 * (1 - beta2) * m * g) / second
    curvature = torch.where(
        root == 0, 0, difference / (root * (root + eps))
    )  # root is 0: no gradient yet, u is linear
    slope = (curvature + (1 - beta1) * eps / (root + eps)) / (first * (root + eps))
    return SteppedParameter(decayed - lr * u, slope)
