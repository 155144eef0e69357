"""Imports by number: which votes came with each, and which imports were undone.

The rows of ``imports.csv`` divide ``votes.csv``: an import's votes begin at ``first_vote`` and end where the next row's
begin. A row is written before its votes, so that every vote belongs to one; after a crash it has fewer votes than its
file, or none. An import has all that its file says, also what counted before it, so that this still counts when an
earlier import is undone. An undo is a row with votes too: they restore what counted before. So the latest vote of each
annotator in ``votes.csv`` is always the one that counts.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from metaselect.annotation.votes import RESTORE_REMEDY, Vote
from metaselect.run.artefacts import IMPORTS
from metaselect.run.tables import read_rows, write_rows

UNDO = "undo"


class Source(NamedTuple):
    """Where answers came from.

    Attributes:
        time: ISO 8601, UTC.
        file: its name without folders.
        sha256: hex digest of its bytes.
        format: a name of ``annotation.formats``, "simulate" or "serve".
    """

    time: str
    file: str
    sha256: str
    format: str


class Import(NamedTuple):
    """A row of ``imports.csv``.

    Attributes:
        number: from 1.
        time: as in the votes.
        file: name without folders; empty for an undo.
        sha256: of the file; empty for an undo.
        format: of the file, or "undo".
        first_vote: how many votes were there before.
        undoes: the import that this row takes back; 0 for an import.
    """

    number: int
    time: str
    file: str
    sha256: str
    format: str
    first_vote: int
    undoes: int

    def has_source(self, source: Source) -> bool:
        """Whether its votes came from this source, at the same time."""
        return self[1:5] == source

    def equals_but_for_time(self, earlier: "Import") -> bool:
        """Whether an earlier row differs in its number and time at most."""
        return self[2:] == earlier[2:]


def next_import(imports: Sequence[Import], source: Source, first_vote: int) -> Import:
    """The row of a new import."""
    name = os.fsencode(source.file).decode("utf-8", "replace")  # a file name need not be UTF-8
    return Import(len(imports) + 1, source.time, name, source.sha256, source.format, first_vote, undoes=0)


def read_imports(path: Path) -> tuple[Import, ...]:
    """The rows; none where there is no file.

    Raises:
        ArtefactError: a row that is not an import.
    """
    return read_rows(path, IMPORTS, _parse_import, RESTORE_REMEDY)


def write_imports(path: Path, imports: Iterable[Import]) -> None:
    """Write all rows; earlier ones stay as they are."""
    write_rows(path, IMPORTS, ((*row[:-1], row.undoes or "") for row in imports))


def vote_positions(imports: Sequence[Import], row: Import, total: int) -> range:
    """Positions in ``votes.csv`` of an import's votes; ``total`` is the number of all votes."""
    later = imports[row.number].first_vote if row.number < len(imports) else total
    # min: after a crash, or with a torn file, there may be fewer votes than the rows say.
    return range(min(row.first_vote, total), min(later, total))


def standing_votes(
    votes: Sequence[Vote], imports: Sequence[Import]
) -> Iterator[tuple[Import | None, Sequence[Vote]]]:
    """The imports that were not undone, each with its votes, oldest first; None: votes that belong to no import."""
    undone = {row.undoes for row in imports}
    starts = [0, *(min(row.first_vote, len(votes)) for row in imports), len(votes)]
    for row, (start, end) in zip((None, *imports), pairwise(starts), strict=True):
        if row is None or not (row.undoes or row.number in undone):
            yield row, votes[start:end]


def votes_to_record(
    votes: Sequence[Vote], imports: Sequence[Import], accepted: Sequence[Vote], sha256: str
) -> Sequence[Vote]:
    """All votes of a file, or none where its import stands already and no later one says anything else.

    Args:
        votes: of the ledger.
        imports: of the ledger.
        accepted: the votes of the file.
        sha256: of the file.
    """
    stated: dict[tuple[str, str], Vote] = {}
    if any(row.sha256 == sha256 for row in imports):  # else nothing need be compared
        for row, told in standing_votes(votes, imports):
            if row is not None and row.sha256 == sha256:
                stated.update((vote.key, vote) for vote in told)
            else:
                for vote in told:
                    if not vote.equals_but_for_time(stated.get(vote.key)):
                        stated.pop(vote.key, None)
    stands = all(vote.equals_but_for_time(stated.get(vote.key)) for vote in accepted)
    return () if stands else accepted


def _parse_import(
    number: str, time: str, file: str, digest: str, form: str, first_vote: str, undoes: str
) -> Import:
    return Import(int(number), time, file, digest, form, int(first_vote), int(undoes or 0))
