"""The AUC of rankings on bought labels, and its interval: by counting pairs, by its equation, by simulation."""

from math import sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from metaselect.metrics.auc_interval import auc_interval
from metaselect.stages.reweight.rankings import FEWEST, judge_rankings

Z = 1.959963984540054


def standard_error(auc: float, wrong: int, right: int) -> float:
    """As Hanley and McNeil give it, with the mean of the two sizes in place of each."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    others = (wrong + right) / 2 - 1
    return sqrt((auc * (1 - auc) + others * (q1 - auc**2) + others * (q2 - auc**2)) / (wrong * right))


@pytest.mark.parametrize("auc", [0.03, 0.5, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("sizes", [(5, 5), (5, 45), (200, 300)])
def test_the_limits_solve_the_equation(auc: float, sizes: tuple[int, int]) -> None:
    low, high = auc_interval(auc, *sizes)
    assert 0 <= low <= auc <= high <= 1
    assert auc - low == pytest.approx(Z * standard_error(low, *sizes), abs=1e-9)
    if auc < 1:
        assert high - auc == pytest.approx(Z * standard_error(high, *sizes), abs=1e-9)
    assert auc_interval(1 - auc, *sizes) == pytest.approx((1 - high, 1 - low))


def test_five_pairs_in_order_are_no_proof() -> None:
    low, high = auc_interval(1.0, 5, 5)
    assert 0.5 < low < 0.75
    assert high == 1.0


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("sizes", [(5, 5), (6, 40), (50, 50)])
def test_the_interval_holds_the_auc_nearly_always(shift: float, sizes: tuple[int, int]) -> None:
    """Of two normal distributions, whose AUC is Phi(shift / sqrt 2)."""
    from scipy.stats import norm

    auc, draw, held = float(norm.cdf(shift / sqrt(2))), np.random.default_rng(3), []
    for _ in range(1500):
        wrong, right = draw.normal(size=sizes[0]), draw.normal(shift, size=sizes[1])
        found = float((wrong[:, None] < right).mean())
        low, high = auc_interval(found, *sizes)
        held.append(low <= auc <= high)
    assert np.mean(held) > 0.92


values = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2 * FEWEST, max_size=60)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(values, st.randoms())
def test_the_auc_counts_pairs_and_the_order_of_samples_plays_no_part(
    rows: list[tuple[int, bool]], chance: Random
) -> None:
    trust, right = (np.array(column) for column in zip(*rows, strict=True))
    (found,) = judge_rankings({"it": trust}, right).values()
    wrong = int((~right).sum())
    if min(wrong, len(right) - wrong) < FEWEST:
        assert found.auc is found.low is found.high is None
        assert f"and there are {wrong} and {len(right) - wrong}" in str(found.reason)
        return
    if len({value for value, _ in rows}) == 1:
        assert found.auc is None
        assert "the same of all" in str(found.reason)
        return
    pairs = [(a < b) + (a == b) / 2 for a in trust[~right] for b in trust[right]]
    assert found.auc is not None
    assert found.auc == pytest.approx(np.mean(pairs))
    assert found.auc == pytest.approx(roc_auc_score(right, trust))
    assert (found.low, found.high) == auc_interval(found.auc, wrong, len(right) - wrong)
    assert found.reason is None
    chance.shuffle(rows)
    trust, right = (np.array(column) for column in zip(*rows, strict=True))
    assert judge_rankings({"it": trust}, right)["it"] == found


def test_a_ranking_that_is_not_there_says_why() -> None:
    right = np.arange(20) % 2 == 0
    found = judge_rankings({"rank": "no folds", "weight": right.astype(float)}, right)
    assert found["rank"] == (None, None, None, "no folds")
    assert found["weight"].auc == 1.0
