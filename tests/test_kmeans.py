"""Factored rows against dense ones, and K-means against brute force and a dense twin."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaselect.selection.clustering import factored, farthest_first
from metaselect.selection.clustering.factored import FactoredRows
from metaselect.selection.clustering.kmeans import (
    TOLERANCE,
    _lloyd_step,
    _reseed_empty,
    kmeans,
    seed_rows,
)
from metaselect.selection.clustering.row_argmax import row_argmax

WIDTHS = ((3, 4), (2, 5))  # (K, d) of two checkpoints


def random_factors(
    n: int, seed: int, *, signed: bool = True, widths: tuple[tuple[int, int], ...] = WIDTHS
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    made = [
        [torch.randn(n, width, generator=draw, dtype=torch.float64) for width in sizes]
        for sizes in zip(*widths, strict=True)
    ]
    left, right = made if signed else [[values.abs() for values in side] for side in made]
    return left, right


def random_rows(n: int, seed: int, *, signed: bool = True) -> FactoredRows:
    return FactoredRows(*random_factors(n, seed, signed=signed))


def dense_twin(left: list[torch.Tensor], right: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) unit rows and (n,) norms, sample by sample, with numpy's outer product."""
    parts = []
    for a, x in zip(left, right, strict=True):
        products = np.stack([np.outer(p, q).ravel() for p, q in zip(a.numpy(), x.numpy(), strict=True)])
        parts.append(products / np.linalg.norm(products, axis=1).mean())
    rows = np.concatenate(parts, 1)
    norms = np.linalg.norm(rows, axis=1)
    return rows / norms[:, None], norms


def as_one(rows: np.ndarray, norms: np.ndarray) -> FactoredRows:
    """Dense unit rows with given norms (up to a common factor), as one checkpoint with K = 1."""
    return FactoredRows([torch.from_numpy(norms)[:, None]], [torch.from_numpy(rows)])


def collected(rows: FactoredRows) -> torch.Tensor:
    return torch.cat([block.clone() for _, block in rows.blocks()])


@pytest.mark.parametrize("block_numbers", [1, 60, 2**20])
def test_factored_rows_are_the_outer_products(block_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factored, "BLOCK_ENTRIES", block_numbers)
    monkeypatch.setattr(factored, "MIN_BLOCK_ROWS", 1)
    left, right = random_factors(11, 1)
    rows = FactoredRows(left, right)
    unit, norms = dense_twin(left, right)
    assert len(rows) == 11
    assert rows.width == 3 * 4 + 2 * 5 == unit.shape[1]
    np.testing.assert_allclose(rows.norms, norms, rtol=1e-13)
    np.testing.assert_allclose(collected(rows), unit, rtol=1e-12, atol=1e-15)
    covered = [where for where, _ in rows.blocks()]
    assert [i for where in covered for i in range(where.start, where.stop)] == list(range(11))
    ids = torch.tensor([7, 0, 7])
    np.testing.assert_allclose(rows.dense(ids), unit[ids], rtol=1e-12, atol=1e-15)
    for index in range(11):
        np.testing.assert_allclose(
            rows.closeness(torch.tensor([index])), abs(unit @ unit[index]), rtol=1e-12, atol=1e-15
        )
    part = rows.subset(torch.tensor([4, 2]))
    np.testing.assert_allclose(collected(part), unit[[4, 2]], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(part.norms, norms[[4, 2]], rtol=1e-13)


def test_every_checkpoint_has_mean_norm_one() -> None:
    left, right = random_factors(9, 2)
    right[1] *= 1e6
    rows = FactoredRows(left, right)
    for a, x in zip(rows.left, rows.right, strict=True):
        scaled = (a.norm(dim=1) * x.norm(dim=1)) * rows.norms  # the norms of u_j, unit by unit, undone
        assert float(scaled.mean()) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dead", [0, 1])
def test_a_checkpoint_of_zeros_counts_for_nothing(dead: int, dtype: torch.dtype) -> None:
    left, right = ([side.to(dtype) for side in sides] for sides in random_factors(9, 3))
    right[1 - dead][:4] *= 1e-3  # norms far below 1 beside the dead checkpoint
    alone = FactoredRows([left[1 - dead]], [right[1 - dead]])
    right[dead].zero_()
    rows = FactoredRows(left, right)
    assert torch.isfinite(collected(rows)).all()
    torch.testing.assert_close(rows.norms, alone.norms)
    for index in range(9):
        centre = torch.tensor([index])
        torch.testing.assert_close(rows.closeness(centre), alone.closeness(centre))


def test_a_row_of_zeros_stays_zero() -> None:
    left, right = random_factors(5, 4)
    for x in right:
        x[2] = 0
    rows = FactoredRows(left, right)
    assert rows.norms[2] == 0
    assert torch.equal(rows.dense(torch.tensor([2])), torch.zeros(1, rows.width, dtype=torch.float64))
    assert torch.isfinite(collected(rows)).all()


def test_half_rows_are_widened_before_anything_is_computed() -> None:
    """Rows in float16 give what the same numbers give in float32."""
    left, right = ([side.float() for side in sides] for sides in random_factors(30, 5))
    halves = [x.half() for x in right]
    found, expected = FactoredRows(left, halves), FactoredRows(left, [x.float() for x in halves])
    assert torch.equal(found.norms, expected.norms)
    assert torch.equal(collected(found), collected(expected))
    assert torch.equal(found.dense(torch.tensor([3, 1])), expected.dense(torch.tensor([3, 1])))
    assert torch.equal(found.closeness(torch.tensor([4, 9])), expected.closeness(torch.tensor([4, 9])))
    clusters, twin = (kmeans(rows, 5, weighted=True, first=0) for rows in (found, expected))
    assert torch.equal(clusters.assignment, twin.assignment)
    assert clusters.objective == twin.objective


def numpy_pass(
    unit: np.ndarray, omega: np.ndarray, centroids: np.ndarray, *, weighted: bool = True
) -> tuple[np.ndarray, np.ndarray, float]:
    """Assignment, sign-aligned new centroids and the objective at them, row by row."""
    assignment, signs = np.empty(len(unit), np.int64), np.empty(len(unit))
    sums, mass = np.zeros_like(centroids), np.zeros(len(centroids))
    for j, row in enumerate(unit):
        scores = np.array([float(row @ centroid) for centroid in centroids])
        # The nearest centroid to the row or its opposite: ||s u - C||^2 = 1 - 2 s <u, C> + ||C||^2.
        i = int(np.argmin(1 - 2 * np.abs(scores) + (centroids**2).sum(1)))
        assignment[j], signs[j] = i, 1 if scores[i] >= 0 else -1
        sums[i] += omega[j] * signs[j] * row
        mass[i] += omega[j]
    scale = mass if weighted else np.linalg.norm(sums, axis=1)
    new = np.stack([s / m if m else s for s, m in zip(sums, scale, strict=True)])
    attained = sum(omega[j] * signs[j] * float(row @ new[assignment[j]]) for j, row in enumerate(unit))
    return assignment, new, attained / omega.sum()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("block_numbers", [50, 2**20])
def test_a_pass_equals_its_dense_twin(
    signed: bool, weighted: bool, block_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factored, "BLOCK_ENTRIES", block_numbers)
    monkeypatch.setattr(factored, "MIN_BLOCK_ROWS", 1)
    left, right = random_factors(40, 5, signed=signed)
    rows = FactoredRows(left, right)
    unit, omega = dense_twin(left, right)
    centroids = rows.dense(torch.tensor([3, 8, 20, 33]))
    for _ in range(3):
        found = _lloyd_step(rows, centroids, weighted=weighted)
        assignment, new, objective = numpy_pass(unit, omega, centroids.numpy(), weighted=weighted)
        assert found.assignment.tolist() == assignment.tolist()
        np.testing.assert_allclose(found.centroids, new, rtol=1e-10, atol=1e-13)
        assert found.objective == pytest.approx(objective, rel=1e-12)
        assert (found.centroids.norm(dim=1) <= 1 + 1e-12).all()
        scores = unit @ centroids.numpy().T
        ratio = np.abs(scores.sum(1)) / np.abs(scores).sum(1)
        np.testing.assert_allclose(found.ratio, ratio, rtol=1e-9)
        centroids = found.centroids


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_kmeans_equals_lloyd_written_out(weighted: bool, signed: bool) -> None:
    left, right = random_factors(60, 6, signed=signed)
    rows = FactoredRows(left, right)
    unit, omega = dense_twin(left, right)

    new = unit[seed_rows(rows, 4, 7)]
    history: list[float] = []
    while len(history) < 2 or history[-1] > history[-2] * (1 + TOLERANCE):
        centroids = new
        assignment, new, objective = numpy_pass(unit, omega, centroids, weighted=weighted)
        assert len(set(assignment)) == len(centroids)  # so that seeding anew plays no part
        history.append(objective)
    found = kmeans(rows, 4, weighted=weighted, first=7)
    assert found.objective == pytest.approx(history)
    assert len(history) > 2
    assert found.assignment.tolist() == assignment.tolist()
    scores = np.abs(unit @ centroids.T)[np.arange(60), assignment]
    np.testing.assert_allclose(
        found.cosine, scores / np.linalg.norm(centroids[assignment], axis=1), rtol=1e-9
    )


@settings(max_examples=40)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_objective_never_falls(n: int, clusters: int, seed: int, signed: bool, weighted: bool) -> None:
    clusters = min(clusters, n)
    found = kmeans(random_rows(n, seed, signed=signed), clusters, weighted=weighted, first=seed % n)
    assert found.objective
    assert all(b >= a * (1 - 1e-12) for a, b in itertools.pairwise(found.objective))
    assert found.objective[-1] <= 1 + 1e-12
    assert len(found.non_empty) == len(found.objective)
    assert found.non_empty[-1] == len(set(found.assignment.tolist()))
    assert found.assignment.min() >= 0
    assert found.assignment.max() < clusters
    assert found.cosine.min() >= 0
    assert found.cosine.max() <= 1
    assert found.theorem_ratio.min() >= 0
    assert found.theorem_ratio.max() <= 1 + 1e-12


def partition_value(unit: np.ndarray, omega: np.ndarray, assignment: tuple[int, ...], clusters: int) -> float:
    """MCO of the means of a partition of rows without negative entries: sum_j omega_j |<u_j, C_i>| / sum."""
    total = 0.0
    for i in range(clusters):
        members = [j for j, label in enumerate(assignment) if label == i]
        if members:
            total += np.linalg.norm(omega[members] @ unit[members]) ** 2 / omega[members].sum()
    return total / omega.sum()


def planted(
    n: int, clusters: int, seed: int, *, noise: float, flip: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 12) rows close to one of ``clusters`` orthogonal directions, and the direction of each."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % clusters
    rows = np.eye(12)[labels] + noise * np.abs(draw.normal(size=(n, 12)))
    rows *= draw.uniform(0.5, 2, (n, 1))
    return rows * (draw.choice([-1, 1], (n, 1)) if flip else 1), labels


@pytest.mark.parametrize("clusters", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_separated_clusters_reach_the_optimum_over_all_partitions(clusters: int, seed: int) -> None:
    raw, _ = planted(8, clusters, seed, noise=0.1)
    norms = np.linalg.norm(raw, axis=1)
    rows = as_one(raw / norms[:, None], norms)
    unit, omega = rows.dense(torch.arange(8)).numpy(), rows.norms.numpy()
    values = {
        partition: partition_value(unit, omega, partition, clusters)
        for partition in itertools.product(range(clusters), repeat=8)
    }
    found = tuple(kmeans(rows, clusters, weighted=True, first=seed).assignment.tolist())
    assert values[found] == pytest.approx(max(values.values()), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_planted_clusters_are_found_from_every_start(flip: bool, weighted: bool) -> None:
    """Rows that point the other way belong to the same cluster, since the cosine is taken absolutely."""
    raw, labels = planted(60, 5, 1, noise=0.1, flip=flip)
    norms = np.linalg.norm(raw, axis=1)
    rows = as_one(raw / norms[:, None], norms)
    for first in (0, 17, 59):
        found = kmeans(rows, 5, weighted=weighted, first=first).assignment.tolist()
        assert len(set(zip(found, labels.tolist(), strict=True))) == len(set(found)) == 5


@pytest.mark.parametrize("signed", [False, True])
def test_farthest_first_equals_brute_force(signed: bool) -> None:
    rows = random_rows(15, 8, signed=signed)
    unit = rows.dense(torch.arange(15)).numpy()
    chosen = [4]
    while len(chosen) < 6:
        worst = [
            max(abs(float(unit[j] @ unit[i])) for i in chosen) if j not in chosen else np.inf
            for j in range(15)
        ]
        chosen.append(int(np.argmin(worst)))
    assert seed_rows(rows, 6, 4).tolist() == chosen
    assert sorted(seed_rows(rows, 15, 4).tolist()) == list(range(15))


def test_seeds_of_a_large_pool_equal_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few candidates at a time, and old bounds of the other rows, lead to the same seeds."""
    monkeypatch.setattr(farthest_first, "CANDIDATES", 5)
    rows = random_rows(200, 9)
    cosines = torch.stack([rows.closeness(torch.tensor([index])) for index in range(200)])
    chosen = [11]
    while len(chosen) < 60:
        worst = cosines[chosen].amax(0)
        worst[chosen] = torch.inf
        chosen.append(int(worst.argmin()))
    assert seed_rows(rows, 60, 11).tolist() == chosen


@pytest.mark.parametrize("columns", [1, 63, 64, 96, 100, 1000])
def test_row_argmax_is_the_first_of_the_largest(columns: int) -> None:
    draw = torch.Generator().manual_seed(columns)
    ties = torch.randint(columns // 20 + 2, (300, columns), generator=draw).float()
    for values in (ties, torch.randn(300, columns, generator=draw), torch.full((2, columns), -torch.inf)):
        expected = np.argmax(values.numpy(), 1)  # numpy promises the first
        assert row_argmax(values).tolist() == expected.tolist()


def test_seeds_are_distinct_and_lowest_first_among_equal_rows() -> None:
    rows = FactoredRows([torch.ones(6, 2)], [torch.ones(6, 3)])
    assert seed_rows(rows, 4, 3).tolist() == [3, 0, 1, 2]


def test_an_empty_cluster_moves_to_the_row_that_is_served_worst() -> None:
    raw, _ = planted(9, 3, 2, noise=0.1)
    rows = as_one(raw / np.linalg.norm(raw, axis=1)[:, None], np.ones(9))
    unit = rows.dense(torch.arange(9))
    seeds = unit[[0, 1, 0, 0]]  # the last two win no row from the first
    found = _lloyd_step(rows, seeds, weighted=True)
    assert set(found.assignment.tolist()) == {0, 1}
    centroids = _reseed_empty(rows, found)
    served = torch.sort((unit @ seeds.T).abs().max(1).values).indices[:2]
    assert torch.equal(centroids[2:], unit[served])
    assert torch.equal(centroids[:2], found.centroids[:2])
    assert set(_lloyd_step(rows, centroids, weighted=True).assignment.tolist()) >= {0, 1, 2}


def test_duplicates_of_few_rows_leave_clusters_empty_but_finite() -> None:
    left, right = random_factors(3, 9)
    rows = FactoredRows([a.repeat(5, 1) for a in left], [x.repeat(5, 1) for x in right])
    found = kmeans(rows, 6, weighted=True, first=0)
    assert found.non_empty[-1] == 3
    assert found.assignment[:3].tolist() == found.assignment[3:6].tolist()
    assert torch.allclose(found.cosine, torch.ones(15, dtype=torch.float64))


def test_seeds_do_not_stand_in_for_clusters() -> None:
    """Means of spread-out rows have norms below 1, so a start of unit rows must not count as the best clustering."""
    draw = np.random.default_rng(3)
    raw = np.abs(np.eye(10)[np.arange(400) % 10] * 2 + draw.normal(size=(400, 10)))
    norms = np.linalg.norm(raw, axis=1)
    rows = as_one(raw / norms[:, None], norms)
    found = kmeans(rows, 10, weighted=True, first=0)
    assert len(found.objective) > 1
    assert found.cosine[seed_rows(rows, 10, 0)].max() < 1 - 1e-6


def test_theorem_ratio_has_a_closed_form_on_orthogonal_centroids() -> None:
    """With C = I, u = (a, -b): the ratio is |a - b| / (a + b)."""
    rows = as_one(np.array([[1.0, 0], [0, 1], [0.6, -0.8], [0.8, 0.6]]), np.ones(4))
    found = _lloyd_step(rows, torch.eye(2, dtype=torch.float64), weighted=True)
    np.testing.assert_allclose(found.ratio, [1, 1, 0.2 / 1.4, 1], rtol=1e-12)


def test_norms_of_centroids_count_only_where_they_are_means() -> None:
    """At equal angles the nearer of a loose and a tight mean wins; of unit centroids, the first."""
    rows = as_one(np.array([[1.0, 1.0]]) / np.sqrt(2), np.ones(1))
    centroids = torch.tensor([[0.4, 0.0], [0.0, 0.8]], dtype=torch.float64)
    found = _lloyd_step(rows, centroids, weighted=True)
    assert found.assignment.tolist() == [1]
    np.testing.assert_allclose(found.centroids[1], np.array([1, 1]) / np.sqrt(2), rtol=1e-12)
    unit = centroids / centroids.norm(dim=1, keepdim=True)
    assert _lloyd_step(rows, unit, weighted=False).assignment.tolist() == [0]


def test_weighted_centroids_are_means_and_the_others_have_norm_one() -> None:
    rows = as_one(np.eye(2), np.array([3.0, 1.0]))
    centroids = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    np.testing.assert_allclose(_lloyd_step(rows, centroids, weighted=True).centroids, [[0.75, 0.25]])
    expected = np.array([[3, 1]]) / np.sqrt(10)
    np.testing.assert_allclose(_lloyd_step(rows, centroids, weighted=False).centroids, expected)


def test_iterations_are_limited() -> None:
    rows = random_rows(40, 10)
    assert len(kmeans(rows, 5, weighted=True, first=0).objective) > 1
    assert len(kmeans(rows, 5, weighted=True, first=0, iterations=1).objective) == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_one_cluster_and_one_for_each_row(weighted: bool) -> None:
    rows = random_rows(6, 11)
    assert kmeans(rows, 1, weighted=weighted, first=2).assignment.tolist() == [0] * 6
    each = kmeans(rows, 6, weighted=weighted, first=2)
    assert sorted(each.assignment.tolist()) == list(range(6))
    assert each.objective[-1] == pytest.approx(1)
