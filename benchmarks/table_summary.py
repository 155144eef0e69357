"""The rows of ``table.py``'s CSV, and what they say: means, spreads and differences to the baseline, in Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from math import sqrt
from typing import NamedTuple, Protocol, TypeVar

METRICS = ("accuracy", "balanced_accuracy", "rank_auc", "weight_auc", "seconds")
JUDGED = "auto"
"""The method that is compared with every other one."""
MOST_BELOW, MOST_BELOW_OF_FEW, FEW = 0.005, 0.01, 500
"""How far a mean accuracy may be below the baseline's, and how far with fewer test samples than the last number."""
MUCH_NOISE = 0.2  # share of wrong labels from which on the judged method should gain


class Row(NamedTuple):
    """One training; ``table.py`` explains the columns. Accuracies are in [0, 1]; an AUC without a value is None."""

    data: str
    noise: str
    budget: int
    selector: str
    method: str
    seed: int
    accuracy: float
    balanced_accuracy: float
    warmup_accuracy: float
    noise_rate: float
    weight_auc: float | None
    rank_auc: float | None
    seconds: float
    exit_code: int
    verdict: str
    take: str
    pool: int
    test_samples: int


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; the latter is None for one seed."""

    mean: float
    deviation: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


class Measured(Protocol):
    """A row of one method and one seed."""

    @property
    def method(self) -> str:
        """The method's name."""

    @property
    def seed(self) -> int:
        """Of the split, the noise and the training."""


AnyRow = TypeVar("AnyRow", bound=Measured)


def by_method(rows: Iterable[AnyRow]) -> dict[str, dict[int, AnyRow]]:
    """The rows of one cell of the summary by method, then by seed."""
    found: dict[str, dict[int, AnyRow]] = {}
    for row in rows:
        found.setdefault(row.method, {})[row.seed] = row
    return found


def values(rows: Mapping[int, Measured], metric: str) -> dict[int, float]:
    """The metric by seed, without the seeds where it has no value."""
    found = {seed: getattr(row, metric) for seed, row in sorted(rows.items())}
    return {seed: value for seed, value in found.items() if value is not None}


def difference(rows: Mapping[int, Measured], others: Mapping[int, Measured], metric: str) -> Spread | None:
    """Mean and spread of (rows - others) over the seeds of both; None without such a seed."""
    ours, theirs = values(rows, metric), values(others, metric)
    pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return spread(pairs) if pairs else None


def complaints(cell: Sequence[Row], baseline: str) -> list[str]:
    """A sentence for each way in which a method is worse than it should be; ``cell`` has one setting and one arm."""
    methods, found = by_method(cell), []
    few = cell[0].test_samples < FEW
    for method, rows in methods.items():
        gain = difference(rows, methods.get(baseline, {}), "accuracy")
        if method == baseline or gain is None:
            continue
        if gain.mean < -(MOST_BELOW_OF_FEW if few else MOST_BELOW):
            found.append(f"{method} is {-100 * gain.mean:.1f} points below {baseline}")
        much_noise = statistics.mean(row.noise_rate for row in rows.values()) >= MUCH_NOISE
        if method == JUDGED and much_noise and gain.mean <= (gain.deviation or 0.0):
            found.append(f"{method} is not above {baseline} by more than the spread of the difference")
    if JUDGED in methods:
        found += _below_best(methods)
    return found


def _below_best(methods: dict[str, dict[int, Row]]) -> list[str]:
    """A sentence if the judged method is below the best other one by more than one standard deviation.

    That is the root of the mean variance of the two.
    """
    ours = spread(list(values(methods[JUDGED], "accuracy").values()))
    others = {
        name: spread(list(values(rows, "accuracy").values()))
        for name, rows in methods.items()
        if name != JUDGED
    }
    if not others:
        return []
    best = max(others, key=lambda name: others[name].mean)
    deviation = sqrt(((ours.deviation or 0.0) ** 2 + (others[best].deviation or 0.0) ** 2) / 2)
    below = others[best].mean - ours.mean
    if below <= deviation:
        return []
    return [
        f"{JUDGED} is {100 * below:.1f} points below {best}; one standard deviation is {100 * deviation:.1f}"
    ]


def summary(rows: Sequence[Row], metric: str, baseline: str) -> str:
    """Markdown: a line for each data set, noise, selector and budget, a column for each method, and the complaints."""
    methods = [baseline, *dict.fromkeys(row.method for row in rows if row.method != baseline)]
    header = ("data", "noise", "wrong %", "bought", "selector", "seeds", "warm-up", *methods)
    lines, sentences = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"], []
    for _, group in groupby(rows, key=lambda row: row[:4]):
        cell = list(group)
        lines.append(f"| {' | '.join(_line(cell, metric, baseline, methods))} |")
        first = cell[0]
        where = f"{first.data}, {first.noise}, {first.budget} by {first.selector}"
        sentences += [f"- {where}: {each}." for each in complaints(cell, baseline)]
        failed = sorted(f"{row.method}, seed {row.seed}" for row in cell if row.exit_code)
        sentences += [f"- {where}: the training failed: {'; '.join(failed)}."] if failed else []
    return "\n".join([*lines, "", *sentences])


def _line(cell: Sequence[Row], metric: str, baseline: str, methods: Sequence[str]) -> list[str]:
    found, first = by_method(cell), cell[0]
    seeds = sorted({row.seed for row in cell})
    wrong = statistics.mean(row.noise_rate for row in cell)
    warmup = {row.seed: row.warmup_accuracy for row in cell}
    cells = [
        first.data,
        first.noise,
        f"{100 * wrong:.1f}",
        str(first.budget),
        first.selector,
        str(len(seeds)),
    ]
    cells.append(shown(spread(list(warmup.values())), "accuracy") if metric.endswith("accuracy") else "-")
    for method in methods:
        measured = list(values(found.get(method, {}), metric).values())
        text = shown(spread(measured), metric) if measured else "-"
        gain = (
            None if method == baseline else difference(found.get(method, {}), found.get(baseline, {}), metric)
        )
        cells.append(text if gain is None else f"{text} ({shown(gain, metric, sign='+')})")
    return cells


def shown(measured: Spread, metric: str, sign: str = "") -> str:
    """Mean and spread as text: accuracies in percent and seconds with one digit, others with three."""
    factor, digits = (
        100 if metric.endswith("accuracy") else 1,
        1 if metric.endswith(("accuracy", "seconds")) else 3,
    )
    mean = f"{factor * measured.mean:{sign}.{digits}f}"
    return mean if measured.deviation is None else f"{mean} ± {factor * measured.deviation:.{digits}f}"
