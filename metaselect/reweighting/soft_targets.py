"""Targets that are no single class: smoothed labels, mixed samples, and labels that a model gave.

Source: Zhang, Pfister 2021 (FSR), section 4.3 and Eq. 7, with the constants of the authors' code; MixUp: Zhang,
Cisse, Dauphin, Lopez-Paz 2018 (arXiv:1710.09412).
"""

import torch
from torch.nn import functional as F


def smoothed(labels: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    """(B, K) float32: 1 - smoothing on the label, and smoothing spread over all classes."""
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) losses; both are (B, K)."""
    return -(targets * F.log_softmax(logits, 1)).sum(1)


def mixing_factors(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) shares in [1/2, 1] of each sample in its own mixture.

    The authors' stand-in for Beta(1/2, 1/2): max(u^2 / 2, 1 - u^2 / 2) with u uniform, mean 5/6.
    """
    # Folded to at least 1/2, so that a mixture keeps the index of its larger part.
    half = torch.rand(count, generator=generator).square() / 2
    return torch.maximum(half, 1 - half)


def mixed(values: torch.Tensor, factors: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Each row with its partner's: (B, ...) values, (B,) factors of its own part, (B,) int64 partners."""
    own = factors.view(-1, *[1] * (values.dim() - 1))
    return own * values + (1 - own) * values[partners]


def unit_scale(logits: torch.Tensor) -> torch.Tensor:
    """The tensor divided by the root mean square of *all* its entries, so that temperatures mean something."""
    # 1e-8 is the authors' constant: before the first visit all entries are 0.
    return logits / (logits.square().mean() + 1e-8).sqrt()


def pseudo_labels(kept: torch.Tensor, temperature: float) -> torch.Tensor:
    """(B, K) probabilities from what was kept of a batch's logits; uniform where nothing was seen yet."""
    return (unit_scale(kept) / temperature).softmax(1)


def renewed(kept: torch.Tensor, logits: torch.Tensor, momentum: float) -> torch.Tensor:
    """Eq. 7: what is kept of a batch's logits after it was seen once more; all (B, K)."""
    return momentum * unit_scale(kept) + (1 - momentum) * logits
