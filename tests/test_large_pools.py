"""Clustering of large pools: sketches against exact inner products, and some of the rows for all of them."""

import pytest
import torch

from metaselect.selection.base import no_progress
from metaselect.selection.clustering import kmeans as clustering
from metaselect.selection.clustering import representatives, sketch
from metaselect.selection.clustering.factored import FactoredRows
from metaselect.selection.clustering.kmeans import _lloyd_step
from metaselect.selection.clustering.representatives import choose_representatives, rows_to_cluster
from metaselect.selection.clustering.sketch import SketchedRows

NONE = torch.empty(0, dtype=torch.int64)
WIDTHS = ((3, 7), (4, 5))  # (K, d) of two checkpoints


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(n: int, seed: int, *, kind: str = "dense") -> FactoredRows:
    draw, left, right = stream(seed), [], []
    for classes, width in WIDTHS:
        a, x = (torch.randn(n, size, generator=draw, dtype=torch.float64) for size in (classes, width))
        if kind == "one class":
            a = torch.eye(classes, dtype=torch.float64)[torch.arange(n) % classes]
        if kind == "equal":
            a, x = a[:1].expand(n, -1), x[:1].expand(n, -1)
        left.append(a)
        right.append(x)
    return FactoredRows(left, right)


@pytest.mark.parametrize("kind", ["dense", "one class", "equal"])
def test_inner_products_of_sketches_are_unbiased_within_their_bound(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the k numbers gives an estimate of its own: their mean and their variance, of rows and of centroids."""
    monkeypatch.setattr(sketch, "SKETCH_WIDTH", count := 40_000)
    rows = random_rows(12, 3, kind=kind)
    sketched = SketchedRows(rows, stream(5))
    exact, short = rows.dense(torch.arange(12)), sketched.dense(torch.arange(12))
    mix = torch.randn(4, 12, generator=stream(7), dtype=torch.float64)  # sketches are linear: of sums too
    exact, short = torch.cat([exact, mix @ exact]), torch.cat([short, mix @ short])
    estimates = short[:, None] * short[None] * count  # (16, 16, k)
    norms = exact.norm(dim=1)
    scale = norms[:, None] * norms
    assert (estimates.var(2) <= 9.3 * scale**2).all()  # 9, and the spread of a variance of 40,000 numbers
    error = (estimates.mean(2) - exact @ exact.T).abs()
    assert (error <= 5 * 3 * scale / count**0.5).all()


def test_blocks_of_a_sketch_are_its_dense_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaselect.selection.clustering.factored.BLOCK_ENTRIES", 1)
    rows = random_rows(150, 1)
    sketched = SketchedRows(rows, stream())
    blocks = torch.cat([block for _, block in sketched.blocks(9)])
    torch.testing.assert_close(blocks, sketched.dense(torch.arange(150)))
    part = sketched.subset(torch.tensor([7, 3]))
    torch.testing.assert_close(part.dense(torch.arange(2)), blocks[[7, 3]])
    centres = torch.tensor([4, 0])
    torch.testing.assert_close(
        sketched.closeness(centres), rows.closeness(centres)
    )  # seeds are found with the exact products


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_of_a_large_pool_are_those_of_the_product(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(200, 2)
    centroids = rows.dense(torch.arange(9))
    expected = _lloyd_step(rows, centroids, weighted=weighted)
    monkeypatch.setattr(clustering, "LARGE_POOL", 0)
    found = _lloyd_step(rows, centroids, weighted=weighted)
    assert torch.equal(found.assignment, expected.assignment)
    torch.testing.assert_close(found.centroids, expected.centroids)
    assert found.objective == pytest.approx(expected.objective)


def test_a_small_pool_is_clustered_as_it_is_and_draws_nothing() -> None:
    rows, draws = random_rows(300, 4), stream()
    everything, clustered = rows_to_cluster(rows, 2, draws)
    assert everything is clustered is rows
    assert torch.equal(draws.get_state(), stream().get_state())


@pytest.mark.parametrize("sketched", [False, True])
def test_a_large_pool_is_clustered_on_some_of_its_rows(
    sketched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted clusters: one pick of each, and every sample with its own kind, whether it was drawn or not."""
    monkeypatch.setattr(representatives, "LARGE_POOL", 0)
    monkeypatch.setattr(representatives, "MOST_ROWS", 20)
    if sketched:
        monkeypatch.setattr(representatives, "MOST_PRODUCTS", 0)
        monkeypatch.setattr(representatives, "SKETCH_WIDTH", 0)
    kind = torch.arange(600) % 6
    draw = stream(9)
    hidden = torch.randn(6, 40, generator=draw)[kind] + 0.1 * torch.randn(600, 40, generator=draw)
    probs = torch.randn(6, 5, generator=draw)[kind].softmax(1)
    rows = FactoredRows([probs], [hidden])
    choice = choose_representatives(
        rows, 6, NONE, stream(1), no_progress, weighted=True, starts=2, iterations=20
    )
    assert sorted(kind[choice.ranked].tolist()) == list(range(6))
    assert len(set(zip(choice.cluster.tolist(), kind.tolist(), strict=True))) == 6
    assert choice.details["clustered_samples"] == 120
    assert choice.details["sketch_width"] == (256 if sketched else None)
    assert float(choice.mass.sum()) == pytest.approx(1)
