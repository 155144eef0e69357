"""Products of last-layer gradients: how much each bought label pushes the weight of each training sample.

With h the input of the last layer, p the softmax and y the label's one-hot vector, the gradient of the cross-entropy by
that layer's weights is (p - y) h^T, and by its bias p - y. The product of the gradients of sample i and bought sample j

    g_ij = (<h_i, h_j> + 1) <p_i - y_i, p_j - y_j>      (without the 1 where the layer has no bias)

is how fast a step on sample i lowers the loss of bought sample j: positive, where j raises the weight of i.

Source: Ren et al. 2018 (arXiv:1803.09050), Eq. 12, one layer's term of minus the derivative of the meta loss by the
weight; without the factor of a learning rate, the influence of Pruthi et al. 2020 (arXiv:2002.08484) in that layer.
Differs: of the last layer alone, in evaluation mode, and at theta itself instead of behind a virtual step.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional as F

BLOCK = 4096  # samples at a time


class GradientFactors(NamedTuple):
    """The two factors of samples' last-layer gradients.

    Attributes:
        hidden: (n', d) inputs of the last layer.
        residual: (n', K) softmax less the label's one-hot vector; 0 where there is no label, and so no gradient.
    """

    hidden: torch.Tensor
    residual: torch.Tensor


def gradient_factors(hidden: torch.Tensor, probs: torch.Tensor, labels: torch.Tensor) -> GradientFactors:
    """The factors of samples with labels.

    Args:
        hidden: (n', d).
        probs: (n', K) softmax.
        labels: (n',) int64; -1: none.
    """
    target = F.one_hot(labels.clamp(min=0), probs.shape[1]).to(probs.dtype)
    return GradientFactors(hidden, (probs - target) * (labels >= 0)[:, None])


def last_layer_products(
    samples: GradientFactors, bought: GradientFactors, *, bias: bool
) -> Iterator[torch.Tensor]:
    """(b, m) products of one block of samples after another, in their order.

    Args:
        samples: n of them.
        bought: m of them.
        bias: whether the layer has one.
    """
    for hidden, residual in zip(samples.hidden.split(BLOCK), samples.residual.split(BLOCK), strict=True):
        yield (hidden @ bought.hidden.T + float(bias)) * (residual @ bought.residual.T)
