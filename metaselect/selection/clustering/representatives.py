"""One representative per cluster, for RBC, RBC-K and GBC: cluster the rows, choose the member closest to each centroid.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Algorithm 1.
Differs: a representative is a member of its cluster, so that all are distinct; the best of several seeded starts is
kept; in later rounds the candidates are the half of the pool that is farther from everything bought, as in the authors'
code. Large pools are clustered on some of their rows, and long rows by a sketch (see ``rows_to_cluster``).
"""

import torch

from metaselect.records import Json
from metaselect.selection.base import Choice, ProgressCallback, lowest_unbought
from metaselect.selection.clustering.factored import FactoredRows
from metaselect.selection.clustering.kmeans import LARGE_POOL, Clustering, assigned, kmeans
from metaselect.selection.clustering.sketch import SKETCH_WIDTH, SketchedRows

MOST_ROWS = 256  # rows a cluster that K-means iterates over in a large pool; as in Faiss
MOST_PRODUCTS = 2**38  # of an iteration: some seconds on a core
BOUGHT_AT_ONCE = 1024  # bought samples whose products are formed at once in a large pool


def choose_representatives(
    rows: FactoredRows,
    budget: int,
    bought: torch.Tensor,
    generator: torch.Generator,
    progress: ProgressCallback,
    *,
    weighted: bool,
    starts: int,
    iterations: int,
) -> Choice:
    """The choice of one member of each of ``budget`` clusters, the one closest to its centroid.

    Args:
        rows: n gradient features.
        budget: M, the number of clusters and of representatives.
        bought: (m,) int64, never chosen again.
        generator: of the starts.
        progress: called after every iteration.
        weighted: as ``kmeans``.
        starts: seeded starts of K-means; the best objective is kept.
        iterations: of K-means, at most.
    """
    candidates = far_from_bought(rows, budget, bought)
    pool = rows.subset(candidates) if len(bought) else rows
    everything, clustered = rows_to_cluster(pool, budget, generator)
    best: Clustering | None = None
    for start in range(starts):
        first = int(torch.randint(len(clustered), (), generator=generator))
        clustering = kmeans(
            clustered,
            budget,
            weighted=weighted,
            first=first,
            iterations=iterations,
            progress=lambda text, start=start: progress(f"start {start + 1} of {starts}, {text}"),  # type: ignore[misc]
        )
        if best is None or clustering.objective[-1] > best.objective[-1]:
            best = clustering
    assert best is not None
    if len(clustered) < len(pool):
        progress("clusters of the other samples")
        best = assigned(everything, best, weighted=weighted)
    # Share of the pool's gradient norm in each cluster; picks of heavier clusters are ranked first.
    mass = pool.norms.new_zeros(budget)
    mass.index_put_((best.assignment,), pool.norms, accumulate=True)
    mass /= mass.sum().clamp(min=1e-30)
    cluster = torch.full((len(rows),), -1, dtype=torch.int64)
    cluster[candidates.cpu()] = best.assignment.cpu()
    similarity = torch.zeros(len(rows))
    similarity[candidates.cpu()] = best.cosine.cpu()
    picks = candidates[closest_members(best, budget, mass)]
    return Choice(picks.cpu(), cluster, similarity, mass.cpu(), _details(best, clustered))


def rows_to_cluster(
    pool: FactoredRows, clusters: int, generator: torch.Generator
) -> tuple[FactoredRows, FactoredRows]:
    """All rows, and those among them that K-means iterates over.

    Of more than ``LARGE_POOL`` rows, and more than ``MOST_ROWS`` a cluster, it iterates over as many that are drawn.
    Where an iteration over them would take more than ``MOST_PRODUCTS`` multiplications, both are sketches.

    Args:
        pool: n rows.
        clusters: M.
        generator: of the rows and the sketch; nothing is drawn in a pool that needs neither.
    """
    count = clustered_rows(len(pool), clusters)
    if sketched_width(len(pool), clusters, pool.width) < pool.width:
        pool = SketchedRows(pool, generator)
    if count == len(pool):
        return pool, pool
    drawn = torch.randperm(len(pool), generator=generator)[:count].sort().values
    return pool, pool.subset(drawn.to(pool.norms.device))


def clustered_rows(n: int, clusters: int) -> int:
    """The number of rows, of n, that K-means iterates over."""
    return min(n, max(LARGE_POOL, MOST_ROWS * clusters))


def sketched_width(n: int, clusters: int, width: int) -> int:
    """The numbers of a row that K-means iterates over: ``width``, or those of a sketch."""
    large = clustered_rows(n, clusters) * clusters * width > MOST_PRODUCTS
    return SKETCH_WIDTH if width > SKETCH_WIDTH and large else width


def closest_members(clusters: Clustering, budget: int, mass: torch.Tensor) -> torch.Tensor:
    """(budget,) distinct rows: of each cluster the member closest to its centroid, heaviest cluster first.

    Where clusters are empty (fewer distinct rows than clusters), the closest unused members of any cluster follow.
    """
    by_cosine = torch.sort(-clusters.cosine, stable=True).indices
    # Sorted by cluster and, within it, by falling cosine: two stable sorts, the lesser key first.
    order = by_cosine[torch.sort(clusters.assignment[by_cosine], stable=True).indices]
    ordered = clusters.assignment[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    picks = order[first]
    picks = picks[torch.sort(-mass[clusters.assignment[picks]], stable=True).indices]
    rest = lowest_unbought(-clusters.cosine, budget - len(picks), picks)
    return torch.cat([picks, rest])


def far_from_bought(rows: FactoredRows, budget: int, bought: torch.Tensor) -> torch.Tensor:
    """(n',) sorted indices of the candidates: in later rounds the half that is farther from all bought samples."""
    if not len(bought):
        return torch.arange(len(rows), device=rows.norms.device)
    nearest = torch.zeros_like(rows.norms)  # (n,) largest |cos| with a bought sample
    bought_at_once = 1 if len(rows) <= LARGE_POOL else BOUGHT_AT_ONCE
    for part in bought.to(nearest.device).split(bought_at_once):
        nearest = torch.maximum(nearest, rows.closeness(part))
    count = max((len(rows) - len(bought)) // 2, budget)
    return lowest_unbought(nearest, count, bought).sort().values


def _details(clusters: Clustering, clustered: FactoredRows) -> dict[str, Json]:
    """What ``stage.json`` records of a clustering, and of the rows that K-means iterated over."""
    ratio = clusters.theorem_ratio
    return {
        "clustered_samples": len(clustered),
        "sketch_width": clustered.width if isinstance(clustered, SketchedRows) else None,
        "objective": list(clusters.objective),
        "non_empty_clusters": list(clusters.non_empty),
        "theorem_1_ratio": {"min": float(ratio.min()), "mean": float(ratio.mean())},
    }
