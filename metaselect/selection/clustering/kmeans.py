"""The weighted K-means that solves the M-clustering objective (MCO) on factored rows.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Eq. 9 and 10, Theorem 1.
Differs: the start is farthest-first on unit vectors (raw norms would choose outliers); members are averaged with the
sign of their inner product (the objective takes its absolute value); an empty cluster is seeded again at the sample of
smallest similarity to its centroid; and a sample goes to the cluster of largest |<u_j, C_i>| - ||C_i||^2 / 2 instead of
largest |<u_j, C_i>|. With means as centroids that is the step which never lowers the objective; the paper's step
prefers tight clusters, and on MNIST left half of the clusters with a handful of outliers each.
"""

import math
from typing import NamedTuple

import torch

from metaselect.ranks import divide, divide_chunks
from metaselect.selection.base import ProgressCallback, no_progress
from metaselect.selection.clustering.factored import FactoredRows, block_rows, row_ranges
from metaselect.selection.clustering.farthest_first import farthest_first
from metaselect.selection.clustering.row_argmax import row_argmax

LARGE_POOL = 2**17  # rows, above which arithmetic is chosen that takes less time and rounds otherwise
PARTS, LEAST_PART = 8, 8192  # parts whose sums are added, at most, and rows of each, at least
TOLERANCE = 1e-4  # stop when an iteration raises the objective by less than this, relatively


class Clustering(NamedTuple):
    """A clustering of n rows into M clusters, some of which may be empty.

    Attributes:
        assignment: (n,) int64 in [0, M).
        cosine: (n,) in [0, 1], absolute cosine of each row with its centroid.
        objective: after each iteration, sum_j omega_j |<u_j, C_i>| / sum_j omega_j with i the cluster of j and C_i
            its new centroid; never falls. Of ``assigned``, at last that of all its rows.
        non_empty: number of clusters with members, after each iteration.
        centroids: (M, D) that the rows were assigned to.
        theorem_ratio: (n,) |sum_i <u_j, C_i>| / sum_i |<u_j, C_i>|, Theorem 1's (D - 1) / (D + 1) per sample.
    """

    assignment: torch.Tensor
    cosine: torch.Tensor
    objective: tuple[float, ...]
    non_empty: tuple[int, ...]
    centroids: torch.Tensor
    theorem_ratio: torch.Tensor


class _LloydStep(NamedTuple):
    """One iteration of Lloyd's algorithm: rows assigned to the old centroids, and the new centroids."""

    assignment: torch.Tensor  # (n,) int64
    similarity: torch.Tensor  # (n,) |<u_j, C_i>| of the assigned old centroid
    ratio: torch.Tensor  # (n,) Theorem 1's ratio
    centroids: torch.Tensor  # (M, D), zero where a cluster is empty
    objective: float  # at the new centroids


class _AssignedPart(NamedTuple):
    """Some rows assigned to centroids."""

    assignment: torch.Tensor  # (b,) int64
    similarity: torch.Tensor  # (b,)
    ratio: torch.Tensor  # (b,)
    sums: torch.Tensor  # (M, D) of the members, with sign and norm


def kmeans(
    rows: FactoredRows,
    clusters: int,
    *,
    weighted: bool,
    first: int,
    iterations: int = 100,
    progress: ProgressCallback = no_progress,
) -> Clustering:
    """A clustering of unit rows by the objective of Eq. 10, or by the absolute cosine alone.

    Args:
        rows: n rows.
        clusters: M, at most n.
        weighted: Eq. 10: centroids are means, whose norm (the cluster's tightness) weighs the similarity. False is
            RBC-K: centroids have norm 1.
        first: index of the first seed; the others follow farthest-first.
        iterations: at most.
        progress: called after every iteration.
    """
    progress("seeding")
    new_centroids = rows.dense(seed_rows(rows, clusters, first))
    objective: list[float] = []
    non_empty: list[int] = []
    for _ in range(iterations):
        centroids = new_centroids
        step = _lloyd_step(rows, centroids, weighted=weighted)
        objective.append(step.objective)
        non_empty.append(len(torch.unique(step.assignment)))
        progress(f"iteration {len(objective)}, objective {step.objective:.4f}, {non_empty[-1]} clusters")
        if len(objective) > 1 and objective[-1] <= objective[-2] * (1 + TOLERANCE):
            break
        new_centroids = _reseed_empty(rows, step)
    return _clustering(step, centroids, objective, non_empty)


def assigned(rows: FactoredRows, found: Clustering, *, weighted: bool) -> Clustering:
    """The clustering of other rows by the centroids of one that was found on some of them."""
    step = _lloyd_step(rows, found.centroids, weighted=weighted)
    non_empty = [*found.non_empty, len(torch.unique(step.assignment))]
    return _clustering(step, found.centroids, [*found.objective, step.objective], non_empty)


def _clustering(
    step: _LloydStep, centroids: torch.Tensor, objective: list[float], non_empty: list[int]
) -> Clustering:
    """The clustering of the last iteration."""
    norms = centroids.norm(dim=1).clamp(min=1e-30)
    cosine = (step.similarity / norms[step.assignment]).clamp(0, 1)
    return Clustering(step.assignment, cosine, tuple(objective), tuple(non_empty), centroids, step.ratio)


def seed_rows(rows: FactoredRows, count: int, first: int) -> torch.Tensor:
    """(count,) distinct indices, from ``first`` on.

    Each further row is the one whose largest |cos| with the rows chosen before it is smallest.
    """
    start = torch.tensor([first], device=rows.norms.device)

    def lower(bounds: torch.Tensor, centres: torch.Tensor) -> None:
        torch.minimum(bounds, -rows.closeness(centres), out=bounds)

    def between(ids: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        return -rows.subset(ids).times(rows.subset(centres)).abs()

    bounds = torch.full_like(rows.norms, torch.inf)
    found = farthest_first(bounds, start, count - 1, between, lower)
    return torch.cat([start, found.picks])


def _lloyd_step(rows: FactoredRows, centroids: torch.Tensor, *, weighted: bool) -> _LloydStep:
    """Assign every row to a centroid, and compute the new centroids, in one pass over the blocks of rows.

    Each part of the rows is assigned and added up by one rank. Parts depend on the number of rows alone, and their sums
    are added in order, so that any number of ranks finds the same bits.
    """
    count, omega = len(centroids), rows.norms
    ranges = row_ranges(len(rows), _part_rows(len(rows), block_rows(rows.width, count)))
    parts, division = divide_chunks(ranges)
    # On a GPU index_add is not deterministic. On a CPU it takes a fraction of the time of a product.
    by_index = len(rows) > LARGE_POOL and omega.device.type == "cpu"
    found = [_assign(rows.subset(slice(part.start, part.stop)), centroids, by_index) for part in parts]
    assignment, similarity, ratio = (
        division.joined(torch.cat(column))
        for column in zip(*((part.assignment, part.similarity, part.ratio) for part in found), strict=True)
    )
    sums = divide(len(ranges)).joined(torch.stack([part.sums for part in found])).sum(0)
    mass = omega.new_zeros(count).index_put_((assignment,), omega, accumulate=True)
    scale = mass if weighted else sums.norm(dim=1)  # Eq. 10: the mean; RBC-K: norm 1
    new_centroids = sums / scale.clamp(min=1e-30)[:, None]
    objective = float((sums * new_centroids).sum(1).cpu().double().sum()) / max(
        float(omega.cpu().double().sum()), 1e-300
    )
    return _LloydStep(assignment, similarity, ratio, new_centroids, objective)


def _part_rows(n: int, block: int) -> int:
    """Rows of a part: whole blocks."""
    return math.ceil(max(n / PARTS, LEAST_PART) / block) * block


def _assign(rows: FactoredRows, centroids: torch.Tensor, by_index: bool) -> _AssignedPart:
    """Assign the rows of a part to centroids, and add them up by their clusters."""
    n, count = len(rows), len(centroids)
    half_square = (centroids * centroids).sum(1) / 2  # (M,)
    omega = rows.norms
    assignment = torch.empty(n, dtype=torch.int64, device=omega.device)
    similarity, ratio = torch.empty_like(omega), torch.empty_like(omega)
    sums = torch.zeros_like(centroids)
    for rows_slice, block in rows.blocks(count):
        scores = block @ centroids.T  # (b, M)
        absolute = scores.abs()
        chosen = row_argmax(absolute - half_square)[:, None]  # (b, 1)
        assignment[rows_slice], similarity[rows_slice] = chosen[:, 0], absolute.gather(1, chosen)[:, 0]
        ratio[rows_slice] = scores.sum(1).abs() / absolute.sum(1).clamp(min=1e-30)  # Theorem 1
        signs = torch.where(scores.gather(1, chosen) < 0, -1.0, 1.0).to(omega.dtype)
        signed_omega = signs * omega[rows_slice, None]
        if by_index:
            sums.index_add_(0, chosen[:, 0], block * signed_omega)
        else:  # a product with the one-hot assignment
            membership = torch.zeros_like(scores).scatter_(1, chosen, signed_omega)
            sums.addmm_(membership.T, block)  # (M, D)
    return _AssignedPart(assignment, similarity, ratio, sums)


def _reseed_empty(rows: FactoredRows, step: _LloydStep) -> torch.Tensor:
    """(M, D) new centroids, where each empty cluster gets one of the rows of smallest similarity to their centroids."""
    empty = (torch.bincount(step.assignment, minlength=len(step.centroids)) == 0).nonzero()[:, 0]
    if not len(empty):
        return step.centroids
    worst = torch.sort(step.similarity, stable=True).indices[: len(empty)]
    return step.centroids.index_copy(0, empty, rows.dense(worst))
