"""K-center (core-set): samples that leave no other sample far from all of them, chosen farthest-first.

Source: Sener, Savarese 2018 (arXiv:1708.00489), Algorithm 1 (k-Center-Greedy), on the input of the last layer.
Differs: greedy alone, without the mixed-integer refinement of Algorithm 2 (it needs a commercial solver, and greedy is
within a factor 2 of the best radius); with nothing bought the first centre is drawn at random.
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
    """K-center, which has no hyper-parameters."""

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

        ``similarity`` is the distance to the nearest centre: of a pick when it was chosen, of all others at the end. A
        first centre that was drawn at random has the largest distance of any sample from it.
        """
        hidden = features.hidden[-1]
        n = len(hidden)
        nearest = hidden.new_full((n,), torch.inf)  # (n,) distance to the nearest centre
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
            index = int(torch.where(used, -1.0, nearest).argmax())  # argmax returns the first of equals
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
    # The matrix-product form loses digits by cancellation: equal rows would have distances above 0, which break ties.
    return torch.cdist(hidden, centre, compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
