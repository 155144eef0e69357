"""Rows of `metaselect compare`, the groups of those that differ by the seed alone, and their differences. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean, stdev

import numpy as np

from metaselect.metrics.paired import PairedDifference, paired_mean
from metaselect.records import Json
from metaselect.text import escape_formula


@dataclass(frozen=True)
class Row:
    """A model of a run.

    Attributes:
        run: the run directory.
        test: name of the evaluation.
        model: "warmup" or the name of a re-weighting.
        role: "taken", "control" (plain training with the same labels) or "named"; "taken, control" is both.
        method: "warmup" or the method of the re-weighting.
        selector: methods of the rounds; empty for the warm-up.
        bought: labels that the model was trained with.
        seed: of all stages, or one a stage: "0/0/1".
        accuracy: on the test set, like the next three; None if it was not judged.
        low: lower limit of its 95 % interval.
        high: upper limit.
        balanced_accuracy: the mean of those of the classes.
        to_control: the accuracy less that of the control on the same samples; None without one, and for it.
        settings: everything that the model depends on but the seeds; equal ones make a group.
        group: number of the group, from 1.
        best: whether no row has a higher accuracy.
    """

    run: str
    test: str
    model: str
    role: str
    method: str
    selector: str
    bought: int
    seed: str
    accuracy: float | None
    low: float | None
    high: float | None
    balanced_accuracy: float | None
    to_control: PairedDifference | None
    settings: str
    group: int = 0
    best: bool = False


@dataclass(frozen=True)
class Group:
    """Rows that differ by the seed alone.

    Attributes:
        number: from 1, in the order of the rows.
        method: of its rows, like the next two.
        selector: of the rows; of a rule's choices that differ, all.
        bought: labels.
        n: rows with an accuracy, each with another seed.
        mean: of their accuracies; None without one.
        standard_deviation: of the accuracies (sample); None for fewer than two.
        to_first: the mean difference to the first group over the seeds that both have, with Student's 95 % interval;
            None for the first group, and for fewer than two such seeds.
        pairs: how many such seeds there are.
        best: whether no group has a higher mean.
    """

    number: int
    method: str
    selector: str
    bought: int
    n: int
    mean: float | None
    standard_deviation: float | None
    to_first: PairedDifference | None
    pairs: int
    best: bool = False


COLUMNS = (
    *("run", "test", "model", "role", "method", "selector", "bought", "seed", "accuracy", "low", "high"),
    *("balanced_accuracy", "to_control", "to_control_low", "to_control_high", "group", "best"),
)
"""Of the CSV file."""


def grouped(rows: Sequence[Row]) -> tuple[list[Row], list[Group]]:
    """The rows with their groups and the best one marked, and the groups."""
    numbers: dict[str, int] = {}
    for row in rows:
        numbers.setdefault(row.settings, len(numbers) + 1)
    highest = max((row.accuracy for row in rows if row.accuracy is not None), default=None)
    marked = [
        replace(row, group=numbers[row.settings], best=row.accuracy is not None and row.accuracy == highest)
        for row in rows
    ]
    members = {number: [row for row in marked if row.group == number] for number in numbers.values()}
    groups = [_group(members[number], members[1]) for number in members]
    top = max((group.mean for group in groups if group.mean is not None), default=None)
    return marked, [replace(group, best=group.mean is not None and group.mean == top) for group in groups]


def repeated_seeds(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of rows with equal settings and seeds: the second is no repetition."""
    first: dict[tuple[str, str], Row] = {}
    return [
        (found, row) for row in rows if (found := first.setdefault((row.settings, row.seed), row)) is not row
    ]


def printed(rows: Sequence[Row], groups: Sequence[Group]) -> dict[str, Json]:
    """What ``--json`` prints."""
    return {
        "rows": [{**_plain(row), "to_control": _difference(row.to_control)} for row in rows],
        "groups": [{**_plain(group), "to_first": _difference(group.to_first)} for group in groups],
    }


def csv_rows(rows: Sequence[Row]) -> list[list[object]]:
    """Cells by ``COLUMNS``; empty where there is no figure."""
    cells = []
    for row in rows:
        values: Mapping[str, object] = _plain(row)
        difference = row.to_control
        named = {
            **values,
            "to_control": difference and difference.difference,
            "to_control_low": difference and difference.low,
            "to_control_high": difference and difference.high,
        }
        cells.append([_cell(named[column]) for column in COLUMNS])
    return cells


def _group(rows: Sequence[Row], first: Sequence[Row]) -> Group:
    own, others = _by_seed(rows), _by_seed(first)
    values = list(own.values())
    seeds = [] if rows is first else [seed for seed in own if seed in others]
    pairs = (np.array([each[seed] for seed in seeds]) for each in (own, others))
    return Group(
        rows[0].group,
        rows[0].method,
        " or ".join(dict.fromkeys(row.selector for row in rows)),
        rows[0].bought,
        len(values),
        fmean(values) if values else None,
        stdev(values) if len(values) > 1 else None,
        paired_mean(*pairs) if len(seeds) > 1 else None,
        len(seeds),
    )


def _by_seed(rows: Sequence[Row]) -> dict[str, float]:
    """Accuracies by seed; of rows with one seed the first."""
    found: dict[str, float] = {}
    for row in rows:
        if row.accuracy is not None:
            found.setdefault(row.seed, row.accuracy)
    return found


def _plain(record: Row | Group) -> dict[str, Json]:
    """The fields of a record but its settings."""
    names = [field.name for field in fields(record) if field.name != "settings"]
    values = asdict(record)
    return {name: values[name] for name in names}


def _difference(difference: PairedDifference | None) -> Json:
    return None if difference is None else difference._asdict()


def _cell(value: object) -> object:
    return escape_formula(value) if isinstance(value, str) else "" if value is None else value
