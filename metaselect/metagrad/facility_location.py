"""Greedy facility location: rows of a class, such as gradients, that are closest to all rows of it.

Source: Mirzasoleiman, Bilmes, Leskovec 2020 (arXiv:1906.01827), Algorithm 1; lazy greedy: Minoux 1978.
"""

import heapq
import math
from collections.abc import Iterator

import torch

from metaselect.ranks import all_max, all_sum, rank, size

TILE_ENTRIES = 2**20  # numbers in a tile of distances: 8 MiB in float64, which stays in the cache
GRID_BITS = 40  # of a squared distance: more than float32 features have, few enough for exact sums in float64
FLOAT64_BITS = 53
FIRST_BATCH = (
    8  # columns of a tile; a single one costs as much, since all factors are read once in either case
)


class FacilityLocation:
    """Rows g_i = a_i (x) x_i of one class, and how well the set S covers them: F(S) = sum_i max_{j in S} s(i, j).

    Distances are rounded to a grid whose step is a power of two, so that sums of them are exact in any order. Ties are
    common (two rows that cover only each other have the same gain); plain float64 would break them by rounding, and
    would leave a tiny gain where everything is covered.

    Args:
        ids: (n_c,) int64, on the CPU; what the rows are called, ascending.
        left: (n_c, K) float64, rows a_i.
        right: (n_c, d) float64, rows x_i.
        euclidean: distances are Euclidean; False: their squares.
        kept: hold all n_c^2 distances, for a class of which many rows are picked.

    Attributes:
        step: of the grid of squared distances.
        largest: largest distance in the class, set by ``first_gains``; similarity s is ``largest`` minus the distance,
            so it is also the similarity of a row to itself.
        covered: (n_c,) float64, similarity of each row to the most similar one of S; 0 while S is empty.
        width: columns of a tile.
    """

    def __init__(
        self,
        ids: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
        *,
        euclidean: bool = False,
        kept: bool = False,
    ) -> None:
        self.ids, self.left, self.right, self.euclidean = ids, left, right, euclidean
        self.squares = left.square().sum(1) * right.square().sum(1)
        # No squared distance is above 4 max ||g||^2, and a sum of n_c distances must fit a float64's mantissa.
        self.bits = min(GRID_BITS, FLOAT64_BITS - len(ids).bit_length())
        self.highest = 4 * float(self.squares.max())
        self.step = _step(self.highest, self.bits)
        self.largest = 0.0
        self.covered = torch.zeros_like(self.squares)
        self.width = max(TILE_ENTRIES // len(ids), 1)
        self.kept: torch.Tensor | None = None
        if kept:
            tile = self.distances(slice(0, len(ids)))
            self.kept = torch.minimum(tile, tile.T)

    def distances(self, columns: slice | list[int], top: int = 0) -> torch.Tensor:
        """(n_c - top, m) float64, new, distances of the rows from ``top`` on to the m rows ``columns``."""
        if self.kept is not None:
            rows = self.kept[columns, top:].T  # the matrix is symmetric, and its rows are quicker to read
            return rows.clone() if isinstance(columns, slice) else rows
        tile = self.left[top:] @ (self.left[columns] * (-2 / self.step)).T
        tile *= (
            self.right[top:] @ self.right[columns].T
        )  # -2 <g_i, g_j> / step = -2 (a_i . a_j)(x_i . x_j) / step
        tile += self.squares[top:, None] / self.step
        tile += self.squares[columns] / self.step
        tile.round_().clamp_(min=0).mul_(self.step)
        if self.euclidean:
            step = _step(math.sqrt(self.highest), self.bits)
            tile.sqrt_().div_(step).round_().mul_(step)
        return tile

    def first_gains(self, bought: list[int]) -> torch.Tensor:
        """(n_c,) float64, the gain of F by each row when S holds only the rows ``bought``."""
        count = len(self.ids)
        sums = torch.zeros_like(self.squares)
        largest = torch.zeros_like(self.squares[0])
        for columns in self._own_tiles():
            tile = self.distances(columns, columns.start)  # the matrix is symmetric: compute each pair once
            sums[columns] += tile.sum(0)
            sums[columns.stop :] += tile[columns.stop - columns.start :].sum(1)
            largest = torch.maximum(largest, tile.max())
        self.largest = float(all_max(largest))
        if not bought:
            return count * self.largest - all_sum(sums)  # exact in any order
        for index in bought:
            self.cover(index)
        # Into an existing tensor: small tensors that outlive the tiles between which they are allocated fragment the
        # heap, up to gigabytes.
        sums.zero_()
        for columns in self._own_tiles():
            sums[columns] = self.gains(columns)
        return all_sum(sums)

    def gains(self, columns: slice | list[int]) -> torch.Tensor:
        """(m,) gains of F by each of the m rows ``columns`` for the present S; never negative."""
        gains = self.distances(columns).neg_().add_(self.largest).sub_(self.covered[:, None])
        return gains.clamp_(min=0).sum(0)

    def cover(self, index: int) -> None:
        """Add row ``index`` to S."""
        similarity = self.largest - self.distances([index])[:, 0]
        self.covered = torch.maximum(self.covered, similarity)

    def greedy(self, gains: list[float], bought: list[bool]) -> Iterator[tuple[float, int]]:
        """``(-gain, id)`` of every row that is not bought, in greedy order, one at a time.

        Gains never rise as S grows (F is submodular), so a gain computed before the last picks is an upper bound
        (Minoux 1978): only those on top of the heap are computed again, a batch at a time.

        Args:
            gains: n_c numbers, of ``first_gains``.
            bought: n_c, True where the row must not be chosen.
        """
        ids = self.ids.tolist()
        heap = [(-gain, at) for at, gain in enumerate(gains) if not bought[at]]
        heapq.heapify(heap)
        fresh = set(range(len(ids)))
        while heap:
            batch = min(FIRST_BATCH, self.width)
            while stale := _pop_stale(heap, fresh, batch):
                for at, gain in zip(stale, self.gains(stale).tolist(), strict=True):
                    heapq.heappush(heap, (-gain, at))
                fresh.update(stale)
                batch = min(2 * batch, self.width)  # many stale bounds: compute more of them at once
            loss, at = heapq.heappop(heap)
            yield loss, ids[at]
            self.cover(at)
            fresh.clear()

    def _own_tiles(self) -> Iterator[slice]:
        """Of the slices of columns that cover the class, ``width`` at a time, those that this rank computes."""
        count, step = len(self.ids), self.width * size()
        starts = range(rank() * self.width, count, step)  # in turn: the first have the most pairs
        return (slice(start, min(start + self.width, count)) for start in starts)


def _pop_stale(heap: list[tuple[float, int]], fresh: set[int], count: int) -> list[int]:
    """Remove and return up to ``count`` rows at the top of the heap whose gain was computed before the last pick.

    A gain of 0 needs no new computation, since gains are not negative.
    """
    stale: list[int] = []
    while heap and len(stale) < count and heap[0][0] < 0 and heap[0][1] not in fresh:
        stale.append(heapq.heappop(heap)[1])
    return stale


def _step(highest: float, bits: int) -> float:
    """The step of a grid of powers of two with so many bits below ``highest``."""
    return math.ldexp(1.0, math.frexp(highest)[1] - bits)
