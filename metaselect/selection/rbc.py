"""Representation-based clustering: the gradients of the last layer, clustered; one sample bought per cluster.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Eq. 10-12 and the section on noisy labels.
Differs: features are in eval mode and without augmentation, each checkpoint is scaled to mean norm 1, a cluster's
pick is one of its members (so all are distinct), and K-means is corrected as ``kmeans`` says. ``rbc-k`` leaves out
the weighting of Eq. 10, as in the paper's ablation.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.records import Json
from metaselect.selection import Choice, PoolFeatures, lowest
from metaselect.selection.factored import FactoredRows
from metaselect.selection.kmeans import Clusters, kmeans

KINDS = ("product", "representation", "full")


def factored_gradients(features: PoolFeatures, kind: str) -> FactoredRows:
    """Factors of Eq. 11 at every checkpoint.

    Args:
        features: T checkpoints.
        kind: "product": softmax (x) representation, the label-free part; "representation": that alone;
            "full": (softmax - onehot(given label)) (x) representation, for clean but unbalanced labels.
    """
    if kind == "representation":
        left = [torch.ones_like(probs[:, :1]) for probs in features.probs]
    elif kind == "full":
        onehot = F.one_hot(features.labels, features.probs[0].shape[1])
        left = [probs - onehot for probs in features.probs]  # Eq. 12
    else:
        left = list(features.probs)
    return FactoredRows(left, features.hidden)


@dataclass(frozen=True)
class RBC:
    """Hyper-parameters.

    Attributes:
        features: "product", "representation" or "full".
        starts: seeded starts of K-means; the best objective is kept.
        iterations: of K-means, at most.
    """

    features: str = "product"
    starts: int = 3
    iterations: int = 100
    checkpoints: ClassVar[str] = "all"
    weighted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.features not in KINDS:
            raise UsageError(
                f"--option features={self.features} is not known.", f"One of {', '.join(KINDS)}."
            )
        if self.starts < 1 or self.iterations < 1:
            raise UsageError(
                "--option starts and iterations must be at least 1.", "Leave them at their defaults."
            )

    def choose(
        self, features: PoolFeatures, budget: int, bought: torch.Tensor, generator: torch.Generator
    ) -> Choice:
        """One member of each of ``budget`` clusters: the one closest to its centroid."""
        rows = factored_gradients(features, self.features)
        candidates = far_from_bought(rows, budget, bought)
        pool = rows.subset(candidates)
        runs = [
            kmeans(
                pool,
                budget,
                weighted=self.weighted,
                first=int(torch.randint(len(pool), (), generator=generator)),
                iterations=self.iterations,
            )
            for _ in range(self.starts)
        ]
        best = max(runs, key=lambda run: run.objective[-1])
        mass = pool.norms.new_zeros(budget)
        mass.index_put_((best.assignment,), pool.norms, accumulate=True)
        mass /= mass.sum().clamp(min=1e-30)
        cluster = torch.full((len(rows),), -1, dtype=torch.int64)
        cluster[candidates.cpu()] = best.assignment.cpu()
        similarity = torch.zeros(len(rows))
        similarity[candidates.cpu()] = best.cosine.cpu()
        picks = candidates[closest_members(best, budget, mass)]
        return Choice(picks.cpu(), cluster, similarity, mass.cpu(), _details(best))


@dataclass(frozen=True)
class RBCK(RBC):
    """RBC without the norms of Eq. 10: similarity is the absolute cosine alone."""

    weighted: ClassVar[bool] = False


def closest_members(clusters: Clusters, budget: int, mass: torch.Tensor) -> torch.Tensor:
    """(budget,) distinct rows: of each cluster the member closest to its centroid, heaviest cluster first.

    Where clusters are empty (fewer distinct rows than clusters), the rest are the closest unused members of any.
    """
    by_cosine = torch.sort(-clusters.cosine, stable=True).indices
    order = by_cosine[torch.sort(clusters.assignment[by_cosine], stable=True).indices]
    ordered = clusters.assignment[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    picks = order[first]
    picks = picks[torch.sort(-mass[clusters.assignment[picks]], stable=True).indices]
    rest = lowest(-clusters.cosine, budget - len(picks), picks)
    return torch.cat([picks, rest])


def far_from_bought(rows: FactoredRows, budget: int, bought: torch.Tensor) -> torch.Tensor:
    """Indices of the candidates: after a first round, the half that is farther from every bought sample."""
    if not len(bought):
        return torch.arange(len(rows), device=rows.norms.device)
    nearest = torch.zeros_like(rows.norms)
    for index in bought.tolist():
        torch.maximum(nearest, rows.inner(index).abs(), out=nearest)
    count = max((len(rows) - len(bought)) // 2, budget)
    return lowest(nearest, count, bought).sort().values


def _details(clusters: Clusters) -> dict[str, Json]:
    ratio = clusters.theorem_ratio
    return {
        "objective": list(clusters.objective),
        "non_empty_clusters": list(clusters.non_empty),
        "theorem_1_ratio": {"min": float(ratio.min()), "mean": float(ratio.mean())},
    }
