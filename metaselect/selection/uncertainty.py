"""Uncertainty sampling (least or most certain first) and low self-confidence, from the last checkpoint's softmax.

Source: Lewis, Gale 1994 (uncertainty sampling), as the baselines *Uncertain* and *Certain* of Wu, Stein, Gardner, Naik
2023 (arXiv:2302.04418); margin: Scheffer, Decomain, Wrobel 2001; self-confidence: Northcutt, Jiang, Chuang 2021
(arXiv:1911.00068).
Differs: the score is per sample and of probabilities; the authors' code scored whole batches by their logits.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.errors import UsageError
from metaselect.selection.base import (
    Choice,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    lowest_unbought,
    no_progress,
)


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """(n,) entropy in nats of rows of ``probs`` (n, K); 0 log 0 is 0."""
    nats: torch.Tensor = torch.special.entr(probs).sum(1)
    return nats


def margin(probs: torch.Tensor) -> torch.Tensor:
    """(n,) in [0, 1]: 1 - (p1 - p2) of the two largest probabilities; 0 if there is only one class."""
    best = probs.topk(min(2, probs.shape[1]), dim=1).values
    return 1 - (best[:, 0] - best[:, 1]) if best.shape[1] == 2 else torch.zeros_like(best[:, 0])


def least_confidence(probs: torch.Tensor) -> torch.Tensor:
    """(n,) in [0, 1): 1 - p1 of the largest probability."""
    return 1 - probs.max(1).values


SCORES = {"entropy": entropy, "margin": margin, "least-confidence": least_confidence}
"""Scores of ``--option score``; all are higher for less certain predictions."""


@dataclass(frozen=True)
class Uncertain:
    """Uncertainty sampling: the least certain samples first.

    Attributes:
        score: "entropy", "margin" or "least-confidence".
    """

    score: str = "entropy"
    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("probs",)
    sign: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise UsageError(f"--option score={self.score} is not known.", f"One of {', '.join(SCORES)}.")

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The ``budget`` samples of highest score."""
        del generator, progress
        scores = self.sign * SCORES[self.score](features.probs[-1])
        return choice_without_clusters(lowest_unbought(-scores, budget, bought), scores)


@dataclass(frozen=True)
class Certain(Uncertain):
    """The opposite of uncertainty sampling: the most certain samples first."""

    sign: ClassVar[int] = -1


@dataclass(frozen=True)
class LowSelfConfidence:
    """Low self-confidence: lowest probability of the given label first, as tools for label errors rank samples."""

    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("probs",)

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The ``budget`` samples whose given label has the lowest probability."""
        del generator, progress
        confidence = features.probs[-1].gather(1, features.labels[:, None])[:, 0]
        return choice_without_clusters(lowest_unbought(confidence, budget, bought), -confidence)
