"""The control: plain training on the pool with the bought labels in place, every sample alike.

Source: the baseline of every paper on re-weighting. Differs: it gets the bought labels too, so that beating it
measures the method and not the labels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Uniform:
    """Cross-entropy with equal weights."""

    meta: ClassVar[bool] = False
    weight_kind: ClassVar[str] = "uniform"

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor, bought: torch.Tensor
    ) -> torch.Tensor:
        """(B,) cross-entropy."""
        del ids, bought
        return F.cross_entropy(logits, labels, reduction="none")

    def pool_weights(self, losses: torch.Tensor) -> torch.Tensor:
        """All 1."""
        return torch.ones_like(losses)
