"""BADGE: k-means++ seeding on last-layer gradients at the label that the model itself would give.

Source: Ash, Zhang, Krishnamurthy, Langford, Agarwal 2020 (arXiv:1906.03671), Algorithm 1; the first centre is the
largest gradient, as in the authors' code (the paper's k-means++ draws it).
Differs: distances come from the factors of the gradients, in float64; what was bought in earlier rounds counts as
chosen, where the authors' code forgets it; rows that cannot be told apart from a chosen one have probability 0, and
when there are no others left the rest is drawn uniformly (the authors' code stops in a debugger).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.selection.base import (
    Choice,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    no_progress,
)
from metaselect.selection.clustering.factored import BLOCK_ENTRIES

SAME = 1e-12
"""D^2 over ||g||^2 + ||c||^2 below which two gradients are the same: what float32 features leave of equal images."""


@dataclass(frozen=True)
class Badge:
    """No hyper-parameters."""

    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("probs", "hidden")

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The ``budget`` centres of k-means++ seeding, in the order in which they were drawn.

        The score is a gradient's distance to the nearest centre: of a pick when it was drawn (of the first, with none
        bought, its norm: the distance to 0), of all others in the end; what was bought has 0.
        """
        gradients = GradientEmbeddings(features.probs[-1], features.hidden[-1])
        unused = torch.ones(len(features.labels), dtype=torch.bool)
        unused[bought] = False
        scores = torch.zeros(len(unused), dtype=torch.float64)
        # Without centres the distance is that to 0; it must not stay, or 0 would be a centre for ever.
        nearest = torch.full_like(scores, torch.inf) if len(bought) else gradients.squares.cpu()
        for index in bought.tolist():
            nearest = torch.minimum(nearest, gradients.squared_distances(index))
        picks: list[int] = []
        indistinct = 0
        while len(picks) < budget:
            weights = torch.where(unused, nearest, 0.0)
            if not weights.any():
                index, indistinct = _uniform(unused, generator), indistinct + 1
            elif len(bought) or picks:
                index = _proportional(weights, generator)
            else:
                index = int(weights.argmax())
            scores[index] = weights[index].sqrt()
            distances = gradients.squared_distances(index)
            nearest = torch.minimum(nearest, distances) if len(bought) or picks else distances
            picks.append(index)
            unused[index] = False
            progress(f"{len(picks)} of {budget}")
        scores[unused] = nearest[unused].sqrt()
        return choice_without_clusters(torch.tensor(picks), scores, {"drawn_among_indistinct": indistinct})


class GradientEmbeddings:
    """Gradients g_j = a_j (x) x_j with a_j = p_j - onehot(argmax p_j), never held as n rows of K d numbers.

    Args:
        probs: (n, K) float32, rows sum to 1.
        hidden: (n, d) float32.

    Attributes:
        squares: (n,) float64, ||g_j||^2.
    """

    def __init__(self, probs: torch.Tensor, hidden: torch.Tensor) -> None:
        if probs.device.type == "mps":  # it has no float64
            probs, hidden = probs.cpu(), hidden.cpu()
        self.left = probs - F.one_hot(probs.argmax(1), probs.shape[1])  # (n, K)
        self.right = hidden
        self.squares = _squares(self.left) * _squares(self.right)

    def squared_distances(self, index: int) -> torch.Tensor:
        """(n,) float64 on the CPU: ||g_j - g_index||^2, exactly 0 where that is rounding."""
        inner = _inner(self.left, index) * _inner(self.right, index)
        sums = self.squares + self.squares[index]
        found = sums - 2 * inner
        return torch.where(found > SAME * sums, found, 0.0).cpu()


def _squares(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([block.double().square().sum(1) for block in _blocks(values)])


def _inner(values: torch.Tensor, index: int) -> torch.Tensor:
    row = values[index].double()
    return torch.cat([block.double() @ row for block in _blocks(values)])


def _blocks(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Blocks of rows that can be widened without a second copy of it all."""
    return torch.split(values, max(BLOCK_ENTRIES // values.shape[1], 1))


def _proportional(weights: torch.Tensor, generator: torch.Generator) -> int:
    """An index drawn with probability proportional to ``weights`` ((n,) float64 on the CPU, one of them above 0)."""
    support = weights.nonzero()[:, 0]  # an index of weight 0 cannot be drawn, however the sum is rounded
    cumulative = weights[support].cumsum(0)
    level = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
    at = int(torch.searchsorted(cumulative, level, right=True))
    return int(support[min(at, len(support) - 1)])


def _uniform(unused: torch.Tensor, generator: torch.Generator) -> int:
    left = unused.nonzero()[:, 0]
    return int(left[int(torch.randint(len(left), (), generator=generator))])
