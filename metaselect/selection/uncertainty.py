"""The most and the least certain samples, by the entropy of the last checkpoint's softmax.

Source: Lewis, Gale 1994 (uncertainty sampling), as the baselines *Uncertain* and *Certain* of Wu, Stein, Gardner, Naik
2023 (arXiv:2302.04418).
Differs: the score is per sample and of probabilities; the authors' code scored whole batches by their logits.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.selection import Choice, PoolFeatures, lowest, unclustered


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """(n,) entropy in nats of rows of ``probs`` (n, K); 0 log 0 is 0."""
    found: torch.Tensor = torch.special.entr(probs).sum(1)
    return found


@dataclass(frozen=True)
class Uncertain:
    """Highest entropy first."""

    checkpoints: ClassVar[str] = "last"

    def choose(
        self, features: PoolFeatures, budget: int, bought: torch.Tensor, generator: torch.Generator
    ) -> Choice:
        """The ``budget`` samples of highest entropy."""
        del generator
        scores = entropy(features.probs[-1])
        return unclustered(lowest(-scores, budget, bought), scores)


@dataclass(frozen=True)
class Certain:
    """Lowest entropy first."""

    checkpoints: ClassVar[str] = "last"

    def choose(
        self, features: PoolFeatures, budget: int, bought: torch.Tensor, generator: torch.Generator
    ) -> Choice:
        """The ``budget`` samples of lowest entropy."""
        del generator
        scores = entropy(features.probs[-1])
        return unclustered(lowest(scores, budget, bought), scores)
