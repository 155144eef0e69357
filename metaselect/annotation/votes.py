"""The vote file: every answer of every person, one row each; rows are only appended."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

from metaselect.errors import ArtefactError
from metaselect.run.artefacts import VOTES
from metaselect.run.files import naming, sync_folder
from metaselect.run.tables import format_rows
from metaselect.text import quoted

WIDTH = len(VOTES.columns)  # asked once for each of a million rows
DONE = "done"
SKIP = "skip"
UNSURE = "unsure"
BAD_SAMPLE = "bad_sample"
STATUSES = (DONE, SKIP, UNSURE, BAD_SAMPLE)
WITHDRAWN = "withdrawn"
"""Status of a vote that takes the annotator's answer back; written by undo, never read from a form."""

RESTORE_REMEDY = (
    "Restore it from a copy. Or move the folder annotate away, export each round again (metaselect annotate export "
    "--round K -o NEW, and --repeats as before: then the names of its images are known), and import the answers again."
)
"""Remedy where a file of the folder ``annotate`` is damaged."""


class Vote(NamedTuple):
    """One person's answer for one sample; the fields are the columns of ``votes.csv``.

    Attributes:
        sample_id: a pool sample.
        clean_label: a class name; may be empty unless ``status`` is done.
        annotator: who answered.
        status: "done", "skip", "unsure", "bad_sample", or "withdrawn", which takes an answer back.
        note: free text.
        round: the purchase it belongs to; 0 for a label of a sample that was not selected.
        time: when it was imported, ISO 8601, UTC.
    """

    sample_id: str
    clean_label: str
    annotator: str
    status: str
    note: str
    round: int
    time: str

    @property
    def key(self) -> tuple[str, str]:
        """Sample and annotator: of two votes with the same key the later one counts."""
        return self.sample_id, self.annotator

    @property
    def answer(self) -> tuple[str, str]:
        """Status and class name."""
        return self.status, self.clean_label

    def equals_but_for_time(self, earlier: "Vote | None") -> bool:
        """Whether an earlier vote differs in its time at most."""
        return earlier is not None and self[:-1] == earlier[:-1]


def utc_now() -> str:
    """The time, ISO 8601, UTC, as votes and exports record it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sorted_votes(votes: Iterable[Vote]) -> list[Vote]:
    """By sample and annotator."""
    ordered = sorted(votes, key=attrgetter("annotator"))
    ordered.sort(key=attrgetter("sample_id"))  # stable; comparing texts twice is faster than comparing pairs
    return ordered


def read_votes(path: Path) -> tuple[list[Vote], int]:
    """The votes, oldest first, and the byte at which the last complete row ends.

    A torn line at the end is ignored: bytes without a final line end, or a row whose last quote is still open.

    Raises:
        ArtefactError: a complete row, the last one too, is not a vote, or the first is not the header.
    """
    votes: list[Vote] = []
    end = 0
    if not path.is_file():
        return votes, end
    shared: dict[str, str] = {}  # a million votes hold few different labels, names and times
    with path.open("rb") as stream:
        for number, cells, end_of_row in _complete_rows(stream, str(path), 1):
            if number > 1:
                votes.append(_vote(cells, str(path), number, shared))
            elif tuple(cells) != VOTES.columns:
                raise _damaged(str(path), number, "it is not the header of a vote file")
            end = end_of_row
    return votes, end


def parse_votes(rows: bytes, name: str, first: int) -> list[Vote]:
    """The votes in the last rows of a vote file; a torn line at the end is ignored, as by ``read_votes``.

    Args:
        rows: from the beginning of a row on, without the header.
        name: the file, for messages.
        first: number of the first of these rows in the file; the header is row 1.

    Raises:
        ArtefactError: a complete row, the last one too, is not a vote.
    """
    shared: dict[str, str] = {}
    complete = _complete_rows(BytesIO(rows), name, first)
    return [_vote(cells, name, number, shared) for number, cells, _ in complete]


def append_votes(path: Path, votes: Iterable[Vote], end: int) -> bytes:
    """Add votes behind byte ``end``, cutting off a torn line there, and flush all to disk once.

    Returns:
        What was written: the rows, with the header before them where the file was empty.
    """
    text = format_rows(VOTES, votes)
    if end:
        text = text.split("\n", 1)[1]
    written = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), path.open("ab") as stream:
        stream.truncate(end)  # nothing but a torn line can stand behind it
        stream.write(written)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(path.parent)
    return written


def _complete_rows(stream: BinaryIO, name: str, first: int) -> Iterator[tuple[int, list[str], int]]:
    """The number, counted from ``first``, and cells of each complete row, and the byte after it.

    A row is complete where a line end outside quotes ends it, whatever its cells are.

    Raises:
        ArtefactError: a complete line breaks the rules of CSV.
    """
    lines = _CountedLines(stream)
    number = first
    try:
        for cells in csv.reader(lines, strict=True):
            if not lines.complete:
                return
            yield number, cells, lines.position
            number += 1
    except csv.Error:
        if lines.complete and not lines.ended:
            raise _damaged(name, number, "it is not a row of CSV") from None
        # Else the last line has no line end, or the file ends within quotes: the row is torn.


class _CountedLines:
    """The lines of a file as text, with a count of the bytes so far.

    Attributes:
        position: the byte after the last line.
        complete: whether that line ends with a line end.
        ended: whether a line was asked for behind the last one.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.position = 0
        self.complete = True
        self.ended = False

    def __iter__(self) -> "_CountedLines":
        return self

    def __next__(self) -> str:
        line = self.stream.readline()
        if not line:
            self.ended = True
            raise StopIteration
        self.position += len(line)
        self.complete = line.endswith(b"\n")
        return line.decode("utf-8", "replace")  # half a character can only be in a torn line


def _vote(cells: Sequence[str], name: str, row: int, shared: dict[str, str]) -> Vote:
    if len(cells) != WIDTH:
        raise _damaged(name, row, f"it has {len(cells)} cells, a vote has {WIDTH}")
    sample_id, label, annotator, status, note, number, time = cells
    if status not in (*STATUSES, WITHDRAWN) or not number.isdecimal():
        raise _damaged(name, row, f"no vote has status {quoted(status)} and round {quoted(number)}")
    same = shared.setdefault  # equal texts become one object
    return Vote(
        sample_id,
        same(label, label),
        same(annotator, annotator),
        same(status, status),
        same(note, note),
        int(number),
        same(time, time),
    )


def _damaged(name: str, row: int, why: str) -> ArtefactError:
    return ArtefactError(f"Row {row} of {name} is damaged: {why}.", RESTORE_REMEDY)
