"""Wrong labels and long tails: exact counts, the right targets, from the original labels."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaselect.data import corruption
from metaselect.errors import UsageError

CIFAR10 = tuple(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])

labelled = st.integers(3, 6).flatmap(
    lambda count: st.tuples(st.just(count), st.lists(st.integers(0, count - 1), min_size=1, max_size=60))
)
rates = st.floats(0, 1)
seeds = st.integers(0, 2**32)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(labelled, rates, seeds)
def test_exactly_the_rounded_number_of_labels_changes(case: Any, rate: float, seed: int) -> None:
    count, values = case
    labels = np.array(values)
    before = labels.copy()
    expected = round(rate * len(labels))
    mapping = corruption.one_other_each(count, generator(seed))
    for noisy in (
        corruption.uniform(labels, count, rate, generator(seed)),
        corruption.mapped(labels, corruption.next_class(count), rate, generator(seed)),
        corruption.mapped(labels, mapping, rate, generator(seed)),
        corruption.flip2(labels, count, rate, generator(seed)),
    ):
        assert (noisy != labels).sum() == expected
        assert noisy.min() >= 0
        assert noisy.max() < count
    np.testing.assert_array_equal(labels, before)


@given(labelled, rates, seeds)
def test_background_and_asymmetric_count_their_own_eligible(case: Any, rate: float, seed: int) -> None:
    count, values = case
    labels = np.array(values)
    noisy = corruption.background(labels, 1, rate, generator(seed))
    changed = noisy != labels
    assert changed.sum() == round(rate * (labels != 1).sum())
    assert (noisy[changed] == 1).all()
    pairs = {0: 2, 2: 0}
    noisy = corruption.asymmetric(labels, pairs, rate, generator(seed))
    for number in range(count):
        of_class = labels == number
        expected = round(rate * of_class.sum()) if number in pairs else 0
        assert (noisy[of_class] == pairs.get(number, -1)).sum() == expected
        assert (noisy[of_class] != number).sum() == expected


def test_pairs_flip_the_original_labels_and_not_each_other() -> None:
    labels = np.repeat([0, 1], 50)
    noisy = corruption.asymmetric(labels, {0: 1, 1: 0}, 1.0, generator())
    np.testing.assert_array_equal(noisy, 1 - labels)


def test_uniform_reaches_every_other_class_equally() -> None:
    labels = np.zeros(40_000, dtype=np.int64)
    counts = np.bincount(corruption.uniform(labels, 5, 0.5, generator()), minlength=5)
    assert counts[0] == 20_000
    # 5,000 expected in each, standard deviation 61.
    assert abs(counts[1:] - 5_000).max() < 300


def test_flip2_halves_the_flips_of_each_class() -> None:
    labels = np.repeat(np.arange(4), 100)
    noisy = corruption.flip2(labels, 4, 1.0, generator(3))
    transition = corruption.transition_counts(labels, noisy, 4)
    for row in transition:
        assert sorted(row) == [0, 0, 50, 50]
    assert (np.diag(transition) == 0).all()
    with pytest.raises(UsageError, match="needs 3 classes"):
        corruption.flip2(labels % 2, 2, 0.5, generator())


@given(st.integers(2, 7), seeds)
def test_maps_have_no_fixed_point(count: int, seed: int) -> None:
    derangement = corruption.random_derangement(count, generator(seed))
    assert sorted(derangement) == list(range(count))
    for mapping in (
        derangement,
        corruption.next_class(count),
        corruption.one_other_each(count, generator(seed)),
    ):
        assert (mapping != np.arange(count)).all()
        assert (mapping >= 0).all()
        assert (mapping < count).all()


def test_derangements_are_equally_likely() -> None:
    orders = itertools.permutations(range(4))
    possible = [order for order in orders if all(place != value for place, value in enumerate(order))]
    stream = generator()
    drawn = [tuple(corruption.random_derangement(4, stream).tolist()) for _ in range(1800)]
    counts = [drawn.count(order) for order in possible]
    assert sum(counts) == 1800
    # 9 derangements, 200 expected of each, standard deviation 13.
    assert max(abs(count - 200) for count in counts) < 70


def test_long_tail_counts_are_those_of_the_papers_code() -> None:
    counts = corruption.long_tail_counts(np.full(10, 5000), 200)
    assert counts.tolist() == [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25]
    hundred = corruption.long_tail_counts(np.full(100, 500), 200)
    assert (hundred[0], hundred[-1], hundred.sum()) == (500, 2, 9502)
    assert corruption.long_tail_counts(np.array([7, 5]), 1).tolist() == [5, 5]


def test_long_tail_takes_a_random_subset_of_each_class() -> None:
    labels = np.tile(np.arange(3), 40)
    kept = corruption.long_tail(labels, 3, 4, generator())
    assert np.bincount(labels[kept]).tolist() == [40, 20, 10]
    assert len(set(kept.tolist())) == 70
    assert (np.diff(kept) > 0).all()
    with pytest.raises(UsageError, match="class number 3 has none"):
        corruption.long_tail(labels, 4, 2, generator())


@given(labelled, rates, seeds)
def test_transition_counts_against_a_loop(case: Any, rate: float, seed: int) -> None:
    count, values = case
    clean = np.array(values)
    noisy = corruption.uniform(clean, count, rate, generator(seed))
    expected = np.zeros((count, count), dtype=int)
    for old, new in zip(clean, noisy, strict=True):
        expected[old, new] += 1
    np.testing.assert_array_equal(corruption.transition_counts(clean, noisy, count), expected)
