"""Forecasts: means and intervals over simulated purchases, and which number of labels is worth it. No torch."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

from metaselect.planning.measured import Errors, errors_at

LEVEL = 0.9  # of the intervals
Z = 1.6448536269514722  # standard normal deviate, 90 % two-sided
WORTH = 0.01  # of accuracy, or of the pool's labels: less is not worth a purchase
RISK = 0.1  # of the same: a lower limit farther below the best one is too uncertain to stop at


class Estimate(NamedTuple):
    """A predicted value with the limits of its 90 % interval."""

    mean: float
    low: float
    high: float


class Draw(NamedTuple):
    """A simulated purchase.

    Attributes:
        weight: its share of all draws; the weights sum to 1.
        accuracy: by number of further labels, the first of them 0.
        right: the same, of the share of all labels that are right.
    """

    weight: float
    accuracy: Sequence[float]
    right: Sequence[float]


class Row(NamedTuple):
    """What a number of further labels would bring.

    Attributes:
        labels: that number.
        accuracy: of the model on new samples.
        right: share of the pool's labels that are right.
        accuracy_gain: of ``accuracy``, against no further label.
        right_gain: of ``right``.
    """

    labels: int
    accuracy: Estimate
    right: Estimate
    accuracy_gain: Estimate
    right_gain: Estimate


def forecast(draws: Sequence[Draw], counts: Sequence[int], bought: int) -> list[Row]:
    """A row for each number of further labels, the first of them 0.

    Args:
        draws: at least one.
        counts: numbers of further labels, rising from 0.
        bought: labels that there are already.
    """
    start = errors_at(bought)
    rows = []
    for place, count in enumerate(counts):
        errors = errors_at(bought + count)
        of_gain = errors.with_start(start) if count else Errors(0, 0)
        accuracy, right = ([pair[place] for pair in values] for values in _columns(draws))
        accuracy_gain, right_gain = ([pair[place] - pair[0] for pair in values] for values in _columns(draws))
        weights = [draw.weight for draw in draws]
        row = Row(
            count,
            estimate(accuracy, weights, errors.accuracy),
            estimate(right, weights, errors.right),
            estimate(accuracy_gain, weights, of_gain.accuracy, low=-1.0),
            estimate(right_gain, weights, of_gain.right, low=-1.0),
        )
        rows.append(row)
    return rows


def _columns(draws: Sequence[Draw]) -> tuple[list[Sequence[float]], list[Sequence[float]]]:
    """Accuracies and shares of right labels of every draw."""
    return [draw.accuracy for draw in draws], [draw.right for draw in draws]


def worth_buying(rows: Sequence[Row]) -> Row:
    """The fewest labels that are about as good as the best of all rows, and about as sure.

    Accuracy and right labels are within ``WORTH`` of the largest means. Where labels are worth buying at all, their
    lower limits are within ``RISK`` of the largest ones too: a mean that may be far off is no reason to stop there.
    """
    fields = [[getattr(row, name) for row in rows] for name in ("accuracy", "right")]
    means, lows = (
        [max(getattr(each, part) for each in field) for field in fields] for part in ("mean", "low")
    )

    def good(row: Row) -> bool:
        return all(
            each.mean >= mean - WORTH for each, mean in zip((row.accuracy, row.right), means, strict=True)
        )

    def sure(row: Row) -> bool:
        return all(each.low >= low - RISK for each, low in zip((row.accuracy, row.right), lows, strict=True))

    chosen = next((row for row in rows if good(row) and (sure(row) or not row.labels)), None)
    return chosen or max(rows, key=lambda row: (good(row), row.accuracy.mean + row.right.mean))


def estimate(values: Sequence[float], weights: Sequence[float], error: float, low: float = 0.0) -> Estimate:
    """The weighted mean, with an interval that is widened by an error.

    The limits are those between which ``LEVEL`` of the draws lie; their distances from the mean and ``Z`` times the
    error are added as independent ones are, by squares.

    Args:
        values: of the draws.
        weights: of the draws.
        error: root mean square of the difference between predicted and reached values.
        low: the least value that is possible; 1 is the largest.
    """
    mean = sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
    lower = mean - sqrt((mean - quantile(values, weights, (1 - LEVEL) / 2)) ** 2 + (Z * error) ** 2)
    upper = mean + sqrt((quantile(values, weights, (1 + LEVEL) / 2) - mean) ** 2 + (Z * error) ** 2)
    return Estimate(mean, max(lower, low), min(upper, 1.0))


def quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """The smallest value at or below which ``share`` of the weight lies; the largest one if rounding leaves none."""
    total, below = sum(weights), 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        below += weight
        if below >= share * total:
            return value
    return max(values)
