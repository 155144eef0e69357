"""The weighted K-means that solves the M-clustering objective (MCO) on factored rows.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Eq. 9 and 10, Theorem 1.
Differs: the start is farthest-first on unit vectors (raw norms would choose the outliers), members are averaged with
the sign of their inner product (the objective takes its absolute value), an empty cluster is seeded anew at the sample
that is served worst, and the first iteration that does not raise the objective is dropped, so it never falls; the
seeds themselves do not count, having the norm 1 of no cluster.
"""

from typing import NamedTuple

import torch

from metaselect.selection.factored import FactoredRows

TOLERANCE = 1e-5  # relative rise of the objective below which an iteration is not worth its pass


class Clusters(NamedTuple):
    """A clustering of n rows into M clusters, some of which may be empty.

    Attributes:
        assignment: (n,) int64 in [0, M).
        cosine: (n,) in [0, 1], absolute cosine of each row with its centroid.
        objective: after each iteration, sum_j omega_j max_i |<u_j, C_i>| / sum_j omega_j; never falls.
        non_empty: clusters with members, after each iteration.
        theorem_ratio: (n,) |sum_i <u_j, C_i>| / sum_i |<u_j, C_i>|, Theorem 1's (D - 1) / (D + 1) per sample.
    """

    assignment: torch.Tensor
    cosine: torch.Tensor
    objective: tuple[float, ...]
    non_empty: tuple[int, ...]
    theorem_ratio: torch.Tensor


class _Pass(NamedTuple):
    """One pass over the rows: their assignment to the old centroids, and the means that it leads to."""

    assignment: torch.Tensor
    best: torch.Tensor  # (n,) |<u_j, C_i>| of the assigned centroid
    ratio: torch.Tensor
    means: torch.Tensor  # (M, D), zero where a cluster is empty
    objective: float


def kmeans(
    rows: FactoredRows, clusters: int, *, weighted: bool, first: int, iterations: int = 100
) -> Clusters:
    """Cluster unit rows by |<u_j, C_i>| (weighted) or by |cos(u_j, C_i)|.

    Args:
        rows: n rows.
        clusters: M, at most n.
        weighted: Eq. 10: the centroid's norm (its tightness) weighs the similarity. False is RBC-K.
        first: index of the first seed.
        iterations: at most, after the one that turns the seeds into centroids.
    """
    seeds = rows.dense(farthest_first(rows, clusters, first))
    # Seeds have norm 1, which the means of Eq. 10 have not: their objective would beat that of any clustering.
    centroids = _updated(rows, _lloyd_pass(rows, seeds), weighted=weighted)
    kept: _Pass | None = None
    kept_centroids = centroids
    objective: list[float] = []
    non_empty: list[int] = []
    for _ in range(iterations):
        found = _lloyd_pass(rows, centroids)
        if kept is not None and found.objective <= kept.objective * (1 + TOLERANCE):
            break
        kept, kept_centroids = found, centroids
        objective.append(found.objective)
        non_empty.append(len(torch.unique(found.assignment)))
        centroids = _updated(rows, found, weighted=weighted)
    assert kept is not None
    norms = kept_centroids.norm(dim=1).clamp(min=1e-30)
    cosine = (kept.best / norms[kept.assignment]).clamp(0, 1)
    return Clusters(kept.assignment, cosine, tuple(objective), tuple(non_empty), kept.ratio)


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


def _lloyd_pass(rows: FactoredRows, centroids: torch.Tensor) -> _Pass:
    n, count = len(rows), len(centroids)
    omega = rows.norms
    assignment = torch.empty(n, dtype=torch.int64, device=omega.device)
    best, ratio = torch.empty_like(omega), torch.empty_like(omega)
    sums = torch.zeros_like(centroids)
    for where, block in rows.blocks():
        scores = block @ centroids.T  # (b, M)
        size = scores.abs()
        best[where], assignment[where] = size.max(1)
        ratio[where] = scores.sum(1).abs() / size.sum(1).clamp(min=1e-30)
        chosen = assignment[where]
        sign = torch.where(scores.gather(1, chosen[:, None])[:, 0] < 0, -1.0, 1.0)
        # A product with the one-hot assignment, because index_add is not deterministic on a GPU.
        member = torch.zeros_like(scores).scatter_(1, chosen[:, None], (sign * omega[where])[:, None])
        sums.addmm_(member.T, block)
    mass = omega.new_zeros(count).index_put_((assignment,), omega, accumulate=True)
    means = sums / mass.clamp(min=1e-30)[:, None]
    total = omega.double().sum().clamp(min=1e-300)
    return _Pass(assignment, best, ratio, means, float((omega.double() * best.double()).sum() / total))


def _updated(rows: FactoredRows, found: _Pass, *, weighted: bool) -> torch.Tensor:
    """(M, D) the new centroids; an empty cluster moves to the row that is served worst."""
    centroids = found.means
    empty = (torch.bincount(found.assignment, minlength=len(centroids)) == 0).nonzero()[:, 0]
    if len(empty):
        served_worst = torch.sort(found.best, stable=True).indices[: len(empty)]
        centroids = centroids.index_copy(0, empty, rows.dense(served_worst))
    return centroids if weighted else centroids / centroids.norm(dim=1, keepdim=True).clamp(min=1e-30)
