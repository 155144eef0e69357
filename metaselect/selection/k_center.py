"""K-center (core-set): samples that leave no other sample far from all of them, chosen farthest-first.

Source: Sener, Savarese 2018 (arXiv:1708.00489), Algorithm 1 (k-Center-Greedy), on the input of the last layer.
Differs: greedy alone, without the mixed-integer refinement of Algorithm 2 (it needs a commercial solver, and greedy is
within a factor 2 of the best radius); with nothing bought the first centre is drawn at random.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.ranks import divide_chunks
from metaselect.selection.base import (
    Choice,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    no_progress,
)
from metaselect.selection.clustering.factored import row_ranges
from metaselect.selection.clustering.farthest_first import farthest_first
from metaselect.selection.clustering.row_argmax import row_argmax

MAX_PRODUCT_CENTRES = 1024
TILE_ENTRIES = 2**18  # numbers in a block of products: 1 MiB in float32, which stays in a core's cache
MIN_TILE_ROWS = 256
SQUARED_ROWS = 2**14


@dataclass(frozen=True)
class KCenter:
    """K-center, which has no hyper-parameters."""

    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("hidden",)

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The ``budget`` samples that are each the farthest from all before them; ties go to the lowest index.

        ``similarity`` is the distance to the nearest centre: of a pick when it was chosen, of all others at the end. A
        first centre that was drawn at random has the largest distance of any sample from it. In pools of more than
        1,024 the nearest centre of a sample that is not chosen is found with the precision of products in float32.
        """
        hidden = features.hidden[-1]
        first = bought
        if not len(bought):
            first = torch.randint(len(hidden), (1,), generator=generator)
        first = first.to(hidden.device)
        distances = EuclideanDistances(hidden)
        bounds = hidden.new_full((len(hidden),), torch.inf)
        further = budget - (not len(bought))
        found = farthest_first(bounds, first, further, distances.between, distances.lower, progress)
        scores = found.nearest.clamp(min=0)
        radius = float(scores.max())
        scores[found.picks] = found.distances
        if not len(bought):
            scores[first] = distances.between(torch.arange(len(hidden)).to(hidden.device), first).max()
        picks = found.picks if len(bought) else torch.cat([first, found.picks])
        return choice_without_clusters(picks, scores, {"radius": radius})


class EuclideanDistances:
    """Euclidean distances between the rows of ``hidden`` (n, d); of equal rows exactly 0."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.hidden = hidden
        self.mean = hidden.mean(0)  # subtracted from all rows: products of shorter rows lose fewer digits
        self.squares = torch.cat(
            [(block - self.mean).square().sum(1) for block in hidden.split(SQUARED_ROWS)]
        )  # (n,)

    def between(self, ids: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """(q, p) distances of the rows ``ids`` (q,) to the rows ``centres`` (p,)."""
        return _cdist(self.hidden[ids], self.hidden[centres])

    def lower(self, bounds: torch.Tensor, centres: torch.Tensor) -> None:
        """Lower, in place, the bounds (n,) to the distance from the centre that is nearest by a matrix product."""
        for part in torch.split(centres, MAX_PRODUCT_CENTRES):
            self._lower(bounds, part)

    def _lower(self, bounds: torch.Tensor, centres: torch.Tensor) -> None:
        rows = self.hidden[centres]
        centred = rows - self.mean
        centred = torch.cat([centred, -centred.square().sum(1, keepdim=True) / 2], 1)  # (p, d + 1)
        size = max(TILE_ENTRIES // max(len(centres), self.hidden.shape[1]), MIN_TILE_ROWS)
        own, division = divide_chunks(row_ranges(len(bounds), size))
        buffer = self.hidden.new_ones(size, self.hidden.shape[1] + 1)
        for place in own:
            at = slice(place.start, place.stop)
            block, bound = self.hidden[at], bounds[at]
            shifted = buffer[: len(block)]  # its last column stays 1
            torch.sub(block, self.mean, out=shifted[:, :-1])
            closeness = shifted @ centred.T  # (b, p): <x, c> - |c|^2 / 2 = (|x|^2 - |x - c|^2) / 2
            squares = self.squares[at] - 2 * closeness.amax(1)
            closer = (squares < bound.clamp(min=0).square()).nonzero()[:, 0]
            # Few rows are, after the first picks, so that the place of the maximum is looked for in these alone.
            nearest = row_argmax(closeness[closer])
            exact = _cdist(block[closer, None], rows[nearest, None])[:, 0, 0]  # row by row
            bound[closer] = torch.minimum(bound[closer], exact)
        bounds.copy_(division.joined(bounds[division.own]))


def _cdist(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Distances by differences: in a matrix product, equal rows would have distances above 0, which break ties."""
    return torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist")
