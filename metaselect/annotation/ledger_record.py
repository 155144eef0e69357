"""What protects ``annotate/``: ``meta_set.csv`` and ``stage.json``, written from the votes and checked against them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metaselect.annotation.votes import RESTORE_REMEDY
from metaselect.errors import ArtefactError
from metaselect.run import artefacts
from metaselect.run.files import Stamp, begins_with, matches, write_atomically
from metaselect.run.inputs import inputs_of
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import StageRecord, write_record

STAGE = artefacts.ANNOTATE.name()
VOTES = artefacts.VOTES.within()
META_SET = artefacts.META_SET.within()
EXPORTS = artefacts.EXPORTS.within()
IMPORTS = artefacts.IMPORTS.within()
CONSENSUS = artefacts.CONSENSUS.within()
REPEATS = artefacts.REPEATS.within()
BATCHES = artefacts.BATCH.within(batch_id="").rpartition("/")[0]
GROWING = (VOTES, EXPORTS, IMPORTS, REPEATS)  # files that only grow: recorded bytes stay
POOL_INPUTS = (artefacts.SAMPLES.path(), artefacts.CLASSES.path())


class InterruptedImport(ArtefactError):
    """Votes are stored that ``meta_set.csv`` does not count."""


@dataclass(frozen=True)
class DerivedContent:
    """What follows from the votes.

    Attributes:
        votes: rows of ``votes.csv``.
        rounds: numbers of the rounds that they belong to, sorted, without 0.
        meta_set: the bytes of ``meta_set.csv``, in parts.
        votes_stamp: of ``votes.csv``; None: it is hashed.
    """

    votes: int
    rounds: Sequence[int]
    meta_set: Sequence[bytes]
    votes_stamp: Stamp | None = None


def write_derived(run: Run, content: DerivedContent) -> None:
    """Write ``meta_set.csv`` and ``stage.json``, each only where it differs."""
    folder = run.path(STAGE)
    record = run.stage(STAGE).record()
    recorded = record.outputs if record is not None else {}
    known = {META_SET: _write_meta_set(folder / META_SET, content.meta_set, recorded.get(META_SET))}
    if content.votes_stamp is not None:
        known[VOTES] = content.votes_stamp
    selected = [artefacts.SELECTED.path(number=number) for number in content.rounds]
    # A round that is answered stays, whatever the answers do to what it was chosen from.
    key = StageKey({}, inputs_of(run, *POOL_INPUTS, *selected, stale_ok=True))
    if record is not None and record.key == key and is_recorded(folder, record):
        return
    for stray in folder.rglob(".*.tmp"):  # of a killed command; a record must not name it
        stray.unlink()
    for name, stamp in recorded.items():
        if name not in known and _looks_unchanged(folder / name, stamp):
            known[name] = stamp
    write_record(folder, key, {"votes": content.votes}, known=known)


def is_recorded(folder: Path, record: StageRecord) -> bool:
    """Whether ``annotate/`` holds exactly the recorded files, with the recorded bytes."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return names == {*record.outputs, artefacts.RECORD} and all(
        matches(folder / name, expected) for name, expected in record.outputs.items()
    )


def require_recorded(run: Run) -> None:
    """Make sure that ``meta_set.csv`` follows from every stored vote, before a command reads it.

    Raises:
        InterruptedImport: a crash came between the votes and what follows from them.
        ArtefactError: a file was changed by anything but MetaSelect.
    """
    folder, record = run.path(STAGE), run.stage(STAGE).record()
    if record is None:
        complete = not (folder / VOTES).is_file()
    else:
        check_growing_files(folder, record)
        stamps = {folder / name: record.outputs.get(name) for name in (VOTES, IMPORTS, CONSENSUS)}
        complete = all(matches(path, stamp) if stamp else not path.exists() for path, stamp in stamps.items())
    if not complete:
        raise InterruptedImport(
            f"{folder / VOTES} has answers that {META_SET} does not count yet: the command that stored them was "
            "interrupted.",
            f"Repeat it, or count what is stored: metaselect annotate consensus {run.flag}",
        )


def check_growing_files(folder: Path, record: StageRecord) -> None:
    """Make sure that what is recorded of the files that only grow is still their beginning.

    Raises:
        ArtefactError: a recorded row was changed or removed.
    """
    for name, expected in record.outputs.items():
        if name not in GROWING and not name.startswith(f"{BATCHES}/"):
            continue
        path = folder / name
        if not path.is_file():
            raise ArtefactError(f"{path} is missing.", RESTORE_REMEDY)
        if not begins_with(path, expected):
            raise ArtefactError(f"{path} is damaged: recorded rows were changed or removed.", RESTORE_REMEDY)


def check_meta_set(path: Path, record: StageRecord, text: Callable[[], str]) -> None:
    """Accept what was recorded, what follows from the votes (a crash came before the record), or no file.

    Args:
        path: of ``meta_set.csv``.
        record: of the stage.
        text: gives what follows from the votes; called only where the file is not the recorded one.

    Raises:
        ArtefactError: it is neither.
    """
    expected = record.outputs.get(path.name)
    if expected is None or not path.is_file() or matches(path, expected):
        return
    if path.read_bytes() != text().encode():
        raise ArtefactError(
            f"{path} is damaged: it does not follow from {VOTES}.",
            f"Delete {path.name}; the next metaselect annotate import writes it from the votes.",
        )


def _write_meta_set(path: Path, parts: Sequence[bytes], recorded: Stamp | None) -> Stamp:
    """Write the parts unless the file holds them already; returns its stamp."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    wanted = Stamp(digest.hexdigest(), sum(map(len, parts)), mtime_ns=-1)
    if recorded is not None and recorded.sha256 == wanted.sha256:
        wanted = recorded  # its time says whether the file must be hashed to know it again
    if not path.is_file() or not matches(path, wanted):

        def write(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                stream.writelines(parts)

        write_atomically(path, write)
    return replace(wanted, mtime_ns=path.stat().st_mtime_ns)


def _looks_unchanged(path: Path, stamp: Stamp) -> bool:
    """Whether size and time are the recorded ones, so that the recorded hash stays; `verify` hashes all."""
    status = path.stat() if path.is_file() else None
    return status is not None and (status.st_size, status.st_mtime_ns) == (stamp.size, stamp.mtime_ns)
