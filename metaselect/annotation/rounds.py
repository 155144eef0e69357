"""Rounds: the samples that each selected, and which of them are answered."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from metaselect.annotation.consensus import BOUGHT, TIED, Verdict
from metaselect.annotation.ledger import Ledger
from metaselect.errors import ArtefactError, UsageError
from metaselect.run.artefacts import SELECT, SELECTED
from metaselect.run.layout import Run
from metaselect.run.stage_names import round_of
from metaselect.run.tables import read_stage_rows


class Selected(NamedTuple):
    """One sample of a round; the cells of ``selected.csv`` as text."""

    sample_id: str
    rank: str
    cluster: str
    cluster_size: str


@dataclass(frozen=True)
class Round:
    """One purchase.

    Attributes:
        number: from 1.
        batch_id: a name of the round that changes when its selection does.
        samples: by sample_id, in the order of their rank.
        control: those of them that were drawn at random; forms do not show which.
    """

    number: int
    batch_id: str
    samples: Mapping[str, Selected]
    control: frozenset[str] = frozenset()

    def unanswered_ids(self, verdicts: Mapping[str, Verdict]) -> list[str]:
        """Samples that nobody has answered since they were selected here, by rank."""
        return [sample_id for sample_id in self.samples if not self.is_answered(verdicts.get(sample_id))]

    def conflicts(self, verdicts: Mapping[str, Verdict]) -> "Round":
        """The tied samples alone, as a batch of their own."""
        tied = {
            each: row
            for each, row in self.samples.items()
            if each in verdicts and verdicts[each].status == TIED
        }
        # Another set of ties is another batch, so that its answers are matched with the right form.
        digest = hashlib.sha256("\n".join(tied).encode()).hexdigest()
        return replace(self, batch_id=f"{self.batch_id}-{digest[:4]}", samples=tied)

    def is_answered(self, verdict: Verdict | None) -> bool:
        """Whether somebody answered a sample with this verdict since it was selected here; None: it has no vote."""
        # A sample that was skipped in an earlier round and is selected again is shown again.
        return verdict is not None and (verdict.status in BOUGHT or verdict.round >= self.number)


def rounds(run: Run) -> list[Round]:
    """Every round of the run, the earliest first.

    Raises:
        ArtefactError: a ``selected.csv`` is damaged.
    """
    return [_read_round(run, name) for name in run.stage_names(SELECT.kind)]


def find_rounds(run: Run, number: int | None) -> list[Round]:
    """Every round, or only the one with that number.

    Raises:
        UsageError: there is no such round.
    """
    found = rounds(run)
    if number is None:
        return found
    chosen = [each for each in found if each.number == number]
    if not chosen:
        numbers = ", ".join(str(each.number) for each in found) or "none"
        raise UsageError(f"There is no round {number}.", f"Rounds of {run.root}: {numbers}.")
    return chosen


def rounds_as_exported(found: Sequence[Round], ledger: Ledger) -> list[Round]:
    """The rounds as their forms showed them: with blind repeats, and with batches of tied samples."""
    shown = []
    for each in found:
        again = {
            repeat.repeat_id: each.samples[repeat.sample_id]._replace(sample_id=repeat.repeat_id)
            for repeat in ledger.repeats
            if repeat.sample_id in each.samples and repeat.batch_id.startswith(each.batch_id)
        }
        asked = replace(each, samples={**each.samples, **again})
        parts = {export.batch_id for export in ledger.exports if export.round == each.number}
        shown += [asked, *(replace(asked, batch_id=part) for part in sorted(parts - {each.batch_id}))]
    return shown


def find_round(run: Run, number: int | None) -> Round:
    """The round with that number, or the latest one.

    Raises:
        ArtefactError: nothing was selected yet.
        UsageError: there is no such round.
    """
    found = find_rounds(run, number)
    if not found:
        raise nothing_selected_error(run)
    return found[-1]


def nothing_selected_error(run: Run) -> ArtefactError:
    """The error for a run in which nothing was selected."""
    return ArtefactError(
        f"No samples have been selected in {run.root}.",
        f"First run: {run.selecting_command}",
    )


def round_is_closed(ledger: Ledger, number: int) -> bool:
    """Whether the round was exported or has votes, so that its choice must stay."""
    return number in ledger.exported_rounds or any(vote.round == number for vote in ledger.votes)


def bought_samples(ledger: Ledger) -> dict[str, str]:
    """Samples that need not be bought again -> "done", "bad_sample" or "tied", ordered by sample_id."""
    verdicts = ledger.verdicts
    return {sample_id: verdict.status for sample_id, verdict in verdicts.items() if verdict.status in BOUGHT}


def batch_name(number: int, sha256: str) -> str:
    """The ``batch_id`` of a round whose ``selected.csv`` has that hash."""
    return f"b{number:02d}-{sha256[:8]}"


def _read_round(run: Run, name: str) -> Round:
    number = round_of(name)
    return _round_with(run, number, run.stage(name).verified(SELECTED.path(number=number)))


@lru_cache(maxsize=64)  # of the same hash, the file is the same: stages ask for the rounds more than once
def _round_with(run: Run, number: int, digest: str) -> Round:
    columns = SELECTED.columns
    pick = itemgetter(*(columns.index(column) for column in Selected._fields))
    control_at = columns.index("control")

    def made(*cells: str) -> tuple[Selected, bool]:
        return Selected._make(pick(cells)), cells[control_at] == "1"

    rows = list(read_stage_rows(run, SELECTED, made, number=number))
    rows.sort(key=lambda row: int(row[0].rank))
    control = frozenset(sample.sample_id for sample, drawn in rows if drawn)
    samples = {sample.sample_id: sample for sample, _ in rows}
    return Round(number, batch_name(number, digest), samples, control)
