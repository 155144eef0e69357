"""K-means: the pool is clustered on the last layer's input, and the typical sample of each cluster is chosen.

Source: Chang, Shen, Yeh, Demberg 2021 (arXiv:2107.03176): K-means into as many clusters as labels are bought, the
sample closest to each centre; before: Xu, Yu, Tresp, Xu, Wang 2003 (representative sampling).
Differs: rows have norm 1, so that distances are those of the cosine; in later rounds the samples bought before have
clusters of their own, and the picks come from clusters without any; clusters of a large pool are found by mini-batches.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, no_progress
from metaselect.selection.clustering.euclidean import kmeans_clusters, round_robin
from metaselect.selection.clustering.factored import BLOCK_ENTRIES

MAX_FULL_BATCH_PRODUCTS = 2**30  # n M d multiplications an iteration
MAX_MINIBATCH_STARTS = 3  # each start reads a large sample once for each cluster


@dataclass(frozen=True)
class KMeansCentres:
    """Hyper-parameters of K-means.

    Attributes:
        starts: seeded starts of K-means, at most 3 by mini-batches; the best inertia is kept.
    """

    starts: int = 10
    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("hidden",)

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise UsageError(f"--option starts={self.starts} must be at least 1.", "Leave it at its default.")

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The samples closest to the centres of the clusters with the fewest bought samples, the largest first.

        ``similarity`` is the cosine with the centre. ``mass`` is the share of samples.
        """
        unit = F.normalize(features.hidden[-1]).cpu()
        count = len(bought) + budget
        progress(f"K-means into {count} clusters")
        full_batch = unit.numel() * count <= MAX_FULL_BATCH_PRODUCTS
        starts = self.starts if full_batch else min(self.starts, MAX_MINIBATCH_STARTS)
        cluster = kmeans_clusters(unit, count, starts, generator, full_batch=full_batch)
        similarity = cosines_with_centres(unit, cluster, count)
        ranked = round_robin(cluster, similarity, bought, budget, small=0)
        sizes = torch.bincount(cluster, minlength=count)
        return Choice(ranked, cluster, similarity, sizes.float() / len(unit), {"clusters": count})


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
