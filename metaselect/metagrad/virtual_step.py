"""The optimisers of a training, and one step of each on a functional copy: the virtual step of the meta gradient.

A step is theta_hat = theta - u(g) with u elementwise in the gradient g = sum_i w_i grad f_i. So more weight for sample
i moves theta_hat by -D grad f_i, D = du/dg, and with v = grad F_m(theta_hat)

    dF_m/dw_i = -<D v, grad f_i> = -c <slope v, grad f_i>,      D = c slope,

with c the rate (Nesterov: times 1 + mu). SGD has slope 1. Adam's is a number per parameter, in which terms that nearly
cancel in its first steps are summed by hand.

Source: Kingma, Ba 2015 (arXiv:1412.6980), Algorithm 1; Loshchilov, Hutter 2019 (arXiv:1711.05101), Algorithm 2; steps
as torch.optim takes them.
"""

from typing import Any, NamedTuple

import torch

from metaselect.errors import UsageError


class SteppedParameter(NamedTuple):
    """One parameter behind a step, and how it follows its gradient.

    Attributes:
        value: theta_hat, of the parameter's shape.
        slope: D / c, of the same shape; None: 1 everywhere.
    """

    value: torch.Tensor
    slope: torch.Tensor | None


def virtual_rate(optimiser: torch.optim.Optimizer) -> float:
    """c: the learning rate; of SGD with Nesterov momentum, times 1 + mu."""
    group = optimiser.param_groups[0]
    return float(group["lr"] * (1 + group.get("momentum", 0) * group.get("nesterov", False)))


def step_parameter(
    optimiser: torch.optim.Optimizer, value: torch.Tensor, gradient: torch.Tensor
) -> SteppedParameter:
    """Where the optimiser would take one of its parameters; neither it nor its state changes.

    Args:
        optimiser: as ``make_optimiser`` makes them.
        value: the parameter.
        gradient: of the weighted loss.

    Raises:
        UsageError: another optimiser, or one with an option that is not covered here.
    """
    require_supported(optimiser)
    group, state = optimiser.param_groups[0], optimiser.state.get(value, {})
    with torch.no_grad():
        if isinstance(optimiser, torch.optim.SGD):
            return SteppedParameter(_sgd(value, gradient, group, state), None)
        decoupled = isinstance(optimiser, torch.optim.AdamW)
        return _adam(value, gradient, group, state, decoupled=decoupled)


def require_supported(optimiser: torch.optim.Optimizer) -> None:
    """Refuse what has no virtual step here.

    Raises:
        UsageError: not SGD, Adam or AdamW, several parameter groups, or dampening, amsgrad or maximize.
    """
    group = optimiser.param_groups[0]
    odd = [name for name in ("dampening", "amsgrad", "maximize") if group.get(name)]
    if type(optimiser) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        odd = [type(optimiser).__name__]
    elif len(optimiser.param_groups) > 1:
        odd = ["several parameter groups"]
    if odd:
        raise UsageError(
            f"The virtual step of the meta gradient does not know {odd[0]}.",
            "Use SGD (also with momentum, Nesterov's or not), Adam or AdamW, with one group of parameters.",
        )


def _sgd(
    value: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any], state: dict[str, Any]
) -> torch.Tensor:
    step = gradient.add(value, alpha=group["weight_decay"])
    if group["momentum"]:
        buffer = state.get("momentum_buffer")
        moved = step if buffer is None else step.add(buffer, alpha=group["momentum"])
        step = step.add(moved, alpha=group["momentum"]) if group["nesterov"] else moved
    return value - float(group["lr"]) * step


def _adam(
    value: torch.Tensor,
    gradient: torch.Tensor,
    group: dict[str, Any],
    state: dict[str, Any],
    *,
    decoupled: bool,
) -> SteppedParameter:
    (beta1, beta2), eps, lr, decay = group["betas"], group["eps"], group["lr"], group["weight_decay"]
    count = float(state.get("step", 0)) + 1
    first, second = 1 - beta1**count, 1 - beta2**count  # bias corrections
    m = state.get("exp_avg", torch.zeros_like(value))
    square = state.get("exp_avg_sq", torch.zeros_like(value))
    g = gradient if decoupled else gradient.add(value, alpha=decay)
    size = ((beta2 * square + (1 - beta2) * g * g) / second).sqrt()
    moved = value * (1 - lr * decay) if decoupled else value
    u = (beta1 * m + (1 - beta1) * g) / (first * (size + eps))
    # (d/dg) of u. What the two summands of the quotient rule share, (1 - beta1)(1 - beta2) g^2, is left out of both.
    kept = ((1 - beta1) * beta2 * square - beta1 * (1 - beta2) * m * g) / second
    bent = torch.where(size == 0, 0, kept / (size * (size + eps)))  # at 0, of nothing before, u is linear
    slope = (bent + (1 - beta1) * eps / (size + eps)) / (first * (size + eps))
    return SteppedParameter(moved - lr * u, slope)
