"""K-center: samples such that no other is far from all of them, found farthest-first.

Source: Sener, Savarese 2018 (arXiv:1708.00489), Algorithm 1 (k-Center-Greedy), on the input of the last layer.
Differs: the greedy choice stands, without the mixed-integer refinement of Algorithm 2 (it needs a commercial solver,
and greedy is already within a factor 2 of the best radius); with nothing bought the first centre is drawn.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.selection.base import (
    Choice,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    no_progress,
)


@dataclass(frozen=True)
class KCenter:
    """No hyper-parameters."""

    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("hidden",)

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The ``budget`` samples that are each the farthest from all before them; ties go to the lowest index.

        The score is the distance to the nearest centre: of a pick when it was chosen, of all others in the end. A
        first centre that was drawn has the largest distance from it.
        """
        hidden = features.hidden[-1]
        n = len(hidden)
        nearest = hidden.new_full((n,), torch.inf)
        scores = torch.zeros_like(nearest)
        used = torch.zeros(n, dtype=torch.bool, device=hidden.device)
        used[bought.to(hidden.device)] = True
        for index in bought.tolist():
            nearest = torch.minimum(nearest, distances(hidden, index))
        picks: list[int] = []
        if not len(bought):
            picks.append(int(torch.randint(n, (), generator=generator)))
            nearest = distances(hidden, picks[0])
            scores[picks[0]] = nearest.max()
            used[picks[0]] = True
        while len(picks) < budget:
            index = int(torch.where(used, -1.0, nearest).argmax())  # of equals argmax takes the first
            scores[index] = nearest[index]
            nearest = torch.minimum(nearest, distances(hidden, index))
            used[index] = True
            picks.append(index)
            progress(f"{len(picks)} of {budget}")
        scores = torch.where(used, scores, nearest)
        return choice_without_clusters(torch.tensor(picks), scores, {"radius": float(nearest.max())})


def distances(hidden: torch.Tensor, index: int) -> torch.Tensor:
    """(n,) Euclidean distances of the rows of ``hidden`` (n, d) to row ``index``; of equal rows exactly 0."""
    centre = hidden[index : index + 1]
    # The product form would cancel: equal rows would differ by rounding, and ties would go anywhere.
    return torch.cdist(hidden, centre, compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
