"""Simulated annotators: answers from true labels, with errors, skipped samples and several annotators."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from metaselect.annotation.formats.base import Answer
from metaselect.annotation.votes import BAD_SAMPLE, DONE, SKIP
from metaselect.errors import DataError, UsageError
from metaselect.options import require_range
from metaselect.random import uniform
from metaselect.run.files import read_csv
from metaselect.text import quoted

SIMULATED = "simulated"
CLOSE = 1e-6  # largest difference to 1 of the sum of a row of probabilities


@dataclass(frozen=True)
class SimulateOptions:
    """`annotate simulate`.

    Attributes:
        round: None is the latest one.
        error_rate: share of wrong answers, in [0, 1]; all wrong classes are equally likely.
        confusion: CSV file, in place of the rate.
        annotators: how many answer each sample.
        skip_rate: share of skipped answers, in [0, 1].
    """

    round: int | None = None
    error_rate: float = 0.0
    confusion: Path | None = None
    annotators: int = 1
    skip_rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_range("error-rate", self.error_rate, 0, 1)
        require_range("skip-rate", self.skip_rate, 0, 1)
        require_range("annotators", self.annotators, 1, 1000)
        if self.error_rate and self.confusion is not None:
            raise UsageError("--error-rate and --confusion exclude each other.", "Leave one out.")


def simulated_answers(
    labels: Mapping[str, str],
    rates: Mapping[str, Sequence[float]],
    classes: Sequence[str],
    batch_id: str,
    options: SimulateOptions,
) -> list[Answer]:
    """The answers of the simulated annotators; each has its own random stream, so that none depends on another.

    Args:
        labels: the true class by id, in the order in which they are answered; empty: the sample is unusable.
        rates: of ``error_rates``.
        classes: K names.
        batch_id: of the answers.
        options: number of annotators, rates, seed.
    """
    alone = options.annotators == 1
    names = [SIMULATED] if alone else [f"{SIMULATED}-{each + 1}" for each in range(options.annotators)]
    return [
        Answer(row, sample_id, label, who, status, "", batch_id)
        for who in names
        for row, sample_id, label, status in _answers(labels, rates, classes, who, options)
    ]


def error_rates(classes: Sequence[str], options: SimulateOptions) -> dict[str, list[float]]:
    """The probability of every answer, in the order of the classes, by true class; empty without errors.

    Raises:
        DataError: the confusion file lacks a class or has an unknown one, or a row is not a distribution.
        UsageError: an error rate with one class alone.
    """
    if options.confusion is not None:
        return _read_confusion(options.confusion, classes)
    if not options.error_rate:
        return {}
    if len(classes) < 2:
        raise UsageError("--error-rate needs two classes at least.", "Leave it out.")
    wrong = options.error_rate / (len(classes) - 1)  # of each wrong class
    return {true: [1 - options.error_rate if name == true else wrong for name in classes] for true in classes}


def _answers(
    labels: Mapping[str, str],
    rates: Mapping[str, Sequence[float]],
    classes: Sequence[str],
    who: str,
    options: SimulateOptions,
) -> Iterator[tuple[int, str, str, str]]:
    cumulative = {true: list(accumulate(row)) for true, row in rates.items()}
    for row, (sample_id, label) in enumerate(labels.items(), start=1):
        if (
            options.skip_rate
            and uniform(options.seed, "simulate", "skip", who, sample_id) < options.skip_rate
        ):
            yield row, sample_id, "", SKIP
        elif not label:
            yield row, sample_id, "", BAD_SAMPLE
        elif label in cumulative:
            # Scaled by the last sum, which rounding may leave a little below 1.
            draw = uniform(options.seed, "simulate", "answer", who, sample_id) * cumulative[label][-1]
            yield (
                row,
                sample_id,
                next(c for c, end in zip(classes, cumulative[label], strict=True) if draw < end),
                DONE,
            )
        else:
            yield row, sample_id, label, DONE  # a label that is not a class is refused as in any import


def _read_confusion(path: Path, classes: Sequence[str]) -> dict[str, list[float]]:
    (_, *given), rows = read_csv(path)
    if sorted(given) != sorted(classes):
        different = sorted(set(given) ^ set(classes)) or given
        raise DataError(
            f"{path}: the columns after the first are not the {len(classes)} classes; see {quoted(different[0])}.",
            "The first line must be: true, then every class name once.",
        )
    rates_of: dict[str, list[float]] = {}
    for number, row in enumerate(rows, start=2):
        true, *cells = row.values()
        try:
            rates = dict(zip(given, map(float, cells), strict=True))
        except ValueError:
            raise DataError(
                f"{path}:{number} holds something that is no number.", "Write probabilities."
            ) from None
        if true not in classes or true in rates_of:
            raise DataError(
                f"{path}:{number}: {quoted(true)} is {'there twice' if true in rates_of else 'no class'}."
            )
        if not all(0 <= rate <= 1 for rate in rates.values()) or abs(sum(rates.values()) - 1) > CLOSE:
            raise DataError(
                f"{path}:{number}: the probabilities of {quoted(true)} are not in 0..1 with the sum 1.",
                "Every row must add up to 1.",
            )
        rates_of[true] = [rates[name] for name in classes]
    if missing := [name for name in classes if name not in rates_of]:
        raise DataError(f"{path} has no row for {quoted(missing[0])}.", "It needs one row per class.")
    return rates_of
