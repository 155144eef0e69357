"""Taking an import back: the votes that must follow so that what counted before it counts again.

Nothing is deleted. An undo appends votes: for each sample and annotator whose latest vote came from the undone import,
the vote that an earlier import left, or a withdrawn one where there is none.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from metaselect.annotation.imports import UNDO, Import, standing_votes, vote_positions
from metaselect.annotation.votes import WITHDRAWN, Vote
from metaselect.errors import UsageError


class UndoResult(NamedTuple):
    """The effect of an undo; the last three add up to the import's votes.

    Attributes:
        number: of the import.
        file: its name.
        format: as in ``Import``.
        votes: that came with it.
        withdrawn: votes whose annotator has no answer for the sample now.
        restored: votes whose annotator's earlier answer counts again.
        superseded: votes that another import replaced, or states too, so that nothing changed.
    """

    number: int
    file: str
    format: str
    votes: int
    withdrawn: int
    restored: int
    superseded: int


def find_import_to_undo(imports: Sequence[Import], number: int | None, total: int) -> Import:
    """The import with that number, or the latest one with votes; it may be undone already.

    Raises:
        UsageError: there is none, or it is an undo itself.
    """
    if number is None:
        latest = _latest_with_votes(imports, total)
        if latest is None:
            raise UsageError("There is no import to undo.")
        return latest
    if not 1 <= number <= len(imports):
        last = f"The latest is {len(imports)}." if imports else "Nothing was imported yet."
        raise UsageError(f"There is no import {number}.", last)
    row = imports[number - 1]
    if row.undoes:
        raise UsageError(
            f"Import {number} is the undo of import {row.undoes}.", "Import the file of that one again."
        )
    return row


def latest_standing_import(imports: Sequence[Import], total: int) -> Import | None:
    """The last import with votes that was not undone yet."""
    return _latest_with_votes(imports, total, {row.undoes for row in imports})


def _latest_with_votes(
    imports: Sequence[Import], total: int, undone: Collection[int] = frozenset()
) -> Import | None:
    standing = (row for row in reversed(imports) if not row.undoes and row.number not in undone)
    return next((row for row in standing if vote_positions(imports, row, total)), None)


def undo_of(imports: Sequence[Import], number: int) -> Import | None:
    """The row that undoes an import; None where it was not undone."""
    return next((row for row in imports if row.undoes == number), None)


def next_undo(imports: Sequence[Import], number: int, time: str, first_vote: int) -> Import:
    """The row of an undo."""
    return Import(len(imports) + 1, time, "", "", UNDO, first_vote, undoes=number)


def votes_that_undo(votes: Sequence[Vote], imports: Sequence[Import]) -> list[Vote]:
    """The votes to append so that the latest ones are those of imports that were not undone.

    Ordered by sample and annotator, with the time of the last import; empty where nothing is to be appended.
    """
    wanted = votes_not_undone(votes, imports)
    added = []
    for key, vote in sorted({vote.key: vote for vote in votes}.items()):
        other = wanted.get(key)
        if (
            other is None and vote.status != WITHDRAWN
        ):  # no import that stands has an answer of this annotator
            added.append(vote._replace(clean_label="", status=WITHDRAWN, note="", time=imports[-1].time))
        elif other is not None and not other.equals_but_for_time(vote):
            added.append(other._replace(time=imports[-1].time))
    return added


def votes_not_undone(votes: Sequence[Vote], imports: Sequence[Import]) -> dict[tuple[str, str], Vote]:
    """The latest vote of each annotator for each sample, of the imports that were not undone."""
    return {vote.key: vote for _, told in standing_votes(votes, imports) for vote in told}


def without_round(
    votes: Sequence[Vote], imports: Sequence[Import], number: int
) -> tuple[list[Vote], list[Import]]:
    """Votes and imports without the votes of a round; imports that were undone stay undone."""
    kept = [vote for vote in votes if vote.round != number]
    left = {0: 0}  # number of votes -> how many of them are kept
    for position, vote in enumerate(votes, start=1):
        left[position] = left[position - 1] + (vote.round != number)
    rows = [row._replace(first_vote=left[min(row.first_vote, len(votes))]) for row in imports]
    undone = [row for row in rows if row.undoes]
    # An undone vote may have been hidden by a vote of the removed round only: it must be undone once more.
    again = votes_that_undo(kept, rows) if undone else []
    if again:
        rows.append(next_undo(rows, undone[-1].undoes, undone[-1].time, len(kept)))
    return kept + again, rows


def result_of_undo(votes: Sequence[Vote], imports: Sequence[Import], undo: Import) -> UndoResult:
    """The effect of a row that is an undo."""
    row = imports[undo.undoes - 1]
    count = len(vote_positions(imports, row, len(votes)))
    added = [votes[at].status for at in vote_positions(imports, undo, len(votes))]
    withdrawn = added.count(WITHDRAWN)
    return UndoResult(
        row.number, row.file, row.format, count, withdrawn, len(added) - withdrawn, count - len(added)
    )
