"""The folder ``annotate/`` as a whole: votes, what follows from them, and the record that protects them.

Unlike other stages this one is never made anew; it only grows. ``votes.csv`` is the truth; ``meta_set.csv``
and ``stage.json`` follow from it. So a crash at any point is mended by the next command that writes here:
what was recorded must still be the beginning of the vote file; what is behind it was not recorded yet.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from metaselect.annotation.consensus import Verdict, latest_votes, meta_set_text, verdicts
from metaselect.annotation.exports import (
    BATCHES,
    EXPORTS,
    RESTORE,
    Export,
    Sent,
    batch_path,
    freeze_batch,
    read_batch,
    read_exports,
    write_exports,
)
from metaselect.annotation.votes import Vote, append_votes, read_votes
from metaselect.errors import ArtefactError
from metaselect.run import Run, StageRecord
from metaselect.run.files import Stamp, format_csv, matches, write_text
from metaselect.run.key import StageKey
from metaselect.run.stage import inputs_of, write_record

STAGE = "annotate"
VOTES = "votes.csv"
META_SET = "meta_set.csv"
POOL_INPUTS = ("data/samples.parquet", "data/classes.json")


@dataclass(frozen=True)
class Ledger:
    """What ``annotate/`` holds.

    Attributes:
        votes: oldest first.
        end: byte of ``votes.csv`` behind the last whole vote.
        exports: every form that was made, oldest first.
    """

    votes: tuple[Vote, ...]
    end: int
    exports: tuple[Export, ...]

    @cached_property
    def latest(self) -> dict[tuple[str, str], Vote]:
        """The vote that counts, by (sample_id, annotator)."""
        return latest_votes(self.votes)

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """By sample_id, in its order."""
        return verdicts(self.latest)

    @property
    def exported(self) -> frozenset[int]:
        """Rounds that went out to people."""
        return frozenset(each.round for each in self.exports)


def read(run: Run) -> Ledger:
    """What is there; changes nothing.

    Raises:
        ArtefactError: a file was changed by anything but MetaSelect.
    """
    folder = run.path(STAGE)
    record = run.stage(STAGE).record()
    if record is not None:
        for name in record.outputs:
            if name in (VOTES, EXPORTS) or name.startswith(f"{BATCHES}/"):
                _check_beginning(folder, name, record)
    votes, end = read_votes(folder / VOTES)
    book = Ledger(tuple(votes), end, read_exports(folder / EXPORTS))
    if record is not None:
        _check_meta_set(folder / META_SET, record, book)
    return book


def add_votes(run: Run, book: Ledger, votes: Iterable[Vote]) -> Ledger:
    """Append votes, derive the meta set and record both; without new votes only mends what a crash left."""
    added = tuple(votes)
    if added:
        path = run.path(f"{STAGE}/{VOTES}")
        append_votes(path, added, book.end)
        book = Ledger((*book.votes, *added), path.stat().st_size, book.exports)
    _seal(run, book)
    return book


def add_export(run: Run, book: Ledger, export: Export, samples: Sequence[Sent]) -> None:
    """Remember that a round went out to people; ``samples`` is all of it, which the first export freezes."""
    folder = run.path(STAGE)
    freeze_batch(folder, export.batch_id, samples)
    if not any(export.repeats(earlier) for earlier in book.exports):
        book = Ledger(book.votes, book.end, (*book.exports, export))
        write_exports(folder / EXPORTS, book.exports)
    _seal(run, book)


def sent_samples(run: Run, book: Ledger) -> list[Sent]:
    """Every sample that ever went out, as it did then, the earliest batch first.

    Raises:
        ArtefactError: the list of a batch is damaged.
    """
    batches = dict.fromkeys(each.batch_id for each in book.exports)
    return [sent for batch_id in batches for sent in read_batch(run.path(STAGE), batch_id)]


def forget_round(run: Run, number: int) -> int:
    """Remove a round's votes and exports, for `select --discard-round`; returns how many votes went.

    The caller holds the run's lock. After a crash in between, the same call goes on.
    """
    book = read(run)
    folder = run.path(STAGE)
    kept = tuple(vote for vote in book.votes if vote.round != number)
    exports = tuple(each for each in book.exports if each.round != number)
    if kept == book.votes and exports == book.exports:
        return 0
    # Without the record the files are taken as they are, so a crash below leaves nothing that looks damaged.
    for name in ("stage.json", META_SET):
        (folder / name).unlink(missing_ok=True)
    write_exports(folder / EXPORTS, exports)
    for batch_id in {each.batch_id for each in book.exports} - {each.batch_id for each in exports}:
        batch_path(folder, batch_id).unlink(missing_ok=True)
    if kept:
        write_text(folder / VOTES, format_csv(Vote._fields, kept))
        _seal(run, read(run))
    else:
        (folder / VOTES).unlink(missing_ok=True)
    return len(book.votes) - len(kept)


def _seal(run: Run, book: Ledger) -> None:
    """Make ``meta_set.csv`` and ``stage.json`` follow from the votes; writes only what differs."""
    if not book.votes:
        return
    folder = run.path(STAGE)
    if (folder / VOTES).stat().st_size > book.end:
        append_votes(folder / VOTES, (), book.end)  # a torn line must not be recorded
    text = meta_set_text(book.verdicts)
    path = folder / META_SET
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    used = sorted({vote.round for vote in book.votes} - {0})
    selected = [f"select/round-{number}/selected.csv" for number in used]
    # A round that is answered stays, whatever the answers do to what it was chosen from.
    key = StageKey({}, inputs_of(run, *POOL_INPUTS, *selected, stale_ok=True))
    record = run.stage(STAGE).record()
    if record is None or record.key != key or not _is_recorded(folder, record):
        for stray in folder.rglob(".*.tmp"):  # of a killed command; a record must not name it
            stray.unlink()
        write_record(folder, key, {"votes": len(book.votes)})


def _is_recorded(folder: Path, record: StageRecord) -> bool:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = {*found} - {"stage.json"}
    return names == set(record.outputs) and all(
        matches(folder / name, expected) for name, expected in record.outputs.items()
    )


def _check_beginning(folder: Path, name: str, record: StageRecord) -> None:
    path, expected = folder / name, record.outputs[name]
    if not path.is_file():
        raise ArtefactError(f"{path} is missing.", RESTORE)
    if not _begins_with(path, expected):
        raise ArtefactError(f"{path} is damaged: recorded rows were changed or removed.", RESTORE)


def _begins_with(path: Path, expected: Stamp) -> bool:
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) == (expected.size, expected.mtime_ns):
        return True
    if status.st_size < expected.size:
        return False
    digest = hashlib.sha256()
    left = expected.size
    with path.open("rb") as stream:
        while left:
            block = stream.read(min(left, 1 << 20))
            digest.update(block)
            left -= len(block)
    return digest.hexdigest() == expected.sha256


def _check_meta_set(path: Path, record: StageRecord, book: Ledger) -> None:
    """Accept what was recorded, what follows from the votes (a crash came before the record), or nothing."""
    expected = record.outputs.get(path.name)
    if expected is None or not path.is_file() or matches(path, expected):
        return
    if path.read_bytes() != meta_set_text(book.verdicts).encode():
        raise ArtefactError(
            f"{path} is damaged: it does not follow from votes.csv.",
            f"Delete {path.name}; the next metaselect annotate import writes it from the votes.",
        )
