"""The weighted K-means that solves the M-clustering objective (MCO) on factored rows.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Eq. 9 and 10, Theorem 1.
Differs: the start is farthest-first on unit vectors (raw norms would choose the outliers), members are averaged with
the sign of their inner product (the objective takes its absolute value), an empty cluster is seeded anew at the sample
that is served worst, and a sample goes to the cluster of largest |<u_j, C_i>| - ||C_i||^2 / 2 instead of largest
|<u_j, C_i>|. With means as centroids that is the step which never lowers the objective; the plain one gives samples
to whatever cluster is tight, and on MNIST left half of the clusters with a handful of outliers each.
"""

from typing import NamedTuple

import torch

from metaselect.selection.base import ProgressCallback, no_progress
from metaselect.selection.clustering.factored import FactoredRows

TOLERANCE = 1e-4  # relative rise of the objective below which an iteration is the last


class Clustering(NamedTuple):
    """A clustering of n rows into M clusters, some of which may be empty.

    Attributes:
        assignment: (n,) int64 in [0, M).
        cosine: (n,) in [0, 1], absolute cosine of each row with its centroid.
        objective: after each iteration, sum_j omega_j |<u_j, C_i>| / sum_j omega_j with i the cluster of j and C_i
            its new centroid; never falls.
        non_empty: clusters with members, after each iteration.
        theorem_ratio: (n,) |sum_i <u_j, C_i>| / sum_i |<u_j, C_i>|, Theorem 1's (D - 1) / (D + 1) per sample.
    """

    assignment: torch.Tensor
    cosine: torch.Tensor
    objective: tuple[float, ...]
    non_empty: tuple[int, ...]
    theorem_ratio: torch.Tensor


class _Pass(NamedTuple):
    """One pass over the rows: their assignment to the old centroids, and the new ones that it leads to."""

    assignment: torch.Tensor
    best: torch.Tensor  # (n,) |<u_j, C_i>| of the assigned old centroid
    ratio: torch.Tensor
    centroids: torch.Tensor  # (M, D), zero where a cluster is empty
    objective: float  # at the new centroids


def kmeans(
    rows: FactoredRows,
    clusters: int,
    *,
    weighted: bool,
    first: int,
    iterations: int = 100,
    progress: ProgressCallback = no_progress,
) -> Clustering:
    """Cluster unit rows by the objective of Eq. 10, or by the absolute cosine alone.

    Args:
        rows: n rows.
        clusters: M, at most n.
        weighted: Eq. 10: centroids are means, whose norm (the cluster's tightness) weighs the similarity. False is
            RBC-K: centroids have norm 1.
        first: index of the first seed.
        iterations: at most.
        progress: hears of every iteration.
    """
    progress("seeding")
    new = rows.dense(farthest_first(rows, clusters, first))
    objective: list[float] = []
    non_empty: list[int] = []
    for _ in range(iterations):
        centroids = new
        found = _lloyd_pass(rows, centroids, weighted=weighted)
        objective.append(found.objective)
        non_empty.append(len(torch.unique(found.assignment)))
        progress(f"iteration {len(objective)}, objective {found.objective:.4f}, {non_empty[-1]} clusters")
        if len(objective) > 1 and objective[-1] <= objective[-2] * (1 + TOLERANCE):
            break
        new = _reseeded(rows, found)
    norms = centroids.norm(dim=1).clamp(min=1e-30)
    cosine = (found.best / norms[found.assignment]).clamp(0, 1)
    return Clustering(found.assignment, cosine, tuple(objective), tuple(non_empty), found.ratio)


def farthest_first(rows: FactoredRows, count: int, first: int) -> torch.Tensor:
    """(count,) distinct indices: each next one has the smallest largest |cos| with those before it."""
    nearest = rows.inner(first).abs()
    nearest[first] = torch.inf
    chosen = [first]
    for _ in range(count - 1):
        index = int(nearest.argmin())
        chosen.append(index)
        nearest = torch.maximum(nearest, rows.inner(index).abs())
        nearest[index] = torch.inf
    return torch.tensor(chosen, device=rows.norms.device)


def _lloyd_pass(rows: FactoredRows, centroids: torch.Tensor, *, weighted: bool) -> _Pass:
    n, count = len(rows), len(centroids)
    omega = rows.norms
    assignment = torch.empty(n, dtype=torch.int64, device=omega.device)
    best, ratio = torch.empty_like(omega), torch.empty_like(omega)
    sums = torch.zeros_like(centroids)
    half_square = (centroids * centroids).sum(1) / 2
    for where, block in rows.blocks():
        scores = block @ centroids.T  # (b, M)
        size = scores.abs()
        chosen = (size - half_square).max(1).indices[:, None]
        assignment[where], best[where] = chosen[:, 0], size.gather(1, chosen)[:, 0]
        ratio[where] = scores.sum(1).abs() / size.sum(1).clamp(min=1e-30)
        sign = torch.where(scores.gather(1, chosen) < 0, -1.0, 1.0).to(omega.dtype)
        # A product with the one-hot assignment, because index_add is not deterministic on a GPU.
        member = torch.zeros_like(scores).scatter_(1, chosen, sign * omega[where, None])
        sums.addmm_(member.T, block)
    mass = omega.new_zeros(count).index_put_((assignment,), omega, accumulate=True)
    scale = mass if weighted else sums.norm(dim=1)
    new = sums / scale.clamp(min=1e-30)[:, None]
    attained = float((sums * new).sum(1).cpu().double().sum()) / max(
        float(omega.cpu().double().sum()), 1e-300
    )
    return _Pass(assignment, best, ratio, new, attained)


def _reseeded(rows: FactoredRows, found: _Pass) -> torch.Tensor:
    """(M, D) the new centroids; an empty cluster moves to the row that is served worst."""
    empty = (torch.bincount(found.assignment, minlength=len(found.centroids)) == 0).nonzero()[:, 0]
    if not len(empty):
        return found.centroids
    served_worst = torch.sort(found.best, stable=True).indices[: len(empty)]
    return found.centroids.index_copy(0, empty, rows.dense(served_worst))
