"""TypiClust: the most typical sample (in the densest region) of each of many clusters of the representations.

Source: Hacohen, Dekel, Weinshall 2022 (arXiv:2202.02794), section 3 (TPC_RP), and the authors' code for the constants.
Differs: the representations are the warm-up's and not self-supervised ones; distances are Euclidean as in the paper
(the code's are squared); typicality is computed once and among all members, where the code leaves out bought and chosen
ones; each pick comes from the cluster with the fewest chosen samples, where the code visits the clusters in turn; small
clusters, which the code drops, come last, so that every budget can be met.
"""

import heapq
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn brings it
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, no_progress

MAX_FULL_BATCH_CLUSTERS = 50  # above this the authors' code uses MiniBatchKMeans
MINIBATCH_SIZE = 5000  # samples, as in the authors' code
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
        cluster = kmeans_clusters(unit, count, self.starts, generator)
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


def kmeans_clusters(unit: torch.Tensor, count: int, starts: int, generator: torch.Generator) -> torch.Tensor:
    """(n,) int64 on the CPU in [0, count), clusters of the rows of ``unit`` (n, d) by K-means; some may be empty."""
    options = {"n_init": starts, "random_state": int(torch.randint(2**31 - 1, (), generator=generator))}
    few = count <= MAX_FULL_BATCH_CLUSTERS
    method = KMeans(count, **options) if few else MiniBatchKMeans(count, batch_size=MINIBATCH_SIZE, **options)
    # One thread: several would add up the centres in an order that changes from run to run.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Fewer distinct rows than clusters leaves clusters empty, which is handled later.
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        return torch.from_numpy(method.fit_predict(unit.cpu().numpy())).long()


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


def round_robin(
    cluster: torch.Tensor, typicalities: torch.Tensor, bought: torch.Tensor, budget: int, small: int
) -> torch.Tensor:
    """(budget,) picks: each time the most typical sample left in the cluster with the fewest chosen samples.

    Of several such clusters the largest comes first.

    Args:
        cluster: (n,) int64, the cluster of every sample.
        typicalities: (n,) the higher, the sooner a sample is chosen; ties go to the lowest index.
        bought: (m,) int64, which count as chosen.
        budget: number of picks.
        small: clusters of this many members or fewer come last.
    """
    sizes = torch.bincount(cluster).tolist()
    chosen = torch.bincount(cluster[bought], minlength=len(sizes)).tolist()
    remaining: list[list[int]] = [[] for _ in sizes]  # of each cluster, the most typical at the end
    bought_ids = set(bought.tolist())
    for index in torch.sort(-typicalities, stable=True).indices.flip(0).tolist():
        if index not in bought_ids:
            remaining[int(cluster[index])].append(index)
    order = [(size <= small, chosen[i], -size, i) for i, size in enumerate(sizes) if remaining[i]]
    heapq.heapify(order)
    picks: list[int] = []
    while len(picks) < budget:
        last, count, size, number = heapq.heappop(order)
        picks.append(remaining[number].pop())
        if remaining[number]:
            heapq.heappush(order, (last, count + 1, size, number))
    return torch.tensor(picks)
