"""Multinomial logistic regressions, solved to a gradient tolerance by Newton's method with conjugate gradients.

With P the softmax of X W^T + b, row weights r_i = sum_k targets_ik and s = sum_i r_i, it minimises

    L(W, b) = -(1/s) sum_ik targets_ik log P_ik + weight_decay / 2 ||W||^2.

L is convex. Newton's direction needs only products of the Hessian with a direction (V, v), two passes over X each:
U = X V^T + v, then Q = r/s * P * (U - sum_k P U), and the product is (Q^T X + weight_decay V, sum_i Q_i).

Several problems on the same inputs go step by step together: the passes over X are then products of matrices that are
as many times wider, and take a fraction of the time. Each has its own step sizes and ends when it is solved.

Source: Nocedal and Wright, Numerical Optimization (2nd edition), algorithm 7.1 (line search Newton-CG).
Differs: the loss may rise by its own rounding error in a step, without which float32 stops far from the tolerance.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

TOLERANCE = 1e-5  # of the largest entry of the gradient
MAX_STEPS, MAX_PRODUCTS = 100, 200  # Newton steps, and products of the Hessian in each of them
SUFFICIENT_DECREASE = 1e-4  # of the line search
SHORTEST_STEP = 1e-4  # share of Newton's step; where this lowers nothing, rounding is all that is left
MOST_SCORES = 2**21  # n x K x problems that are solved together; five arrays of so many numbers are held


class LinearParams(NamedTuple):
    """Parameters of a linear model.

    Attributes:
        weight: (K, d).
        bias: (K,).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def log_probs(self, inputs: torch.Tensor) -> torch.Tensor:
        """(n', K) logarithms of the class probabilities of ``inputs`` (n', d)."""
        return F.log_softmax(torch.addmm(self.bias, inputs, self.weight.T), 1)

    def copy_to(self, layer: nn.Linear) -> None:
        """Put them into a layer from d to K, in place."""
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)


def fit_logistic_regression(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    weight_decay: float,
    start: LinearParams | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> LinearParams:
    """The parameters at which no entry of the gradient is above ``tolerance``, or as near as the float type comes.

    Besides its arguments it holds about five arrays of n x K numbers.

    Args:
        inputs: (n, d) float32 or float64, in which everything is computed.
        targets: (n, K) of the same type, at least 0: soft labels, each row times the weight of its sample.
        weight_decay: of the weights, above 0; the biases have none.
        start: parameters to begin with, for example those of another weight decay; None: zeros.
        tolerance: above 0.
    """
    return next(fit_logistic_regressions(inputs, [(targets, start)], weight_decay, tolerance=tolerance))


def fit_logistic_regressions(
    inputs: torch.Tensor,
    problems: Iterable[tuple[torch.Tensor, LinearParams | None]],
    weight_decay: float,
    *,
    tolerance: float = TOLERANCE,
) -> Iterator[LinearParams]:
    """``fit_logistic_regression`` of several targets on the same inputs, in their order.

    As many are solved together as ``MOST_SCORES`` allows; their targets are asked for as they are needed.

    Args:
        inputs: (n, d), as there.
        problems: targets (n, K) and start of each. Rows of 0, which are left out, may differ.
        weight_decay: as there.
        tolerance: as there.
    """
    rest = iter(problems)
    for first in rest:
        together = max(1, MOST_SCORES // first[0].numel())
        targets, starts = zip(first, *islice(rest, together - 1), strict=True)
        stacked = torch.stack([each.T for each in targets])  # (B, K, n)
        used = (stacked > 0).flatten(0, 1).any(0)
        rows = inputs
        if not used.all():
            rows, stacked = inputs[used], stacked[:, :, used]
        joined = torch.stack(
            [_zeros(inputs, targets[0]) if start is None else _joined(*start) for start in starts]
        )
        yield from (
            LinearParams(theta[:, :-1].contiguous(), theta[:, -1].contiguous())
            for theta in _solve(rows, stacked, joined, weight_decay, tolerance)
        )


def _solve(
    inputs: torch.Tensor, targets: torch.Tensor, start: torch.Tensor, weight_decay: float, tolerance: float
) -> torch.Tensor:
    """(B, K, d + 1) solutions.

    Args:
        inputs: (n, d).
        targets: (B, K, n), the samples last, as everywhere below: sums over the classes are fast then.
        start: (B, K, d + 1) weights, and biases as the last column.
        weight_decay: of the weights.
        tolerance: of the gradients.
    """
    solved = start.clone()
    targets = targets / targets.sum((1, 2))[:, None, None]
    mass = targets.sum(1, keepdim=True)  # r_i / s
    penalty = weight_decay * (torch.arange(start.shape[2], device=inputs.device) < inputs.shape[1]).to(inputs)
    slack = 10 * torch.finfo(inputs.dtype).eps
    left, params = torch.arange(len(start), device=inputs.device), start  # problems that are not solved yet
    log_probs = _scores(inputs, params).log_softmax(1)
    loss = _loss(log_probs, targets, params, penalty)
    for _ in range(MAX_STEPS):
        probs = log_probs.exp()
        gradient = _through_inputs(probs * mass - targets, inputs) + penalty * params
        going = gradient.abs().amax((1, 2)) > tolerance
        if not going.all():
            left, params, loss, gradient = left[going], params[going], loss[going], gradient[going]
            targets, mass, probs = targets[going], mass[going], probs[going]
        if not len(params):
            break
        direction = _newton_directions(inputs, probs, mass, penalty, gradient)
        slope, size = (gradient * direction).sum((1, 2)), torch.ones_like(loss)
        while True:
            ahead = params + size[:, None, None] * direction
            log_probs = _scores(inputs, ahead).log_softmax(1)
            reached = _loss(log_probs, targets, ahead, penalty)
            lower = reached <= loss + SUFFICIENT_DECREASE * size * slope + slack * loss.abs()
            if (lower | (size < SHORTEST_STEP)).all():
                break
            size = torch.where(lower, size, size / 2)
        solved[left[lower]] = ahead[lower]
        if lower.all():
            params, loss = ahead, reached
        else:
            left, params, loss = left[lower], ahead[lower], reached[lower]
            targets, mass, log_probs = targets[lower], mass[lower], log_probs[lower]
    return solved


def _newton_directions(
    inputs: torch.Tensor,
    probs: torch.Tensor,
    mass: torch.Tensor,
    penalty: torch.Tensor,
    gradient: torch.Tensor,
) -> torch.Tensor:
    """(B, K, d + 1) minus the inverse Hessians times the gradients, by conjugate gradients, as exact as needed."""
    norm = gradient.square().sum((1, 2)).sqrt()
    wanted = (norm.sqrt().clamp(max=0.1) * norm).square()  # Newton's method then converges superlinearly
    solution = torch.zeros_like(gradient)
    left, within = torch.arange(len(gradient), device=inputs.device), solution
    residual = -gradient
    search, square = residual, norm.square()
    for _ in range(MAX_PRODUCTS):
        across = _scores(inputs, search)
        across -= (probs * across).sum(1, keepdim=True)
        across *= probs
        across *= mass
        product = _through_inputs(across, inputs) + penalty * search
        bend = (search * product).sum((1, 2))
        curved = bend > 0  # else it is a direction that changes nothing, such as one bias for all classes
        size = torch.where(curved, square / bend, 0.0)[:, None, None]
        within = within + size * search
        residual = residual - size * product
        before, square = square, residual.square().sum((1, 2))
        going = curved & (square > wanted)
        search = residual + (square / before)[:, None, None] * search
        if not going.all():
            solution[left] = within
            if not going.any():
                break
            left, within, residual, search = left[going], within[going], residual[going], search[going]
            square, wanted = square[going], wanted[going]
            probs, mass = probs[going], mass[going]
    else:
        solution[left] = within
    return solution


def _scores(inputs: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
    """(B, K, n) W X^T + b."""
    weight, bias = params[:, :, :-1].flatten(0, 1), params[:, :, -1].reshape(-1, 1)
    return torch.addmm(bias, weight, inputs.T).view(*params.shape[:2], len(inputs))


def _through_inputs(values: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """(B, K, d + 1) products of (B, K, n) values with the inputs, and their sums."""
    product = (values.flatten(0, 1) @ inputs).view(*values.shape[:2], inputs.shape[1])
    return torch.cat([product, values.sum(2, keepdim=True)], 2)


def _loss(
    log_probs: torch.Tensor, targets: torch.Tensor, params: torch.Tensor, penalty: torch.Tensor
) -> torch.Tensor:
    """(B,)."""
    return (penalty * params.square()).sum((1, 2)) / 2 - (targets * log_probs).sum((1, 2))


def _joined(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(K, d + 1), the bias as the last column."""
    return torch.cat([weight, bias[:, None]], 1)


def _zeros(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return inputs.new_zeros(targets.shape[1], inputs.shape[1] + 1)
