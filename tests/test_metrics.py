"""Metrics against their definitions, counted out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaselect.metrics.ranking import clean_label_auc, mean_of_lowest, ranking

samples = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=8)

unhurried = settings(deadline=None)  # the first call imports scikit-learn


def columns(pairs: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Weights (with ties) and whether the label is clean."""
    weights, clean = zip(*pairs, strict=True)
    return np.array(weights) / 4, np.array(clean)


@unhurried
@given(samples)
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    weights, clean = columns(pairs)
    wins = [
        1.0 if right > wrong else 0.5 if right == wrong else 0.0
        for right in weights[clean]
        for wrong in weights[~clean]
    ]
    found = clean_label_auc(weights, clean)
    if not wins or len(set(weights)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(sum(wins) / len(wins))


@pytest.mark.parametrize(
    ("weights", "clean"),
    [([0.1, 0.9], [True, True]), ([0.1, 0.9], [False, False]), ([0.5, 0.5, 0.5], [True, False, True])],
)
def test_auc_without_meaning_is_none(weights: list[float], clean: list[bool]) -> None:
    assert clean_label_auc(np.array(weights), np.array(clean)) is None


def test_auc_does_not_depend_on_the_scale_of_the_weights() -> None:
    draw = np.random.default_rng(1)
    weights, clean = draw.random(50), draw.random(50) < 0.6
    found = clean_label_auc(weights, clean)
    assert found == clean_label_auc(weights**3 / 7, clean)
    assert found == pytest.approx(1 - clean_label_auc(-weights, clean))


@unhurried
@given(samples, st.data())
def test_precision_is_the_mean_over_all_ways_to_break_ties(
    pairs: list[tuple[int, bool]], data: st.DataObject
) -> None:
    weights, clean = columns(pairs[:6])
    n = len(weights)
    k = data.draw(st.integers(1, n))
    found = [
        np.mean([not clean[i] for i in order[:k]])
        for order in itertools.permutations(range(n))
        if all(weights[a] <= weights[b] for a, b in itertools.pairwise(order))
    ]
    assert mean_of_lowest(weights, ~clean, k) == pytest.approx(np.mean(found))


def test_precision_by_hand() -> None:
    weights, clean = np.array([0.1, 0.2, 0.2, 0.2, 0.9]), np.array([False, True, False, False, True])
    assert mean_of_lowest(weights, ~clean, 0) is None
    assert mean_of_lowest(weights, ~clean, 1) == 1
    assert mean_of_lowest(weights, ~clean, 2) == pytest.approx((1 + 2 / 3) / 2)
    assert mean_of_lowest(weights, ~clean, 4) == 3 / 4
    assert mean_of_lowest(weights, ~clean, 5) == 3 / 5


@unhurried
@given(samples, st.data())
def test_a_ranking_by_counting(pairs: list[tuple[int, bool]], data: st.DataObject) -> None:
    """Ties count half in the AUC; the precision at a wrong label is among all that are not behind it."""
    ranks, clean = columns(pairs)
    k = data.draw(st.none() | st.integers(1, 9))
    found = ranking(ranks, clean, k)
    assert found.k == (min(k, len(clean)) if k else (~clean).sum())
    wrong, right = ranks[~clean], ranks[clean]
    if len(set(ranks)) == 1:
        assert found == (None, None, found.k, None)
    elif len(wrong) and len(right):
        assert found.auc == pytest.approx(np.mean([(a < b) + (a == b) / 2 for a in wrong for b in right]))
        assert found.average_precision == pytest.approx(np.mean([(~clean)[ranks <= a].mean() for a in wrong]))
    else:
        assert found.auc is found.average_precision is None


def test_a_ranking_by_hand() -> None:
    found = ranking(np.array([1, 2, 2, 4]), np.array([False, True, False, True]), None)
    assert tuple(found) == pytest.approx((3.5 / 4, (1 + 2 / 3) / 2, 2, 1.5 / 2))


def test_a_ranking_of_nothing_has_no_figures() -> None:
    assert ranking(np.empty(0), np.empty(0, bool), None) == (None, None, 0, None)
