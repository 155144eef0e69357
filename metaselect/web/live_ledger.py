"""The ledger of a run, kept in memory: the cost of a change does not depend on the number of votes.

``votes.csv`` is only appended to, so the votes that another command added are its tail, and only the tail is read. The
hash of the votes in memory, updated with the tail, must equal the hash in ``stage.json``: then the bytes before the
tail have not changed. Where the two differ, or where another file changed, everything is read again.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from metaselect.annotation.consensus import MAJORITY, Verdict, aggregate_votes, majority_vote, meta_set_text
from metaselect.annotation.imports import Import, Source, next_import, read_imports, write_imports
from metaselect.annotation.ledger import Ledger, open_ledger, read_ledger
from metaselect.annotation.ledger_record import (
    CONSENSUS,
    EXPORTS,
    IMPORTS,
    META_SET,
    REPEATS,
    STAGE,
    VOTES,
    DerivedContent,
    check_growing_files,
    is_recorded,
)
from metaselect.annotation.repeats import counting_votes
from metaselect.annotation.votes import WITHDRAWN, Vote, append_votes, parse_votes
from metaselect.run.artefacts import RECORD
from metaselect.run.files import Stamp, sha256_of_beginning
from metaselect.run.layout import Run
from metaselect.run.record import StageRecord
from metaselect.web.meta_set_rows import MetaSetRows

FILES = (VOTES, META_SET, IMPORTS, EXPORTS, REPEATS, CONSENSUS, RECORD)
Signature = tuple[int, int, int] | None
"""Inode, size and modification time of a file; None where there is none."""


class NewVotes(NamedTuple):
    """The votes that a ``refresh`` read.

    Attributes:
        votes: oldest first.
        is_all: whether everything was read again, so that these are all votes there are.
    """

    votes: Sequence[Vote]
    is_all: bool


class LiveLedger:
    """The content of the folder ``annotate/``, in memory.

    Attributes:
        count: votes.
        end: byte of ``votes.csv`` behind the last complete vote.
        imports: by number, undos too.
        verdicts: by sample_id, by majority whatever the run's method is. Whether a sample is answered does not depend
            on the method: it is where any vote that counts is an answer.
    """

    def __init__(self, run: Run) -> None:
        """For a run; nothing is read before the first ``refresh``."""
        self.run = run
        self.folder = run.path(STAGE)
        self.count = self.end = 0
        self.imports: tuple[Import, ...] = ()
        self.verdicts: dict[str, Verdict] = {}
        self._signatures: dict[str, Signature] | None = None  # of the files as they were read or written last
        self._record: StageRecord | None = None
        self._may_lack_undo = False
        self._digest = hashlib.sha256()  # of votes.csv up to ``end``

    def refresh(self, *, for_writing: bool) -> NewVotes:
        """Read what other commands wrote since the last call.

        Args:
            for_writing: complete an undo that was cut short; the caller holds the run's lock.

        Raises:
            ArtefactError: a file was changed by anything but MetaSelect.
        """
        signatures = {name: _signature(self.folder / name) for name in FILES}
        if self._signatures is not None and not (for_writing and self._may_lack_undo):
            if signatures == self._signatures:
                if self._record is not None:
                    check_growing_files(self.folder, self._record)  # the lists of batches too
                return NewVotes((), is_all=False)
            added = self._read_appended(signatures)
            if added is not None:
                return NewVotes(added, is_all=False)
        ledger = open_ledger(self.run) if for_writing else read_ledger(self.run)
        if for_writing:  # an undo may have been completed
            signatures = {name: _signature(self.folder / name) for name in FILES}
        self._load(ledger, signatures)
        now = _signature(self.folder / VOTES)
        before = signatures[VOTES]
        if (
            now and before and now[0] != before[0]
        ):  # votes.csv was replaced meanwhile: its hash is not of these votes
            self._signatures = None
        self._may_lack_undo = not for_writing and bool(ledger.imports and ledger.imports[-1].undoes)
        return NewVotes(ledger.votes, is_all=True)

    def latest(self, sample_id: str, annotator: str) -> Vote | None:
        """The vote of an annotator that counts for a sample."""
        votes = self._votes_of.get(sample_id, ())
        return next((vote for vote in votes if vote.annotator == annotator), None)

    def sample_of(self, shown_id: str) -> str:
        """The sample that a form shows under an id: that of a blind repeat, or the id itself."""
        return self._sample_of_repeat.get(shown_id, shown_id)

    def append(self, vote: Vote, source: Source) -> None:
        """Write a vote to disk; votes of one source without another import between them are one import.

        The caller holds the run's lock, and drops this object if it fails.
        """
        if not self.imports or not self.imports[-1].has_source(source):
            imports = (*self.imports, next_import(self.imports, source, self.count))
            write_imports(self.folder / IMPORTS, imports)
            self.imports = imports
        written = append_votes(self.folder / VOTES, [vote], self.end)
        self._digest.update(written)
        self.end += len(written)
        self._add(vote)
        self._note_signatures()

    def snapshot(self) -> Callable[[], DerivedContent]:
        """A function that returns the content of ``meta_set.csv`` and ``stage.json`` for the votes so far.

        Votes that are added later do not change its result. Calling it may take long, and needs no lock.
        """
        rounds = sorted(self._rounds - {0})
        mtime_ns = (self.folder / VOTES).stat().st_mtime_ns
        stamp = Stamp(self._digest.hexdigest(), self.end, mtime_ns)
        if self._method == MAJORITY:
            content = DerivedContent(self.count, rounds, self._rows.parts(), stamp)
            return lambda: content
        shown = {vote.key: vote for votes in self._votes_of.values() for vote in votes}
        latest = counting_votes(shown, self._sample_of_repeat)
        return partial(_aggregated, latest, self._method, DerivedContent(self.count, rounds, (), stamp))

    def note_recorded(self) -> None:
        """Note that the files are as in memory; the caller holds the run's lock, and has just written them."""
        self._note_signatures()
        self._record = self.run.stage(STAGE).record()

    def _read_appended(self, signatures: dict[str, Signature]) -> list[Vote] | None:
        """The votes after those in memory; None where more than the tail of ``votes.csv`` has to be read."""
        before = self._signatures or {}
        record = self.run.stage(STAGE).record()
        if record is None or not self.end or not is_recorded(self.folder, record):
            return None
        if any(signatures[name] != before[name] for name in (REPEATS, CONSENSUS)):
            return None
        expected = record.outputs.get(VOTES)
        if expected is None or expected.size < self.end:
            return None
        with (self.folder / VOTES).open("rb") as stream:
            stream.seek(self.end)
            tail = stream.read(expected.size - self.end)
        digest = self._digest.copy()
        digest.update(tail)
        if digest.hexdigest() != expected.sha256:
            return None
        added = parse_votes(tail, str(self.folder / VOTES), self.count + 2)  # row 1 is the header
        self.imports = read_imports(self.folder / IMPORTS)
        self._digest, self.end = digest, expected.size
        self._record, self._signatures = record, signatures
        for vote in added:
            self._add(vote)
        return added

    def _load(self, ledger: Ledger, signatures: dict[str, Signature]) -> None:
        self.count, self.end, self.imports = len(ledger.votes), ledger.end, ledger.imports
        self._method, self._sample_of_repeat = ledger.method, ledger.sample_of_repeat
        self._repeats_of: dict[str, list[str]] = {}
        for repeat_id, sample_id in sorted(self._sample_of_repeat.items()):
            self._repeats_of.setdefault(sample_id, []).append(repeat_id)
        path = self.folder / VOTES
        self._digest = sha256_of_beginning(path, self.end) if self.end else hashlib.sha256()
        self._rounds = {vote.round for vote in ledger.votes}
        self._votes_of: dict[str, tuple[Vote, ...]] = {}  # by the id that the form showed; those that count
        for (sample_id, _), vote in ledger.latest_with_repeats.items():
            self._votes_of[sample_id] = (*self._votes_of.get(sample_id, ()), vote)
        is_majority = ledger.method == MAJORITY
        self.verdicts = dict(ledger.verdicts) if is_majority else aggregate_votes(ledger.latest, MAJORITY)
        self._rows = MetaSetRows(self.verdicts)
        self._record, self._signatures = self.run.stage(STAGE).record(), signatures

    def _add(self, vote: Vote) -> None:
        """Update the content in memory for one more vote in ``votes.csv``."""
        self.count += 1
        self._rounds.add(vote.round)
        sample_id = vote.sample_id
        votes = tuple(each for each in self._votes_of.get(sample_id, ()) if each.annotator != vote.annotator)
        if vote.status != WITHDRAWN:
            votes = (*votes, vote)
        if votes:
            self._votes_of[sample_id] = votes
        else:
            self._votes_of.pop(sample_id, None)
        sample_id = self.sample_of(sample_id)
        counting = self._counting_votes(sample_id)
        verdict = majority_vote(counting) if counting else None
        if verdict is not None:
            self.verdicts[sample_id] = verdict
        else:
            self.verdicts.pop(sample_id, None)
        self._rows.set(sample_id, verdict)

    def _counting_votes(self, sample_id: str) -> Sequence[Vote]:
        """The votes that count for a sample."""
        shown = (sample_id, *self._repeats_of.get(sample_id, ()))
        latest = {(each, vote.annotator): vote for each in shown for vote in self._votes_of.get(each, ())}
        return [*counting_votes(latest, self._sample_of_repeat).values()]

    def _note_signatures(self) -> None:
        self._signatures = {name: _signature(self.folder / name) for name in FILES}


def _aggregated(latest: dict[tuple[str, str], Vote], method: str, content: DerivedContent) -> DerivedContent:
    text = meta_set_text(aggregate_votes(latest, method))
    return replace(content, meta_set=[text.encode()])


def _signature(path: Path) -> Signature:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
