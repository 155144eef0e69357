"""Selectors, one file each: from gradient features to the few samples worth a label."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

import torch

from metaselect.records import Json


class PoolFeatures(NamedTuple):
    """What a selector may look at; the pool's order is that of ``index``.

    Attributes:
        probs: T tensors (n, K) float32, softmax outputs at each checkpoint, rows sum to 1.
        hidden: T tensors (n, d) float32, inputs of the last linear layer.
        labels: (n,) int64, given labels.
    """

    probs: tuple[torch.Tensor, ...]
    hidden: tuple[torch.Tensor, ...]
    labels: torch.Tensor


class Choice(NamedTuple):
    """What a selector answers.

    Attributes:
        ranked: (budget,) int64, distinct indices, the most useful first.
        cluster: (n,) int64, the cluster of every sample, -1 where the method has none.
        similarity: (n,) float32, of every sample to its cluster's centre or, for the others, the method's score.
        mass: (M,) float32, share of the pool's gradient norm in each cluster; sums to 1.
        details: for ``stage.json``.
    """

    ranked: torch.Tensor
    cluster: torch.Tensor
    similarity: torch.Tensor
    mass: torch.Tensor
    details: Mapping[str, Json]


class Selector(Protocol):
    """Hyper-parameters of a selector; ``choose`` is a pure function of its arguments.

    Attributes:
        checkpoints: "all", "last" or "none": the part of the history whose features it wants.
    """

    checkpoints: ClassVar[str]

    def choose(
        self, features: PoolFeatures, budget: int, bought: torch.Tensor, generator: torch.Generator
    ) -> Choice:
        """Exactly ``budget`` distinct indices, none of them in ``bought`` ((m,) int64)."""


def unclustered(ranked: torch.Tensor, scores: torch.Tensor) -> Choice:
    """The answer of a method that scores samples one by one."""
    none = torch.full_like(scores, -1, dtype=torch.int64)
    return Choice(ranked, none, scores, torch.empty(0), {})


def lowest(scores: torch.Tensor, count: int, bought: torch.Tensor) -> torch.Tensor:
    """The ``count`` indices of lowest score that are not bought; ties go to the lowest index."""
    order = torch.sort(scores, stable=True).indices
    taken = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    taken[bought.to(scores.device)] = True
    return order[~taken[order]][:count]
