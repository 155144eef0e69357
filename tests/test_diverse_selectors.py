"""BADGE, K-center and TypiClust against dense arithmetic, exact probabilities and exhaustive search."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metaselect.errors import UsageError
from metaselect.registry import SELECTORS, configure
from metaselect.selection import badge, k_center, typiclust
from metaselect.selection.badge import GradientEmbeddings
from metaselect.selection.base import Choice, PoolFeatures
from metaselect.selection.clustering import farthest_first
from metaselect.selection.clustering.euclidean import kmeans_clusters, round_robin
from metaselect.selection.k_center import EuclideanDistances
from metaselect.selection.typiclust import SOFTENING, typicality

NONE = torch.empty(0, dtype=torch.int64)
BOUGHT = torch.tensor([4, 1])


def pool_of(hidden: torch.Tensor, probs: torch.Tensor | None = None) -> PoolFeatures:
    """One checkpoint; without ``probs`` every gradient is (-0.5, 0.5) (x) hidden."""
    n = len(hidden)
    probs = torch.full((n, 2), 0.5) if probs is None else probs
    return PoolFeatures((probs,), (hidden,), torch.zeros(n, dtype=torch.int64))


def random_pool(n: int, seed: int = 0, classes: int = 4, width: int = 6) -> PoolFeatures:
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, width, generator=draw).relu() + 0.01
    return pool_of(hidden, (2 * torch.randn(n, classes, generator=draw)).softmax(1))


def choose(
    name: str, pool: PoolFeatures, budget: int, bought: torch.Tensor = NONE, seed: int = 3, **options: Any
) -> Choice:
    method = configure(SELECTORS[name], [f"{key}={value}" for key, value in options.items()])
    return method.choose(pool, budget, bought, torch.Generator().manual_seed(seed))


def dense_gradients(pool: PoolFeatures) -> np.ndarray:
    """(n, K d) float64 rows, sample by sample."""
    rows = []
    for probs, hidden in zip(pool.probs[-1].numpy(), pool.hidden[-1].double().numpy(), strict=True):
        left = probs - np.eye(len(probs), dtype=np.float32)[probs.argmax()]
        rows.append(np.outer(left.astype(np.float64), hidden).ravel())
    return np.stack(rows)


def squared(rows: np.ndarray) -> np.ndarray:
    """(n, n) squared distances, by differences."""
    return ((rows[:, None] - rows[None]) ** 2).sum(2)


def chi_squared(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("block", [7, 2**20])
def test_badge_distances_are_those_of_the_dense_gradients(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(badge, "BLOCK_ENTRIES", block)
    pool = random_pool(30)
    rows = dense_gradients(pool)
    gradients = GradientEmbeddings(pool.probs[-1], pool.hidden[-1])
    np.testing.assert_allclose(gradients.squares, (rows**2).sum(1), rtol=1e-12)
    for index, expected in enumerate(squared(rows)):
        np.testing.assert_allclose(
            gradients.squared_distances(torch.tensor([index])), expected, rtol=1e-9, atol=1e-14
        )


def test_badge_tells_neighbours_from_duplicates() -> None:
    hidden = torch.tensor([[1000.0, 1.0], [1000.0, 1.0], [1000.0, 1.25], [1e-6, 0.0], [0.0, 0.0]])
    found = GradientEmbeddings(torch.tensor([[0.6, 0.3, 0.1]]).expand(5, 3), hidden).squared_distances(
        torch.tensor([0])
    )
    assert found[:2].tolist() == [0, 0]
    left = np.array([0.6 - 1, 0.3, 0.1], np.float32).astype(np.float64)
    assert float(found[2]) == pytest.approx(float(left @ left) / 16, rel=1e-6)
    assert found[3:].min() > 0


@pytest.mark.parametrize("seed", range(3))
def test_equal_rows_are_at_distance_0_however_sums_are_rounded(seed: int) -> None:
    pool = random_pool(20, seed, classes=10, width=67).subset(torch.arange(61) % 20)
    gradients = GradientEmbeddings(pool.probs[-1], pool.hidden[-1])
    for index in range(20):
        same = torch.arange(61) % 20 == index
        for found in (gradients.squared_distances(torch.tensor([index])), to_row(pool.hidden[-1], index)):
            assert torch.equal(found == 0, same)
    found = typicality(torch.nn.functional.normalize(pool.hidden[-1]), 2)
    np.testing.assert_allclose(found, 1 / SOFTENING, rtol=1e-6)


def test_badge_starts_from_the_largest_gradient_in_any_order_of_the_pool() -> None:
    pool = random_pool(20)
    largest = int(np.linalg.norm(dense_gradients(pool), axis=1).argmax())
    order = torch.randperm(20, generator=torch.Generator().manual_seed(4))
    assert choose("badge", pool, 1).ranked.tolist() == [largest]
    assert order[choose("badge", pool.subset(order), 1).ranked].tolist() == [largest]
    tied = pool.subset(torch.tensor([0, largest, 2, largest]))
    assert choose("badge", tied, 1).ranked.tolist() == [1]


@pytest.mark.parametrize(("bought", "large_pool"), [(NONE, 2**17), (BOUGHT, 2**17), (BOUGHT, 0)])
def test_badge_draws_in_proportion_to_the_squared_distance(
    monkeypatch: pytest.MonkeyPatch, bought: torch.Tensor, large_pool: int
) -> None:
    """Frequencies of whole batches of three against their exact probabilities; of a large pool by rejection."""
    monkeypatch.setattr(badge, "LARGE_POOL", large_pool)
    pool, draws = random_pool(6, seed=3, width=3), 2000
    between, norms = squared(dense_gradients(pool)), (dense_gradients(pool) ** 2).sum(1)
    start = bought.tolist()
    exact: dict[tuple[int, ...], float] = {}
    for batch in itertools.permutations(set(range(6)) - set(start), 3):
        exact[batch] = 1.0
        for at, pick in enumerate(batch):
            before = start + list(batch[:at])
            if before:
                # The gradient 0 is no centre, though the first pick was the one farthest from it.
                weights = between[before].min(0)
                exact[batch] *= weights[pick] / weights.sum()
            else:
                exact[batch] = float(pick == norms.argmax())
    assert sum(exact.values()) == pytest.approx(1)
    counts = dict.fromkeys(exact, 0)
    method, stream = configure(SELECTORS["badge"], []), torch.Generator().manual_seed(8)
    for _ in range(draws):
        counts[tuple(method.choose(pool, 3, bought, stream).ranked.tolist())] += 1
    likely = [batch for batch, chance in exact.items() if chance * draws >= 5]
    assert all(counts[batch] == 0 for batch, chance in exact.items() if chance == 0)
    found, expected = (np.array([of[batch] for batch in likely]) for of in (counts, exact))
    # At most 23 degrees of freedom; 60 is past 1 in 10,000.
    assert 20 <= len(likely) <= 24
    assert chi_squared(found, draws * expected) < 60


def test_badge_never_repeats_a_sample_of_a_pool_with_duplicates() -> None:
    """Two gradients, five times each: resampling an index within a batch was a defect of another library."""
    hidden = torch.tensor([[3.0, 3.0], [7.0, 7.0]]).repeat(5, 1)
    probs = torch.tensor([[0.7, 0.3], [0.2, 0.8]]).repeat(5, 1)
    for seed in range(50):
        choice = choose("badge", pool_of(hidden, probs), 6, seed=seed)
        ranked = choice.ranked.tolist()
        assert len(set(ranked)) == 6
        assert ranked[0] % 2 != ranked[1] % 2  # the other gradient before any duplicate
        assert choice.details == {"drawn_among_indistinct": 4}


def test_badge_takes_every_distinct_gradient_before_a_duplicate() -> None:
    pool = random_pool(5, seed=2).subset(torch.arange(30) % 5)
    for seed in range(30):
        bought = torch.tensor([3, 8]) if seed % 2 else NONE
        ranked = choose("badge", pool, 5 - seed % 2, bought, seed=seed).ranked
        assert {*(ranked % 5).tolist(), *(bought % 5).tolist()} == set(range(5))


@pytest.mark.parametrize("hidden", [0.0, 2.0])
def test_badge_draws_uniformly_among_gradients_that_are_all_the_same(hidden: float) -> None:
    pool, method = pool_of(torch.full((8, 3), hidden)), configure(SELECTORS["badge"], [])
    stream, counts = torch.Generator().manual_seed(1), np.zeros(8)
    for _ in range(800):
        counts[method.choose(pool, 3, BOUGHT, stream).ranked] += 1
    assert counts[BOUGHT].tolist() == [0, 0]
    # Chi-squared with 5 degrees of freedom, thinned by drawing without replacement; 27 is past 1 in 10,000.
    assert chi_squared(np.delete(counts, BOUGHT), np.full(6, 400.0)) < 27


@pytest.mark.parametrize("level", [0.0, 1 - 2.0**-53])
def test_badge_cannot_draw_weight_0_at_the_ends_of_the_unit_interval(
    monkeypatch: pytest.MonkeyPatch, level: float
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(level, dtype=torch.float64))
    weights = torch.tensor([0, 0, 1e-300, 3, 0.1, 0], dtype=torch.float64)
    gradients = GradientEmbeddings(torch.full((6, 2), 0.5), torch.ones(6, 1))
    drawn, squares = badge._draw_in_proportion(weights, gradients, 1, torch.Generator())
    assert drawn == [2 if level == 0 else 4]
    assert squares == weights[drawn].tolist()


def test_badge_scores_are_distances_to_the_nearest_centre() -> None:
    pool = random_pool(12)
    rows = dense_gradients(pool)
    choice = choose("badge", pool, 4)
    between, ranked = squared(rows) ** 0.5, choice.ranked.tolist()
    expected = between[ranked].min(0)
    expected[ranked[0]] = np.linalg.norm(rows[ranked[0]])
    for at in range(1, 4):
        expected[ranked[at]] = between[ranked[:at], ranked[at]].min()
    np.testing.assert_allclose(choice.similarity, expected, rtol=1e-5)
    np.testing.assert_allclose(choose("badge", pool, 1, torch.tensor([5])).similarity[5], 0)


def test_badge_does_not_depend_on_the_unit_of_the_representation() -> None:
    pool = random_pool(40)
    expected = choose("badge", pool, 10).ranked
    for factor in (2.0**-20, 64.0):
        scaled = pool._replace(hidden=(pool.hidden[0] * factor,))
        assert torch.equal(choose("badge", scaled, 10).ranked, expected)


def to_row(hidden: torch.Tensor, index: int) -> torch.Tensor:
    """(n,) distances of all rows to one."""
    return EuclideanDistances(hidden).between(torch.arange(len(hidden)), torch.tensor([index]))[:, 0]


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any operation answered with."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if isinstance(answer, torch.Tensor):
            self.numbers = max(self.numbers, answer.numel())
        return answer


def test_badge_never_forms_the_gradients() -> None:
    n, classes, width = 20_000, 100, 64
    pool = random_pool(n, classes=classes, width=width)
    with LargestTensor() as largest:
        choose("badge", pool, 3, BOUGHT)
    assert n * classes <= largest.numbers <= n * max(classes, width)


@pytest.mark.parametrize("bought", [NONE, BOUGHT, torch.tensor([7])])
def test_k_center_is_farthest_first(bought: torch.Tensor) -> None:
    pool = random_pool(25)
    between = squared(pool.hidden[-1].double().numpy()) ** 0.5
    choice = choose("k-center", pool, 6, bought)
    centres, scores = bought.tolist(), np.zeros(25)
    for pick in choice.ranked.tolist():
        if centres:
            nearest = between[centres].min(0)
            assert pick == nearest.argmax()
            scores[pick] = nearest.max()
        else:
            scores[pick] = between[pick].max()
        centres.append(pick)
    others = np.setdiff1d(np.arange(25), centres)
    scores[others] = between[centres].min(0)[others]
    np.testing.assert_allclose(choice.similarity, scores, rtol=1e-5)
    assert choice.details["radius"] == pytest.approx(scores[others].max(), rel=1e-5)


HARD_POOLS: dict[str, Callable[[torch.Generator], torch.Tensor]] = {
    "noise": lambda draw: torch.randn(300, 5, generator=draw),
    "tight": lambda draw: (
        torch.randn(9, 5, generator=draw)[torch.arange(300) % 9] + 1e-3 * torch.randn(300, 5, generator=draw)
    ),
    "duplicates": lambda draw: torch.randn(40, 5, generator=draw)[torch.randint(40, (300,), generator=draw)],
    "integers": lambda draw: torch.randint(3, (300, 4), generator=draw).float(),
    "bits": lambda draw: torch.randint(2, (300, 9), generator=draw).float(),
    "offset": lambda draw: 1e4 + torch.randn(300, 5, generator=draw),
    "equal": lambda _: torch.ones(300, 2),
    "line": lambda draw: torch.rand(300, 1, generator=draw),
}


@pytest.mark.parametrize("bought", [NONE, BOUGHT])
@pytest.mark.parametrize("candidates", [1, 7, 64])
@pytest.mark.parametrize("kind", HARD_POOLS)
def test_k_center_with_few_candidates_picks_what_all_distances_would(
    monkeypatch: pytest.MonkeyPatch, kind: str, candidates: int, bought: torch.Tensor
) -> None:
    """The same floating-point distances, all of them, to every centre; the lowest index of equals."""
    hidden = HARD_POOLS[kind](torch.Generator().manual_seed(1))
    monkeypatch.setattr(farthest_first, "CANDIDATES", candidates)
    monkeypatch.setattr(k_center, "TILE_ENTRIES", 1)  # several blocks of rows
    choice = choose("k-center", pool_of(hidden), 100, bought)
    between = torch.stack([to_row(hidden, index) for index in range(300)])
    picks = [] if len(bought) else [int(choice.ranked[0])]
    centres = bought.tolist() + picks
    while len(picks) < 100:
        nearest = between[centres].amin(0)
        nearest[centres] = -1
        picks.append(int(nearest.argmax()))
        centres.append(picks[-1])
    assert choice.ranked.tolist() == picks
    np.testing.assert_allclose(choice.similarity[picks[-1]], nearest[picks[-1]], rtol=0)
    others = np.setdiff1d(np.arange(300), centres)
    expected = between[centres].amin(0)[others]
    # The nearest centre of a sample that is not chosen is found by products, which lose digits of squares.
    lost = 1e-5 * float((hidden - hidden.mean(0)).square().sum(1).max())
    np.testing.assert_allclose(choice.similarity[others].square(), expected.square(), rtol=1e-5, atol=lost)
    assert (choice.similarity[others] >= expected).all()
    assert torch.equal(choice.similarity[others] == 0, expected == 0)


def test_k_center_holds_no_distances_of_all_rows_to_all_centres() -> None:
    pool = random_pool(20_000)
    with LargestTensor() as largest:
        choose("k-center", pool, 300)
    assert largest.numbers <= k_center.TILE_ENTRIES + 20_000 * 6


def test_k_center_is_within_twice_the_best_radius() -> None:
    for seed in range(10):
        pool = random_pool(8, seed=seed)
        between = squared(pool.hidden[-1].double().numpy()) ** 0.5
        best = min(between[list(centres)].min(0).max() for centres in itertools.combinations(range(8), 3))
        radius = between[choose("k-center", pool, 3, seed=seed).ranked].min(0).max()
        assert best <= radius <= 2 * best


def test_k_center_draws_its_first_centre_from_the_generator_alone() -> None:
    first = {int(choose("k-center", random_pool(6), 1, seed=seed).ranked[0]) for seed in range(60)}
    assert first == set(range(6))


def test_k_center_takes_the_lowest_index_of_equals() -> None:
    hidden = torch.tensor([[0.0], [1.0], [3.0], [0.0], [3.0], [1.0], [0.1]])
    ranked = choose("k-center", pool_of(hidden), 6, torch.tensor([0])).ranked.tolist()
    assert ranked == [2, 1, 6, 3, 4, 5]
    assert to_row(hidden * 1000.1, 1)[5] == 0


def test_k_center_from_what_was_bought_does_not_depend_on_the_order_of_the_pool() -> None:
    pool, bought = random_pool(40), torch.tensor([3, 17])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    places = order.argsort()
    shuffled = choose("k-center", pool.subset(order), 9, places[bought])
    assert torch.equal(order[shuffled.ranked], choose("k-center", pool, 9, bought.flip(0)).ranked)


@pytest.mark.parametrize("tile", [1, 50, 2**22])
@pytest.mark.parametrize("neighbours", [1, 4, 20])
def test_typicality_by_brute_force(monkeypatch: pytest.MonkeyPatch, tile: int, neighbours: int) -> None:
    monkeypatch.setattr(typiclust, "TILE_ENTRIES", tile)
    for size in (2, 3, 17):
        members = torch.nn.functional.normalize(random_pool(size, seed=size).hidden[-1])
        between = squared(members.double().numpy()) ** 0.5
        count = min(neighbours, size // 2)
        expected = [1 / (np.sort(np.delete(row, i))[:count].mean() + 1e-5) for i, row in enumerate(between)]
        np.testing.assert_allclose(typicality(members, neighbours), expected, rtol=1e-5)


def test_typicality_of_duplicates_and_of_one_alone_is_finite() -> None:
    row = torch.nn.functional.normalize(torch.tensor([[0.3, 0.7, 0.1]]))
    assert typicality(row.expand(9, 3), 20).tolist() == pytest.approx([1 / SOFTENING] * 9)
    assert typicality(row, 20).tolist() == [0]
    assert typicality(row[:0], 20).tolist() == []


def blobs(sizes: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, d) rows in tight groups around the axes, of any length, and the group of each."""
    draw = torch.Generator().manual_seed(seed)
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows = torch.eye(len(sizes))[group] + 0.05 * torch.randn(len(group), len(sizes), generator=draw)
    return rows * (0.1 + torch.rand(len(group), 1, generator=draw)), group


def most_typical(rows: torch.Tensor, group: torch.Tensor, number: int) -> list[int]:
    """The members of a group, by brute force, the most typical first."""
    members = (group == number).nonzero()[:, 0]
    unit = torch.nn.functional.normalize(rows[members]).double().numpy()
    between = np.sort(squared(unit) ** 0.5, axis=1)[:, 1 : 1 + min(20, len(members) // 2)]
    found: list[int] = members[between.mean(1).argsort(kind="stable")].tolist()
    return found


def test_typiclust_takes_the_most_typical_of_every_group_the_largest_first() -> None:
    rows, group = blobs((12, 30, 9, 21))
    choice = choose("typiclust", pool_of(rows), 4)
    assert choice.ranked.tolist() == [most_typical(rows, group, number)[0] for number in (1, 3, 0, 2)]
    np.testing.assert_allclose(choice.mass[choice.cluster[choice.ranked]], np.array([30, 21, 12, 9]) / 72)
    for number in range(4):
        members = group == number
        assert len(set(choice.cluster[members].tolist())) == 1
        best = most_typical(rows, group, number)[0]
        assert choice.similarity[best] == choice.similarity[members].max()


def test_typiclust_does_not_depend_on_order_or_length_of_well_parted_rows() -> None:
    rows, _ = blobs((12, 30, 9, 21))
    order = torch.randperm(72, generator=torch.Generator().manual_seed(4))
    expected = choose("typiclust", pool_of(rows), 4).ranked
    assert torch.equal(order[choose("typiclust", pool_of(rows[order]), 4).ranked], expected)
    assert torch.equal(choose("typiclust", pool_of(8 * rows), 4).ranked, expected)


def test_typiclust_goes_where_nothing_was_bought() -> None:
    rows, group = blobs((30, 20, 12, 10))
    best = [most_typical(rows, group, number) for number in range(4)]
    bought = torch.tensor([best[0][0], best[0][1], best[2][3]])
    ranked = choose("typiclust", pool_of(rows), 5, bought, max_clusters=4).ranked.tolist()
    # Chosen so far are 2, 0, 1, 0: groups 1 and 3, then 1, 2 and 3 are level, then all four.
    assert ranked == [best[1][0], best[3][0], best[1][1], best[2][0], best[3][1]]
    ranked = choose("typiclust", pool_of(rows), 6, bought, max_clusters=4).ranked.tolist()
    assert ranked[-1] == best[0][2]


def test_small_clusters_come_last() -> None:
    cluster = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    typical = torch.tensor([9.0, 8, 1, 2, 2, 5, 7, 6])
    assert round_robin(cluster, typical, NONE, 8, 2).tolist() == [3, 6, 4, 7, 2, 5, 0, 1]
    assert round_robin(cluster, typical, NONE, 4, 0).tolist() == [3, 6, 0, 4]
    assert round_robin(cluster, typical, torch.tensor([6]), 3, 0).tolist() == [3, 0, 4]


@pytest.mark.parametrize(("count", "full_batch"), [(8, True), (60, False)])
def test_clusters_of_few_distinct_rows_are_their_own(count: int, full_batch: bool) -> None:
    rows = torch.nn.functional.normalize(random_pool(5).hidden[-1])[torch.arange(90) % 5]
    found, again = (
        kmeans_clusters(rows, count, 3, torch.Generator().manual_seed(6), full_batch=full_batch)
        for _ in range(2)
    )
    assert torch.equal(found, again)
    assert len({(i % 5, number) for i, number in enumerate(found.tolist())}) == len(set(found.tolist())) == 5
    assert found.max() < count


def test_typiclust_makes_no_more_clusters_than_it_may() -> None:
    pool = random_pool(120)
    assert len(choose("typiclust", pool, 70, BOUGHT).mass) == 72
    choice = choose("typiclust", pool, 70, BOUGHT, max_clusters=9)
    assert choice.details["clusters"] == len(choice.mass) == 9
    assert set(choice.cluster.tolist()) == set(range(9))


@pytest.mark.parametrize("pair", ["max_clusters=0", "neighbours=0", "starts=0", "small=-1", "small=a", "k=1"])
def test_bad_options_of_typiclust_are_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="--option"):
        configure(SELECTORS["typiclust"], [pair])
