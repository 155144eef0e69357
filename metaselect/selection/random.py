"""Random selection, the baseline that every other selector must beat.

Source: the baseline *Random* of Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), experimental set-up.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.selection.base import (
    Choice,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    lowest_unbought,
    no_progress,
)


@dataclass(frozen=True)
class Random:
    """Random selection, which has no hyper-parameters."""

    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ()

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """``budget`` samples, drawn uniformly without replacement."""
        del progress
        scores = torch.rand(len(features.labels), generator=generator)
        return choice_without_clusters(lowest_unbought(-scores, budget, bought), scores)
