"""Euclidean K-means of unit rows, and the order in which its clusters are served; for typiclust and k-means.

Source: Arthur, Vassilvitskii 2007 (k-means++), by scikit-learn; mini-batches: Sculley 2010.
"""

import heapq
import warnings

import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn brings it

MINIBATCH_SIZE = 5000  # samples, as in TypiClust's code


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
