"""BADGE: k-means++ seeding on gradient embeddings, the last layer's gradients at the predicted label.

Source: Ash, Zhang, Krishnamurthy, Langford, Agarwal 2020 (arXiv:1906.03671), Algorithm 1; the first centre is the
largest gradient, as in the authors' code (the paper's k-means++ draws it).
Differs: distances come from the factors of the gradients, in float64; samples of earlier rounds count as centres, which
the authors' code does not do; rows equal to a centre up to rounding have probability 0, and when only such rows are
left the rest is drawn uniformly (the authors' code stops in a debugger); in a pool of more than 131,072 samples several
picks are drawn, by rejection, between two passes over all samples, which needs other random numbers and leaves the
distribution as it is.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.ranks import divide_chunks
from metaselect.selection.base import (
    Choice,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    no_progress,
)
from metaselect.selection.clustering.factored import BLOCK_ENTRIES, row_ranges
from metaselect.selection.clustering.kmeans import LARGE_POOL

PICKS_AT_ONCE = 64  # in a large pool, between two passes over all samples
DRAWS_A_PICK = 2  # at most, before such a pass
DUPLICATE_TOLERANCE = 1e-12
"""D^2 over ||g||^2 + ||c||^2 below which two gradients count as equal: rounding of float32 features of equal images."""


@dataclass(frozen=True)
class Badge:
    """BADGE, which has no hyper-parameters."""

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

        ``similarity`` is a gradient's distance to the nearest centre: of a pick when it was drawn (of the first pick,
        with none bought, its norm), of all others at the end; of a bought sample 0.
        """
        gradients = GradientEmbeddings(features.probs[-1], features.hidden[-1])
        unused = torch.ones(len(features.labels), dtype=torch.bool)
        unused[bought] = False
        scores = torch.zeros(len(unused), dtype=torch.float64)
        # Without a centre, the distance to 0 selects the first pick; it is replaced by the distance to that pick below,
        # since 0 is no centre.
        nearest = torch.full_like(scores, torch.inf) if len(bought) else gradients.squares.cpu()
        at_once = 1 if len(unused) <= LARGE_POOL else PICKS_AT_ONCE
        for part in bought.split(at_once) if len(bought) else ():
            nearest = torch.minimum(nearest, gradients.squared_distances(part))
        picks: list[int] = []
        indistinct = 0
        while len(picks) < budget:
            weights = torch.where(unused, nearest, 0.0)  # D^2, Algorithm 1
            if not weights.any():
                index, indistinct = _draw_uniformly(unused, generator), indistinct + 1
                new, squares = [index], [0.0]
            elif len(bought) or picks:
                most = min(at_once, budget - len(picks))
                new, squares = _draw_in_proportion(weights, gradients, most, generator)
            else:
                index = int(weights.argmax())
                new, squares = [index], [float(weights[index])]
            drawn = torch.tensor(new)
            scores[drawn] = torch.tensor(squares, dtype=torch.float64).sqrt()
            distances = gradients.squared_distances(drawn)
            nearest = torch.minimum(nearest, distances) if len(bought) or picks else distances
            picks += new
            unused[drawn] = False
            progress(f"{len(picks)} of {budget}")
        scores[unused] = nearest[unused].sqrt()
        return choice_without_clusters(torch.tensor(picks), scores, {"drawn_among_indistinct": indistinct})


class GradientEmbeddings:
    """Gradient embeddings g_j = a_j (x) x_j, a_j = p_j - onehot(argmax p_j), kept as factors (n (K + d) numbers).

    Args:
        probs: (n, K) float32, rows sum to 1.
        hidden: (n, d) float32.

    Attributes:
        squares: (n,) float64, ||g_j||^2.
    """

    def __init__(self, probs: torch.Tensor, hidden: torch.Tensor) -> None:
        if probs.device.type == "mps":  # Apple's GPUs have no float64
            probs, hidden = probs.cpu(), hidden.cpu()
        self.left = probs - F.one_hot(probs.argmax(1), probs.shape[1])  # (n, K)
        self.right = hidden
        self.squares = _squares(self.left) * _squares(self.right)

    def squared_distances(self, ids: torch.Tensor) -> torch.Tensor:
        """(n,) float64 on the CPU: squared distances to the nearest of the rows ``ids`` ((p,) int64 on the CPU).

        Each rank computes some blocks of rows.
        """
        count = max(BLOCK_ENTRIES // max(self.left.shape[1], self.right.shape[1], 4 * len(ids)), 1)
        blocks, division = divide_chunks(row_ranges(len(self.squares), count))
        found = [self.between(slice(rows.start, rows.stop), ids).amin(1) for rows in blocks]
        return division.joined(torch.cat(found)).cpu()

    def between(self, rows: torch.Tensor | slice, ids: torch.Tensor) -> torch.Tensor:
        """(b, p) float64: ||g_i - g_j||^2, exactly 0 where only rounding differs."""
        ids = ids.to(self.squares.device)
        # <g_i, g_j> = (a_i . a_j)(x_i . x_j)
        inner = _inner(self.left, rows, ids) * _inner(self.right, rows, ids)
        sums = self.squares[rows, None] + self.squares[ids]
        squares = sums - 2 * inner
        return torch.where(squares > DUPLICATE_TOLERANCE * sums, squares, 0.0)


def _squares(values: torch.Tensor) -> torch.Tensor:
    """(n,) float64, squared norms of the rows of ``values`` (n, d)."""
    return torch.cat([block.double().square().sum(1) for block in _blocks(values)])


def _inner(values: torch.Tensor, rows: torch.Tensor | slice, ids: torch.Tensor) -> torch.Tensor:
    """(b, p) float64, inner products of some rows of ``values`` (n, d) with others."""
    return values[rows].double() @ values[ids].double().T


def _blocks(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Blocks of rows, so that float64 copies exist of one block at a time."""
    return torch.split(values, max(BLOCK_ENTRIES // values.shape[1], 1))


def _draw_in_proportion(
    weights: torch.Tensor, gradients: GradientEmbeddings, most: int, generator: torch.Generator
) -> tuple[list[int], list[float]]:
    """Indices drawn one after another in proportion to D^2, and their D^2; at least one.

    ``weights`` knows nothing of what is drawn here, and is at least D^2. An index that is drawn by it and kept with
    probability D^2 / weight has the distribution that Algorithm 1 asks for.

    Args:
        weights: (n,) float64 on the CPU, one of them above 0.
        gradients: of n samples.
        most: indices.
        generator: of the draws.
    """
    support = weights.nonzero()[:, 0]  # an index of weight 0 cannot be drawn, however the sum is rounded
    cumulative = weights[support].cumsum(0)
    new: list[int] = []
    squares: list[float] = []
    for _ in range(most if most == 1 else DRAWS_A_PICK * most):
        threshold = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
        at = int(torch.searchsorted(cumulative, threshold, right=True))
        index = int(support[min(at, len(support) - 1)])
        square = float(weights[index])
        if new:
            level = float(torch.rand((), generator=generator, dtype=torch.float64)) * square
            drawn = gradients.between(torch.tensor([index]), torch.tensor(new))
            square = min(square, float(drawn.min()))
            if level >= square:
                continue
        new.append(index)
        squares.append(square)
        if len(new) == most:
            break
    return new, squares


def _draw_uniformly(unused: torch.Tensor, generator: torch.Generator) -> int:
    """An index drawn uniformly from those where ``unused`` ((n,) bool) is true."""
    candidates = unused.nonzero()[:, 0]
    return int(candidates[int(torch.randint(len(candidates), (), generator=generator))])
