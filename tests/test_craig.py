"""CRAIG against plain greedy loops, the best of all subsets, and the order that another implementation picks in."""

import math
from itertools import combinations, count
from typing import Any

import numpy as np
import pytest
import torch

from metaselect.metagrad import facility_location
from metaselect.metagrad.facility_location import FacilityLocation
from metaselect.registry import SELECTORS, configure
from metaselect.selection.base import Choice, PoolFeatures, no_progress
from metaselect.selection.craig import Craig, predicted_classes

NONE = torch.empty(0, dtype=torch.int64)
PATTERNS = ("one class", "two classes", "uneven", "a class of one", "each its own")

# Order of picks by apricot-select 0.6.1 with numpy 2.4.6, by "lazy" and by "naive" alike, made by
#
#   import apricot
#   import numpy as np
#   draw = np.random.RandomState(1)
#   hidden = draw.standard_normal((60, 5)).astype(np.float32)
#   logits = 2 * draw.standard_normal((60, 3))
#   probs = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
#   believed = probs.argmax(1)
#   left = probs.astype(float) - np.eye(3)[believed]
#   rows = (left[:, :, None] * np.c_[hidden, np.ones(60)][:, None, :]).reshape(60, -1)
#   similarity = np.zeros((60, 60))
#   for label in range(3):
#       at = np.flatnonzero(believed == label)
#       squared = ((rows[at, None] - rows[None, at]) ** 2).sum(2)
#       similarity[np.ix_(at, at)] = squared.max() - squared
#   for optimizer in ("lazy", "naive"):
#       chooser = apricot.FacilityLocationSelection(25, metric="precomputed", optimizer=optimizer)
#       print(chooser.fit(similarity).ranking.tolist())
#
# Two samples that are of use to none but each other gain the same, and apricot lets rounding decide between them; here
# this first happens at the 28th pick.
APRICOT = [40, 28, 57, 5, 15, 50, 44, 22, 9, 42, 12, 43, 18, 35, 26, 49, 8, 53, 19, 54, 14, 23, 2, 31, 17]


def features(n: int, seed: int, pattern: str = "three classes", width: int = 3) -> PoolFeatures:
    """Features of ``n`` samples whose highest probability lies where ``pattern`` says."""
    draw = torch.Generator().manual_seed(seed)
    classes = {
        "one class": torch.zeros(n, dtype=torch.int64),
        "two classes": torch.arange(n) % 2,
        "three classes": torch.randint(3, (n,), generator=draw),
        "uneven": (torch.arange(n) > n // 4).long() * 2,
        "a class of one": (torch.arange(n) == n // 2).long(),
        "each its own": torch.arange(n),
    }[pattern]
    logits = torch.randn(n, max(3, int(classes.max()) + 1), generator=draw)
    logits[torch.arange(n), classes] = logits.max(1).values + 0.1
    hidden = torch.randn(n, width, generator=draw)
    return PoolFeatures((logits.softmax(1),), (hidden,), torch.zeros(n, dtype=torch.int64))


def dense_gradients(pool: PoolFeatures) -> np.ndarray:
    """(n, K (d + 1)) float64 gradients of the cross-entropy at the hypothesised label, bias part first."""
    probs, hidden = pool.probs[-1].double().numpy(), pool.hidden[-1].double().numpy()
    left = probs - np.eye(probs.shape[1])[probs.argmax(1)]
    return np.concatenate([left, np.einsum("nk,nd->nkd", left, hidden).reshape(len(left), -1)], 1)


def dense_similarity(pool: PoolFeatures) -> np.ndarray:
    """(n, n) float64: largest squared distance in the class, less the squared distance; 0 across classes."""
    rows, predicted = dense_gradients(pool), pool.probs[-1].argmax(1).numpy()
    similarity = np.zeros((len(rows), len(rows)))
    for label in set(predicted.tolist()):
        at = np.flatnonzero(predicted == label)
        squared = ((rows[at, None] - rows[None, at]) ** 2).sum(2)
        similarity[np.ix_(at, at)] = squared.max() - squared
    return similarity


def value(similarity: np.ndarray, chosen: list[int]) -> float:
    """F(S)."""
    return float(similarity[:, chosen].max(1).sum()) if chosen else 0.0


def exhaustive_greedy(similarity: np.ndarray, budget: int, bought: list[int]) -> list[int]:
    """Every candidate tried at every pick; what is equal but for rounding is a tie, and goes to the lowest index."""
    picks: list[int] = []
    slack = 1e-9 * max(similarity.max(), 1e-300)
    for _ in range(budget):
        best, best_value = -1, -math.inf
        for j in range(len(similarity)):
            if j not in bought and j not in picks:
                reached = value(similarity, [*bought, *picks, j])
                if reached > best_value + slack:
                    best, best_value = j, reached
        picks.append(best)
    return picks


def choose(
    pool: PoolFeatures, budget: int, bought: torch.Tensor = NONE, progress: Any = no_progress
) -> Choice:
    return Craig().choose(pool, budget, bought, torch.Generator(), progress)


@pytest.mark.parametrize("pattern", [*PATTERNS, "three classes"])
@pytest.mark.parametrize("seed", range(25))
def test_lazy_greedy_is_exhaustive_greedy(pattern: str, seed: int) -> None:
    n = 4 + seed % 7
    pool = features(n, seed, pattern)
    similarity = dense_similarity(pool)
    for bought in ([], [seed % n], [n - 1, 0, seed % 2 + 1]):
        left = n - len(bought)
        found = choose(pool, left, torch.tensor(bought, dtype=torch.int64))
        assert found.ranked.tolist() == exhaustive_greedy(similarity, left, bought)


@pytest.mark.parametrize("tile", [1, 64, 1000])
def test_neither_tiles_nor_batches_change_the_answer(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bought = [3, 70, 41]
    for seed in range(3):
        pool = features(80, seed, width=6)
        expected = exhaustive_greedy(dense_similarity(pool), 30, bought)
        monkeypatch.setattr(facility_location, "TILE_ENTRIES", tile)
        assert choose(pool, 30, torch.tensor(bought)).ranked.tolist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_ties_go_to_the_lowest_index(seed: int) -> None:
    """Few distinct rows of small dyadic numbers: every sum is exact, here and in the plain loops."""
    draw = torch.Generator().manual_seed(seed)
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.75, 0.25, 0.0]])
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    rows, columns = (torch.randint(3, (10,), generator=draw) for _ in range(2))
    pool = PoolFeatures((probs[rows],), (hidden[columns],), torch.zeros(10, dtype=torch.int64))
    for bought in ([], [4, 9]):
        found = choose(pool, 10 - len(bought), torch.tensor(bought, dtype=torch.int64)).ranked.tolist()
        assert found == exhaustive_greedy(dense_similarity(pool), 10 - len(bought), bought)


def test_samples_of_use_to_none_but_each_other_tie() -> None:
    """Either of two alone in a class gains the largest distance, which rounding would tell apart."""
    for seed in range(50):
        assert choose(features(2, seed, "one class", width=5), 2).ranked.tolist() == [0, 1]
        pool = features(40, seed, width=5)
        assert choose(pool, 40).ranked.tolist() == exhaustive_greedy(dense_similarity(pool), 40, [])


@pytest.mark.parametrize("pattern", [*PATTERNS, "three classes"])
def test_distances_from_factors_are_the_dense_ones(pattern: str) -> None:
    pool = features(30, 1, pattern, width=7)
    rows = dense_gradients(pool)
    seen = []
    for members in predicted_classes(pool.probs[-1], pool.hidden[-1]):
        at = members.ids.tolist()
        seen += at
        expected = ((rows[at, None] - rows[None, at]) ** 2).sum(2)
        found = members.distances(slice(0, len(at)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
        top = len(at) // 2
        np.testing.assert_array_equal(members.distances([0], top), found[top:, :1])
        assert float((found / members.step).frac().abs().max()) == 0
        members.first_gains([])
        assert members.largest == float(found.max())
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize("bought", [NONE, torch.tensor([2, 17, 5])])
def test_the_score_is_the_first_gain_as_a_share_of_the_best_value(bought: torch.Tensor) -> None:
    pool = features(40, 3)
    similarity = dense_similarity(pool)
    best = value(similarity, list(range(40)))
    start = value(similarity, bought.tolist())
    expected = [(value(similarity, [*bought.tolist(), j]) - start) / best for j in range(40)]
    found = choose(pool, 6, bought)
    np.testing.assert_allclose(found.similarity, expected, atol=1e-6)
    assert int(found.ranked[0]) == int(found.similarity.argmax())
    coverage = value(similarity, [*bought.tolist(), *found.ranked.tolist()]) / best
    assert found.details["coverage"] == pytest.approx(coverage)
    assert choose(pool, 40 - len(bought), bought).details["coverage"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(15))
def test_greedy_is_within_1_minus_1_over_e_of_the_best_subset(seed: int) -> None:
    pool = features(10, seed, ("one class", "three classes", "uneven")[seed % 3])
    similarity = dense_similarity(pool)
    for budget in (1, 2, 3, 5):
        best = max(value(similarity, list(chosen)) for chosen in combinations(range(10), budget))
        found = value(similarity, choose(pool, budget).ranked.tolist())
        assert found >= (1 - 1 / math.e) * best
        assert found <= best * (1 + 1e-9)


def test_the_order_of_apricot() -> None:
    draw = np.random.RandomState(1)
    hidden = draw.standard_normal((60, 5)).astype(np.float32)
    logits = 2 * draw.standard_normal((60, 3))
    probs = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    pool = PoolFeatures((torch.tensor(probs),), (torch.tensor(hidden),), torch.zeros(60, dtype=torch.int64))
    assert choose(pool, 25).ranked.tolist() == APRICOT


def test_where_nothing_is_left_to_gain_the_lowest_indices_follow() -> None:
    pool = features(9, 0, "two classes").subset(torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0]))
    assert choose(pool, 9).ranked.tolist() == list(range(9))
    assert choose(pool, 4, torch.tensor([1, 2])).ranked.tolist() == [0, 3, 4, 5]
    assert choose(pool, 3).details["coverage"] == 0
    sure = pool._replace(probs=(torch.eye(3)[torch.arange(9) % 3],))
    assert choose(sure, 5).ranked.tolist() == [0, 1, 2, 3, 4]


def test_a_sample_alone_in_its_class_adds_nothing_and_comes_late() -> None:
    pool = features(8, 2, "a class of one")
    found = choose(pool, 8)
    assert found.similarity[4] == 0
    assert found.ranked[-1] == 4


def test_what_was_bought_covers_its_neighbours() -> None:
    """Two tight groups in one class: the next pick is from the group that nothing was bought of."""
    hidden = torch.tensor([[4.0, 0.0], [4.1, 0.0], [4.0, 0.1], [0.0, 4.0], [0.1, 4.0], [0.0, 4.1]])
    pool = PoolFeatures((torch.tensor([[0.6, 0.4]] * 6),), (hidden,), torch.zeros(6, dtype=torch.int64))
    assert int(choose(pool, 1, torch.tensor([0])).ranked) >= 3
    assert int(choose(pool, 1, torch.tensor([4])).ranked) < 3


def test_neither_given_labels_nor_the_generator_matter_and_huge_features_stay_finite() -> None:
    pool = features(30, 5)
    earlier = (pool.hidden[0].flip(0), pool.hidden[0])
    other = PoolFeatures(pool.probs * 2, earlier, torch.arange(30))
    method = configure(SELECTORS["craig"], [])
    found = method.choose(other, 9, NONE, torch.Generator().manual_seed(7))
    assert torch.equal(found.ranked, choose(pool, 9).ranked)
    huge = choose(pool._replace(hidden=(pool.hidden[0] * 2.0**100,)), 9)
    assert torch.isfinite(huge.similarity).all()


def test_few_columns_are_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count()
    plain = FacilityLocation.gains

    def counted(members: Any, columns: list[int]) -> torch.Tensor:
        for _ in columns:
            next(computed)
        return plain(members, columns)

    monkeypatch.setattr(FacilityLocation, "gains", counted)
    choose(features(400, 0, width=4), 100)
    assert next(computed) < 0.2 * 100 * 400


def test_progress_is_told() -> None:
    told: list[str] = []
    choose(features(20, 0, "two classes"), 3, progress=told.append)
    assert told == ["class 1 of 2", "class 2 of 2", "pick 1 of 3", "pick 2 of 3", "pick 3 of 3"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_answer_from_a_gpu() -> None:
    pool, bought = features(500, 0, width=16), torch.tensor([3, 400])
    on_gpu = PoolFeatures((pool.probs[0].cuda(),), (pool.hidden[0].cuda(),), pool.labels.cuda())
    found, expected = choose(on_gpu, 40, bought), choose(pool, 40, bought)
    assert found.ranked.device.type == found.similarity.device.type == "cpu"
    assert torch.equal(found.ranked, expected.ranked)
