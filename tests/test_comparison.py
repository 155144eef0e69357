"""The paired comparison of two models: against exact enumeration, tables, and its words."""

from itertools import product
from math import comb, sqrt
from typing import Any

import numpy as np
import pytest

from metaselect.metrics.paired import PairedDifference, paired_accuracy, paired_mean
from metaselect.stages.reweight.comparison import compare, difference_phrase, verdict
from metaselect.stages.reweight.cross_fit import CrossFitRow


def hits(won: int, lost: int, both: int, neither: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hits of two models with so many samples of each kind."""
    first = [True] * won + [False] * lost + [True] * both + [False] * neither
    second = [False] * won + [True] * lost + [True] * both + [False] * neither
    return np.array(first), np.array(second)


def test_the_interval_by_hand() -> None:
    found = paired_accuracy(*hits(6, 1, 40, 3))
    assert found.difference == 5 / 50
    assert found.standard_error == pytest.approx(sqrt(8 - 25 / 52) / 52)
    assert (found.low + found.high) / 2 == pytest.approx(5 / 52)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * found.standard_error, rel=1e-6)


@pytest.mark.parametrize(("better", "worse"), [(0.0, 0.0), (0.1, 0.1), (0.3, 0.05), (0.02, 0.0), (0.5, 0.3)])
@pytest.mark.parametrize("n", [8, 30])
def test_the_interval_holds_the_truth_in_nearly_95_of_100_samples(
    n: int, better: float, worse: float
) -> None:
    """Exactly, over all counts of won and lost samples."""
    covered = 0.0
    for won, lost in product(range(n + 1), repeat=2):
        if won + lost > n:
            continue
        chance = comb(n, won) * comb(n - won, lost) * better**won * worse**lost
        chance *= (1 - better - worse) ** (n - won - lost)
        found = paired_accuracy(*hits(won, lost, n - won - lost))
        covered += chance * (found.low - 1e-12 <= better - worse <= found.high + 1e-12)
    assert covered > 0.925


def test_two_models_that_agree_everywhere_are_not_known_to_be_equal() -> None:
    found = paired_accuracy(*hits(0, 0, 20))
    assert found.difference == 0
    assert found.low == -found.high < 0
    assert found.standard_error == pytest.approx(1 / 22)


@pytest.mark.parametrize(
    ("count", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (31, 2.042), (1001, 1.962)]
)
def test_the_interval_of_a_mean_is_students(count: int, quantile: float) -> None:
    first = np.random.default_rng(count).normal(2, 1, count)
    found = paired_mean(first, np.ones(count))
    error = np.std(first, ddof=1) / sqrt(count)
    assert found.difference == pytest.approx(first.mean() - 1)
    assert found.standard_error == pytest.approx(error)
    assert (found.high - found.difference) / error == pytest.approx(quantile, abs=0.0005)


def rows_of(warmup: str, baseline: str, method: str) -> list[CrossFitRow]:
    """A row for each letter: "a" is right, "b" wrong with probability 0 of the right label, " " not bought."""
    probs = {"a": 0.5, "b": 0.0}
    rows: list[Any] = []
    for number, arms in enumerate(zip(warmup, baseline, method, strict=True)):
        cells: list[Any] = [cell for arm in arms for cell in (arm, probs[arm], 0.5)]
        rows.append(CrossFitRow(f"s{number}", "a", "a", 1, *cells))
    return rows


def test_the_comparison_of_rows() -> None:
    rows = rows_of("bb" + "a" * 8, "b" * 10, "a" * 9 + "b")
    rows.append(CrossFitRow("more", "a", "", 1, *("b", "", 0.5) * 3))  # not bought: not counted
    result: Any = compare(rows, "mine", is_baseline=False)
    assert [result[arm]["right"] for arm in ("warmup", "baseline", "method")] == [8, 0, 9]
    assert result["method"]["log_loss"] == pytest.approx((9 * np.log(2) + np.log(1000)) / 10)
    expected = paired_accuracy(*hits(9, 0, 0, 1))
    assert result["against_baseline"]["accuracy"] == expected._asdict()
    assert result["against_warmup"]["accuracy"]["difference"] == pytest.approx(0.1)
    assert result["verdict"] == "better"
    low, high = (f"{round(100 * limit, 1):g}" for limit in expected[2:])
    assert result["sentence"] == (
        "mine gets 9 of 10 bought labels right that it did not see, uniform 0, the warm-up 8: "
        f"better than uniform by 90 points (95 % interval {low} to {high})."
    )


def test_a_method_that_is_worse_is_named_as_worse() -> None:
    result: Any = compare(rows_of("a" * 10, "a" * 10, "b" * 8 + "aa"), "mine", is_baseline=False)
    assert result["verdict"] == "worse"
    assert "worse than uniform by 80 points" in result["sentence"]


def test_the_baseline_is_compared_with_the_warmup_alone() -> None:
    result: Any = compare(rows_of("b" * 10, "a" * 10, "a" * 10), "uniform", is_baseline=True)
    assert result["verdict"] is result["against_baseline"] is None
    assert (
        "uniform gets 10 of 10 bought labels right that it did not see, the warm-up 0: better than the warm-up"
        in (result["sentence"])
    )


@pytest.mark.parametrize(
    ("low", "high", "found", "words"),
    [
        (0.01, 0.2, "better", "better than uniform by 10 points (95 % interval 1 to 20)"),
        (-0.2, -0.01, "worse", "worse than uniform by 10 points"),
        (-0.1, 0.3, "undecided", "not clearly better or worse than uniform, "),
    ],
)
def test_verdicts(low: float, high: float, found: str, words: str) -> None:
    accuracy = PairedDifference((-1 if high < 0 else 1) * 0.1, 0.05, low, high)
    assert verdict(accuracy) == found
    assert words in difference_phrase(accuracy, "uniform")
