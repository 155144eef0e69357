"""TypiClust: of each of many clusters of the representations the sample in its densest part.

Source: Hacohen, Dekel, Weinshall 2022 (arXiv:2202.02794), section 3 (TPC_RP), and the authors' code for the constants.
Differs: the representations are the warm-up's and not self-supervised ones; distances are Euclidean as in the paper
(the code's are squared); typicality is measured once and among all members, where the code leaves out those that were
bought or picked; the clusters are counted again after every pick, where the code goes round; clusters that the code
drops for being small come last, so that every budget can be met.
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

WHOLE_BATCH_CLUSTERS = 50  # with more of them the authors' code takes batches of BATCH
BATCH = 5000
TILE_ENTRIES = 2**22  # of a block of distances, 32 MiB
SAME = 1e-12  # squared distance of unit rows that float32 cannot tell apart
SOFTENING = 1e-5  # added to the mean distance, as in the authors' code: duplicates stay finite


@dataclass(frozen=True)
class TypiClust:
    """Hyper-parameters.

    Attributes:
        max_clusters: clusters, at most; there are as many as samples bought and to be chosen.
        neighbours: whose mean distance makes the typicality; half of the cluster where that is less.
        small: clusters of so many members or fewer come last.
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
        """The most typical of the clusters with the fewest chosen samples, the largest of these first.

        ``similarity`` is the typicality, and ``mass`` the share of samples: each row has norm 1 here.
        """
        unit = F.normalize(features.hidden[-1])
        if unit.device.type == "mps":  # it has no float64
            unit = unit.cpu()
        count = min(len(bought) + budget, self.max_clusters)
        progress(f"K-means into {count} clusters")
        cluster = clusters_of(unit, count, self.starts, generator)
        typical = torch.zeros(len(unit), device=unit.device)
        for number in range(count):
            progress(f"typicality in cluster {number + 1} of {count}")
            members = (cluster == number).nonzero()[:, 0].to(unit.device)
            typical[members] = typicality(unit[members], self.neighbours)
        typical = typical.cpu()
        ranked = round_robin(cluster, typical, bought, budget, self.small)
        sizes = torch.bincount(cluster, minlength=count)
        details = {"clusters": count, "small_clusters": int((sizes <= self.small).sum())}
        return Choice(ranked, cluster, typical, sizes.float() / len(unit), details)


def clusters_of(unit: torch.Tensor, count: int, starts: int, generator: torch.Generator) -> torch.Tensor:
    """(n,) int64 on the CPU in [0, count): K-means of ``unit`` (n, d); clusters may be empty."""
    options = {"n_init": starts, "random_state": int(torch.randint(2**31 - 1, (), generator=generator))}
    few = count <= WHOLE_BATCH_CLUSTERS
    method = KMeans(count, **options) if few else MiniBatchKMeans(count, batch_size=BATCH, **options)
    # One thread: several add up the centres in the order in which they happen to finish.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Fewer distinct rows than clusters: the others stay empty, which is what is wanted here.
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        return torch.from_numpy(method.fit_predict(unit.cpu().numpy())).long()


def typicality(members: torch.Tensor, neighbours: int) -> torch.Tensor:
    """(s,) inverse mean distance of each row of ``members`` (s, d) to its nearest others; 0 of a row alone.

    Args:
        members: of one cluster, rows of norm 1.
        neighbours: how many others; half of the cluster where that is less.
    """
    size = len(members)
    count = min(neighbours, size // 2)
    if count == 0:
        return members.new_zeros(size)
    wide = members.double()
    squares = wide.square().sum(1)
    rows = max(TILE_ENTRIES // size, 1)
    found = []
    for start in range(0, size, rows):
        block = slice(start, start + rows)
        tile = (squares + squares[block, None]).addmm_(wide[block], wide.T, alpha=-2)  # (rows, s), squared
        tile[tile < SAME] = 0
        tile.diagonal(start).fill_(torch.inf)  # a sample is no neighbour of itself
        found.append(tile.topk(count, largest=False).values.sqrt().mean(1))
    return (1 / (torch.cat(found) + SOFTENING)).to(members.dtype)


def round_robin(
    cluster: torch.Tensor, typical: torch.Tensor, bought: torch.Tensor, budget: int, small: int
) -> torch.Tensor:
    """(budget,) the most typical sample left of the cluster with the fewest chosen, the largest of these first.

    Args:
        cluster: (n,) int64, the cluster of every sample.
        typical: (n,) the higher, the sooner a sample is chosen; ties go to the lowest index.
        bought: (m,) int64, which count as chosen.
        budget: number of picks.
        small: clusters of so many members or fewer come last.
    """
    sizes = torch.bincount(cluster).tolist()
    chosen = torch.bincount(cluster[bought], minlength=len(sizes)).tolist()
    left: list[list[int]] = [[] for _ in sizes]  # of each cluster, the most typical at the end
    taken = set(bought.tolist())
    for index in torch.sort(-typical, stable=True).indices.flip(0).tolist():
        if index not in taken:
            left[int(cluster[index])].append(index)
    order = [(size <= small, chosen[i], -size, i) for i, size in enumerate(sizes) if left[i]]
    heapq.heapify(order)
    picks: list[int] = []
    while len(picks) < budget:
        last, count, size, number = heapq.heappop(order)
        picks.append(left[number].pop())
        if left[number]:
            heapq.heappush(order, (last, count + 1, size, number))
    return torch.tensor(picks)
