"""TypiClust: the most typical sample (in the densest region) of each of many clusters of the representations.

Source: Hacohen, Dekel, Weinshall 2022 (arXiv:2202.02794), section 3 (TPC_RP), and the authors' code for the constants.
Differs: the representations are the warm-up's and not self-supervised ones; distances are Euclidean as in the paper
(the code's are squared); typicality is computed once and among all members, where the code leaves out bought and chosen
ones; each pick comes from the cluster with the fewest chosen samples, where the code visits the clusters in turn; small
clusters, which the code drops, come last, so that every budget can be met.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, no_progress
from metaselect.selection.clustering.euclidean import kmeans_clusters, round_robin

MAX_FULL_BATCH_CLUSTERS = 50  # above this the authors' code uses MiniBatchKMeans
TILE_ENTRIES = 2**22  # numbers in a block of distances: 32 MiB in float64
DUPLICATE_TOLERANCE = 1e-12  # squared distance of unit rows below which they are equal in float32
SOFTENING = (
    1e-5  # added to the mean distance, as in the authors' code: keeps the typicality of duplicates finite
)


@dataclass(frozen=True)
class TypiClust:
    """Hyper-parameters of TypiClust.

    Attributes:
        max_clusters: clusters, at most; their number is that of bought samples plus the budget.
        neighbours: number of nearest neighbours whose mean distance gives the typicality; half of the cluster where
            that is less.
        small: clusters of this many members or fewer come last.
        starts: seeded starts of K-means; the best inertia is kept.
    """

    max_clusters: int = 500
    neighbours: int = 20
    small: int = 5
    starts: int = 3
    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("hidden",)

    def __post_init__(self) -> None:
        if min(self.max_clusters, self.neighbours, self.starts) < 1 or self.small < 0:
            raise UsageError(
                "--option max_clusters, neighbours and starts must be at least 1, and small at least 0.",
                "Leave them at their defaults.",
            )

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The most typical samples of the clusters with the fewest chosen samples, the largest cluster first.

        ``similarity`` is the typicality. ``mass`` is the share of samples, since each row has norm 1 here.
        """
        unit = F.normalize(features.hidden[-1])
        if unit.device.type == "mps":  # Apple's GPUs have no float64
            unit = unit.cpu()
        count = min(len(bought) + budget, self.max_clusters)
        progress(f"K-means into {count} clusters")
        full_batch = count <= MAX_FULL_BATCH_CLUSTERS
        cluster = kmeans_clusters(unit, count, self.starts, generator, full_batch=full_batch)
        typicalities = torch.zeros(len(unit), device=unit.device)
        for number in range(count):
            progress(f"typicality in cluster {number + 1} of {count}")
            members = (cluster == number).nonzero()[:, 0].to(unit.device)
            typicalities[members] = typicality(unit[members], self.neighbours)
        typicalities = typicalities.cpu()
        ranked = round_robin(cluster, typicalities, bought, budget, self.small)
        sizes = torch.bincount(cluster, minlength=count)
        details = {"clusters": count, "small_clusters": int((sizes <= self.small).sum())}
        return Choice(ranked, cluster, typicalities, sizes.float() / len(unit), details)


def typicality(members: torch.Tensor, neighbours: int) -> torch.Tensor:
    """(s,) inverse mean distance of each row of ``members`` (s, d) to its nearest neighbours; 0 for a single row.

    Args:
        members: of one cluster, rows of norm 1.
        neighbours: how many; half of the cluster where that is less.
    """
    size = len(members)
    count = min(neighbours, size // 2)
    if count == 0:
        return members.new_zeros(size)
    float64 = members.double()
    squares = float64.square().sum(1)
    rows = max(TILE_ENTRIES // size, 1)
    means = []
    for start in range(0, size, rows):
        block = slice(start, start + rows)
        tile = (squares + squares[block, None]).addmm_(
            float64[block], float64.T, alpha=-2
        )  # (rows, s), squared
        tile[tile < DUPLICATE_TOLERANCE] = 0
        tile.diagonal(start).fill_(torch.inf)  # a sample is not its own neighbour
        means.append(tile.topk(count, largest=False).values.sqrt().mean(1))
    return (1 / (torch.cat(means) + SOFTENING)).to(members.dtype)
