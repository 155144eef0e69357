"""Multinomial logistic regression, solved to a gradient tolerance by Newton's method with conjugate gradients.

With P the softmax of X W^T + b, row weights r_i = sum_k targets_ik and s = sum_i r_i, it minimises

    L(W, b) = -(1/s) sum_ik targets_ik log P_ik + weight_decay / 2 ||W||^2.

L is convex. Newton's direction needs only products of the Hessian with a direction (V, v), two passes over X each:
U = X V^T + v, then Q = r/s * P * (U - sum_k P U), and the product is (Q^T X + weight_decay V, sum_i Q_i).

Source: Nocedal and Wright, Numerical Optimization (2nd edition), algorithm 7.1 (line search Newton-CG).
Differs: the loss may rise by its own rounding error in a step, without which float32 stops far from the tolerance.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

TOLERANCE = 1e-5  # of the largest entry of the gradient
MAX_STEPS, MAX_PRODUCTS = 100, 200  # Newton steps, and products of the Hessian in each of them
SUFFICIENT_DECREASE = 1e-4  # of the line search
SHORTEST_STEP = 1e-4  # share of Newton's step; where this lowers nothing, rounding is all that is left


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
    params = _zeros(inputs, targets) if start is None else start
    total = targets.sum()
    targets = targets / total
    mass = targets.sum(1, keepdim=True)  # r_i / s
    slack = 10 * torch.finfo(inputs.dtype).eps
    log_probs = params.log_probs(inputs)
    loss = _loss(log_probs, targets, params, weight_decay)
    for _ in range(MAX_STEPS):
        probs = log_probs.exp()
        residual = probs * mass - targets  # (n, K)
        gradient = _joined(residual.T @ inputs + weight_decay * params.weight, residual.sum(0))
        if float(gradient.abs().max()) <= tolerance:
            break
        direction = _newton_direction(inputs, probs, mass, weight_decay, gradient)
        slope, size = float((gradient * direction).sum()), 1.0
        while True:
            ahead = LinearParams(
                params.weight + size * direction[:, :-1], params.bias + size * direction[:, -1]
            )
            log_probs = ahead.log_probs(inputs)
            reached = _loss(log_probs, targets, ahead, weight_decay)
            if reached <= loss + SUFFICIENT_DECREASE * size * slope + slack * abs(loss):
                break
            size /= 2
            if size < SHORTEST_STEP:
                return params
        params, loss = ahead, reached
    return params


def _newton_direction(
    inputs: torch.Tensor,
    probs: torch.Tensor,
    mass: torch.Tensor,
    weight_decay: float,
    gradient: torch.Tensor,
) -> torch.Tensor:
    """(K, d + 1) minus the inverse Hessian times the gradient, by conjugate gradients as exactly as is worth it."""
    curvature = probs * mass
    norm = float(gradient.norm())
    wanted = min(0.1, norm**0.5) * norm  # Newton's method then converges superlinearly
    solution = torch.zeros_like(gradient)
    residual = -gradient
    search, square = residual, float(residual.square().sum())
    for _ in range(MAX_PRODUCTS):
        across = torch.addmm(search[:, -1], inputs, search[:, :-1].T)  # (n, K)
        across = curvature * (across - (probs * across).sum(1, keepdim=True))
        product = _joined(across.T @ inputs + weight_decay * search[:, :-1], across.sum(0))
        bend = float((search * product).sum())
        if bend <= 0:  # a direction that changes nothing, such as one bias for all classes
            break
        size = square / bend
        solution = solution + size * search
        residual = residual - size * product
        before, square = square, float(residual.square().sum())
        if square**0.5 <= wanted:
            break
        search = residual + square / before * search
    return solution


def _loss(log_probs: torch.Tensor, targets: torch.Tensor, params: LinearParams, weight_decay: float) -> float:
    return float(weight_decay / 2 * params.weight.square().sum() - (targets * log_probs).sum())


def _joined(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(K, d + 1), the bias as the last column."""
    return torch.cat([weight, bias[:, None]], 1)


def _zeros(inputs: torch.Tensor, targets: torch.Tensor) -> LinearParams:
    classes = targets.shape[1]
    return LinearParams(inputs.new_zeros(classes, inputs.shape[1]), inputs.new_zeros(classes))
