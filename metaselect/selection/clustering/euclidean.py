"""Euclidean K-means of unit rows, and the order in which its clusters are served.

Source: Arthur, Vassilvitskii 2007 (k-means++), by scikit-learn; mini-batches: Sculley 2010.
"""

import heapq
import warnings
from typing import NamedTuple

import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn brings it
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.selection.clustering.factored import BLOCK_ENTRIES

MINIBATCH_SIZE = 5000  # samples, as in TypiClust's code
MAX_FULL_BATCH_PRODUCTS = 2**30  # n M d multiplications an iteration
MAX_MINIBATCH_STARTS = 3  # each start reads a large sample once for each cluster


class TypicalMembers(NamedTuple):
    """The typical members of clusters.

    Attributes:
        ranked: (budget,) int64, distinct indices.
        cluster: (n,) int64, the cluster of every row.
        similarity: (n,) float32, cosine of every row with the mean of its cluster.
    """

    ranked: torch.Tensor
    cluster: torch.Tensor
    similarity: torch.Tensor


def require_starts(starts: int) -> None:
    """Check that K-means has a seeded start.

    Raises:
        UsageError: naming the option.
    """
    if starts < 1:
        raise UsageError(f"--option starts={starts} must be at least 1.", "Leave it at its default.")


def typical_members(
    unit: torch.Tensor,
    count: int,
    bought: torch.Tensor,
    budget: int,
    starts: int,
    generator: torch.Generator,
) -> TypicalMembers:
    """The rows closest to the centres of the clusters with the fewest bought rows, the largest cluster first.

    Args:
        unit: (n, d) float32 on the CPU, rows of norm 1 or 0.
        count: clusters, at most n.
        bought: (m,) int64, never chosen.
        budget: number of picks.
        starts: seeded starts of K-means, at most 3 by mini-batches, which large pools need.
        generator: of the starts.
    """
    full_batch = unit.numel() * count <= MAX_FULL_BATCH_PRODUCTS
    starts = starts if full_batch else min(starts, MAX_MINIBATCH_STARTS)
    cluster = kmeans_clusters(unit, count, starts, generator, full_batch=full_batch)
    similarity = cosines_with_centres(unit, cluster, count)
    return TypicalMembers(round_robin(cluster, similarity, bought, budget, small=0), cluster, similarity)


def kmeans_clusters(
    unit: torch.Tensor, count: int, starts: int, generator: torch.Generator, *, full_batch: bool
) -> torch.Tensor:
    """(n,) int64 on the CPU in [0, count), clusters of the rows of ``unit`` (n, d) by K-means; some may be empty.

    Args:
        unit: (n, d) float32, rows of norm 1 or 0.
        count: clusters, at most n.
        starts: seeded k-means++ starts; the best inertia is kept.
        generator: of the starts.
        full_batch: Lloyd's iterations over all rows; False: mini-batches of rows.
    """
    options = {"n_init": starts, "random_state": int(torch.randint(2**31 - 1, (), generator=generator))}
    method = (
        KMeans(count, **options)
        if full_batch
        else MiniBatchKMeans(count, batch_size=MINIBATCH_SIZE, **options)
    )
    # One thread: several would add up the centres in an order that changes from run to run.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Fewer distinct rows than clusters leaves clusters empty, which is handled later.
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        return torch.from_numpy(method.fit_predict(unit.cpu().numpy())).long()


def round_robin(
    cluster: torch.Tensor, scores: torch.Tensor, bought: torch.Tensor, budget: int, small: int
) -> torch.Tensor:
    """(budget,) picks: each time the sample of highest score left in the cluster with the fewest chosen samples.

    Of several such clusters the largest comes first.

    Args:
        cluster: (n,) int64, the cluster of every sample.
        scores: (n,) the higher, the sooner a sample is chosen; ties go to the lowest index.
        bought: (m,) int64, which count as chosen.
        budget: number of picks.
        small: clusters of this many members or fewer come last.
    """
    sizes = torch.bincount(cluster).tolist()
    chosen = torch.bincount(cluster[bought], minlength=len(sizes)).tolist()
    remaining: list[list[int]] = [[] for _ in sizes]  # of each cluster, the highest score at the end
    bought_ids = set(bought.tolist())
    for index in torch.sort(-scores, stable=True).indices.flip(0).tolist():
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


def cosines_with_centres(unit: torch.Tensor, cluster: torch.Tensor, count: int) -> torch.Tensor:
    """(n,) float32 in [-1, 1], cosine of each row with the mean of its cluster; 0 where one of them is 0.

    Args:
        unit: (n, d) float32 on the CPU, rows of norm 1 or 0.
        cluster: (n,) int64 in [0, count).
        count: clusters.
    """
    sums = torch.zeros(count, unit.shape[1], dtype=torch.float64)
    blocks = torch.split(torch.arange(len(unit)), max(BLOCK_ENTRIES // unit.shape[1], 1))
    for rows in blocks:
        sums.index_add_(0, cluster[rows], unit[rows].double())
    centres = F.normalize(sums)
    # Row by row and in float64, so that equal rows of a cluster get equal numbers, and ties go to the lowest index.
    cosines = [(unit[rows].double() * centres[cluster[rows]]).sum(1) for rows in blocks]
    return torch.cat(cosines).clamp(-1, 1).float()
