"""Random selection: every sample alike; the arm that all others must beat.

Source: the baseline *Random* of Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), experimental set-up.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, lowest, silent, unclustered


@dataclass(frozen=True)
class Random:
    """No hyper-parameters."""

    checkpoints: ClassVar[str] = "last"
    wants: ClassVar[tuple[str, ...]] = ()

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        tell: ProgressCallback = silent,
    ) -> Choice:
        """``budget`` indices, uniformly without replacement."""
        del tell
        scores = torch.rand(len(features.labels), generator=generator)
        return unclustered(lowest(-scores, budget, bought), scores)
