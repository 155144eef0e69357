"""The words and symbols of the project, and the small records that its layers pass to each other.

Symbols, the same in every docstring:

    n  samples of the pool          b  budget, labels that may be bought
    m  samples of the meta set      B  samples of a training batch
    K  classes                      M  clusters
    d  width of the penultimate layer
    p  size of a gradient           T  checkpoints

*pool*: the training set. *given label*: as the data came. *clean label*: from a person. *meta set*: samples
with a bought label. *round*: one purchase. *vote*: one person's answer. *selector*: chooses samples.
*re-weighter*: a training method. *run*: the directory of one experiment. *stage*: one of its steps.
*ledger*: all votes of a run and what follows from them. *consensus*: the rule that combines the votes for a sample
(majority or Dawid-Skene). *verdict*: its result: a status, and the clean label where there is one.
*form*: a file or page that asks people for labels. *batch*: the samples of one training step; ``batch_id``, however,
names a round's selection in forms and answers. *control*: samples of a round that are drawn at random, to estimate the
noise rate. *baseline*: what a method is compared with, above all `uniform`.

s, v, c, f_i, F_m: the meta gradient's, defined in ``metagrad.forward``; slope: in ``metagrad.virtual_step``.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Advance: TypeAlias = Callable[..., None]
"""``advance(count, detail="")``: ``count`` more units are done; ``detail`` is shown beside the rate."""


MOST_ROWS = 100
"""Classes up to which a matrix of them is printed in full."""


class Reporter(Protocol):
    """Output of a running stage: notes, warnings and progress, all on stderr."""

    def note(self, message: str) -> None:
        """Print one sentence about normal work."""

    def warn(self, message: str) -> None:
        """Print one sentence that the user should act on."""

    def track(self, total: int, what: str, unit: str, done: int = 0) -> AbstractContextManager[Advance]:
        """Show progress over ``total`` units (0: unknown), ``done`` of them earlier, with rate and time left."""


class SilentReporter:
    """A ``Reporter`` that says nothing, for trials."""

    def note(self, message: str) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing."""

    def track(self, total: int, what: str, unit: str, done: int = 0) -> AbstractContextManager[Advance]:
        """Nothing."""
        return nullcontext(lambda count, detail="": None)


@dataclass(frozen=True)
class Outcome:
    """The result of a stage, for the command line.

    Attributes:
        result: what ``--json`` prints beside ``ok`` and ``schema_version``.
        unmet: a sentence if the stage ran but a condition does not hold (exit code 1); else empty.
    """

    result: Mapping[str, Json] = field(default_factory=dict)
    unmet: str = ""


def matrix_rows(matrix: "np.ndarray") -> list[Json]:
    """The rows of a (K, K) matrix; above ``MOST_ROWS`` classes [row, column, value] of each cell that is not 0."""
    if len(matrix) <= MOST_ROWS:
        return [*matrix.tolist()]
    rows, columns = matrix.nonzero()
    return [
        list(cell)
        for cell in zip(rows.tolist(), columns.tolist(), matrix[rows, columns].tolist(), strict=True)
    ]
