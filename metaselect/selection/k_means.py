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

from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, no_progress
from metaselect.selection.clustering.euclidean import require_starts, typical_members


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
        require_starts(self.starts)

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
        ranked, cluster, similarity = typical_members(unit, count, bought, budget, self.starts, generator)
        sizes = torch.bincount(cluster, minlength=count)
        return Choice(ranked, cluster, similarity, sizes.float() / len(unit), {"clusters": count})
