"""GBC, gradient-based clustering: gradients of sampled layers are clustered, and one sample of each cluster is chosen.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), section "Gradient-based clustering", Eq. 13-14; the features
come from ``features.per_sample_gradients``, with its own deviations.
Differs: the clustering is that of ``rbc``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.errors import UsageError
from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, no_progress
from metaselect.selection.clustering.factored import FactoredRows
from metaselect.selection.clustering.representatives import choose_representatives
from metaselect.selection.rbc import require_starts_and_iterations


@dataclass(frozen=True)
class GBC:
    """Hyper-parameters of GBC.

    Attributes:
        draws: layers drawn with replacement at each checkpoint.
        width: numbers that a sample's gradient is projected to at each checkpoint, at most.
        sample: pool samples, drawn with the seed, whose mean gradient gives the layers their probabilities.
        starts: seeded starts of K-means; the best objective is kept.
        iterations: of K-means, at most.
        gradient: "label-free" or "full", set by ``--gradient``.
    """

    draws: int = 5
    width: int = 2048
    sample: int = 512
    starts: int = 3
    iterations: int = 100
    gradient: str = "label-free"
    checkpoints: ClassVar[str] = "all"
    profiles: ClassVar[dict[str, dict[str, object]]] = {
        "long-tail": {"gradient": "full"}  # section "Re-weighting a Class-Imbalanced Training Set"
    }
    required_features: ClassVar[tuple[str, ...]] = ("gradients",)

    def __post_init__(self) -> None:
        if self.draws < 1 or self.sample < 1:
            raise UsageError("--option draws and sample must be at least 1.", "Leave them at their defaults.")
        if self.width < self.draws:
            raise UsageError(
                f"--option width={self.width} is less than one number a draw.",
                f"Give at least width={self.draws}; the default is 2048.",
            )
        require_starts_and_iterations(self.starts, self.iterations)

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The choice of one member of each of ``budget`` clusters, the one closest to its centroid."""
        rows = FactoredRows(
            [block.norms[:, None] for block in features.gradients],
            [block.directions for block in features.gradients],
        )
        return choose_representatives(
            rows,
            budget,
            bought,
            generator,
            progress,
            weighted=True,
            starts=self.starts,
            iterations=self.iterations,
        )
