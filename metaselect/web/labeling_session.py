"""Assigns the samples of one round to browsers and stores their answers.

Each browser has one sample at a time. An answer is on disk before the next sample is shown.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice

from metaselect.annotation.imports import Source
from metaselect.annotation.ledger_record import POOL_INPUTS, write_derived
from metaselect.annotation.rounds import Round, batch_name
from metaselect.annotation.votes import WITHDRAWN, Vote, utc_now
from metaselect.errors import ArtefactError
from metaselect.records import Json
from metaselect.run.artefacts import SELECTED
from metaselect.run.inputs import inputs_of
from metaselect.run.layout import Run
from metaselect.run.stage_names import stage_of
from metaselect.web.leases import Leases
from metaselect.web.live_ledger import LiveLedger
from metaselect.web.round_progress import RoundProgress
from metaselect.web.submitted_answer import InvalidRequest, SubmittedAnswer, valid_annotator

FORMAT = "serve"
ANSWERED_ELSEWHERE = "That sample was answered elsewhere meanwhile, so this answer was not taken."


class LabelingSession:
    """The samples of one round between the votes on disk and the browsers of one or a few people.

    A vote is on disk, flushed, before ``answer`` returns. What follows from it, ``meta_set.csv`` and ``stage.json``, is
    written by a thread of this session right after; the run stays locked until then. All methods may be called from
    several threads. Other commands may write votes while the run is not locked: each call first reads what they added.

    Attributes:
        current_round: the round whose samples are labelled.
        ids: its samples, by rank; a position among them is a sample's key.
        answers_taken: votes that this session wrote, without undos.
    """

    def __init__(
        self,
        run: Run,
        current_round: Round,
        classes: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run, self.current_round, self.classes = run, current_round, classes
        self.ids = list(current_round.samples)
        self.pool = inputs_of(run, *POOL_INPUTS)
        self.source = Source(utc_now(), FORMAT, "", FORMAT)
        self.answers_taken = 0
        self._leases = Leases(clock)
        self._progress = RoundProgress(current_round)
        # Held to read or change answers_taken, the leases, the progress and what is below; only the recorder's future
        # is read without it, by wait_until_recorded.
        self._mutex = threading.Lock()
        self._ledger: LiveLedger | None = None  # None: not read yet, or no longer known to be what is on disk
        # One thread takes the run's lock, writes the record and gives the lock back: a file lock belongs to a thread.
        self._recorder = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._run_lock = ExitStack()
        self._unrecorded = (
            False  # votes are on disk that stage.json does not know yet; then the run is locked
        )
        self._recording: Future[None] | None = None

    def next(self, browser: str) -> dict[str, Json]:
        """What the browser should show: the sample it has already, else the first that no other browser shows."""
        with self._mutex:
            self._refresh(for_writing=False)
            return self._state(browser)

    def missing(self) -> int:
        """Samples that nobody has answered."""
        with self._mutex:
            self._refresh(for_writing=False)
            return self._progress.is_open.count(1)

    def release(self, browser: str) -> None:
        """Give the browser's sample to others."""
        with self._mutex:
            self._leases.release(browser)

    def answer(self, browser: str, annotator: str, answer: SubmittedAnswer) -> dict[str, Json]:
        """Write a vote, then say what comes next.

        A second, different answer of the same annotator for a sample of this round is refused, unless it says that it
        replaces the first one: else it comes from another tab or another command.

        Raises:
            InvalidRequest: no such sample, status or class, or no name.
            ArtefactError: another command is working in the run, or the round is no longer what it was.
        """
        vote = self._vote(annotator, answer)
        with self._writing() as ledger:
            earlier = ledger.latest(vote.sample_id, vote.annotator)
            known = earlier.answer if earlier and earlier.round == self.current_round.number else None
            if known not in (None, vote.answer, answer.replaces):
                return {**self._state(browser, message=ANSWERED_ELSEWHERE), "refused": True}
            if known != vote.answer:
                self._append(vote)
                self.answers_taken += 1
            self._leases.release(browser)
            return self._state(browser)

    def undo(self, browser: str, annotator: str) -> dict[str, Json]:
        """Take the annotator's last answer of this round back, by one more vote, and show that sample again.

        Raises:
            InvalidRequest: no name.
            ArtefactError: as ``answer``.
        """
        name = valid_annotator(annotator)
        with self._writing() as ledger:
            last = self._progress.last_vote(ledger, name)
            if last is None:
                return self._state(browser, message="There is nothing to undo.")
            self._append(last._replace(clean_label="", status=WITHDRAWN, note="", time=utc_now()))
            self._leases.release(browser)
            message = f"Taken back: {last.clean_label or last.status}. Answer again."
            return self._state(browser, message=message, again=self._progress.keys[last.sample_id])

    def answered(self, annotator: str) -> list[dict[str, Json]]:
        """The annotator's answers in this round, the last first: ``key``, ``id``, ``status`` and ``label`` of each.

        Raises:
            InvalidRequest: no name.
        """
        name = valid_annotator(annotator)
        with self._mutex:
            votes = self._progress.votes_of(self._refresh(for_writing=False), name)
            return [self._shown(vote) for vote in votes]

    def revisit(self, browser: str, annotator: str, key: object) -> dict[str, Json]:
        """Show a sample again that the annotator answered; the answer stands until another one replaces it.

        Raises:
            InvalidRequest: no name, or no such sample.
        """
        name, sample_id = valid_annotator(annotator), self.sample_id(key)
        with self._mutex:
            vote = self._refresh(for_writing=False).latest(sample_id, name)
            if vote is None or vote.round != self.current_round.number:
                return self._state(browser, message="You have no answer for that sample any more.")
            self._leases.release(browser)
            state = self._state(browser, again=self._progress.keys[sample_id])
            return {**state, "earlier": self._shown(vote)}

    def upcoming(self, count: int) -> list[int]:
        """The keys of the next open samples that no browser shows, at most ``count``."""
        with self._mutex:
            return [*islice(self._leases.free(self._progress.is_open), count)]

    def wait_until_recorded(self) -> None:
        """Wait for ``meta_set.csv`` and ``stage.json`` of the votes so far; then the run is not locked any more.

        Raises:
            OSError: they could not be written. The votes are in ``votes.csv``; the next command that writes there, or
                the next answer, writes what follows from them.
        """
        if self._recording is not None:
            self._recording.result()

    def close(self) -> None:
        """Wait as ``wait_until_recorded`` does, and end the session's thread.

        Raises:
            OSError: as there.
        """
        try:
            self.wait_until_recorded()
        finally:
            self._recorder.shutdown()

    def sample_id(self, key: object) -> str:
        """The sample at a position of the round.

        Raises:
            InvalidRequest: no such position.
        """
        # bool is an int to Python
        if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key < len(self.ids):
            raise InvalidRequest("There is no such sample.")
        return self.ids[key]

    def _vote(self, annotator: str, answer: SubmittedAnswer) -> Vote:
        sample_id, name = self.sample_id(answer.key), valid_annotator(annotator)
        label = answer.class_name(self.classes)
        return Vote(sample_id, label, name, answer.status, "", self.current_round.number, utc_now())

    def _shown(self, vote: Vote) -> dict[str, Json]:
        key = self._progress.keys[vote.sample_id]
        return {"key": key, "id": vote.sample_id, "status": vote.status, "label": vote.clean_label}

    @contextmanager
    def _writing(self) -> Iterator[LiveLedger]:
        """The run locked, and its votes as they are on disk; unlocks it, unless a vote was written."""
        with self._mutex:
            if not self._unrecorded:
                self._recorder.submit(self._run_lock.enter_context, self.run.lock()).result()
            try:
                self._require_same_round()
                yield self._refresh(for_writing=True)
            finally:
                if not self._unrecorded:
                    self._recorder.submit(self._run_lock.close).result()

    def _require_same_round(self) -> None:
        """Make sure that the votes still are about what the browsers show."""
        number = self.current_round.number
        path = SELECTED.path(number=number)
        stage = self.run.stage(stage_of(path))
        same = stage.record() is not None and inputs_of(self.run, *self.pool) == self.pool
        if same:
            digest = stage.verified(path)
            same = batch_name(number, digest) == self.current_round.batch_id
        if not same:
            raise ArtefactError(
                f"Round {number} was selected again, or the data ingested again. The answer was not taken.",
                f"Stop this command and start it again: metaselect annotate serve {self.run.flag}",
            )

    def _refresh(self, *, for_writing: bool) -> LiveLedger:
        """The votes as they are on disk. While votes of this session are unrecorded, no other command writes."""
        if self._ledger is not None and self._unrecorded:
            return self._ledger
        ledger = self._ledger or LiveLedger(self.run)
        self._ledger = None  # should reading fail halfway
        new = ledger.refresh(for_writing=for_writing)
        if new.is_all:
            self._progress.restart(ledger)
        for vote in new.votes:
            self._progress.follow(ledger, vote)
        self._ledger = ledger
        if for_writing and new.is_all and ledger.count:
            self._start_recording()  # a command that was killed may have left votes without a record
        return ledger

    def _append(self, vote: Vote) -> None:
        """Write a vote, and let the recorder write what follows from it; the run is locked."""
        assert self._ledger is not None
        try:
            self._ledger.append(vote, self.source)
        except BaseException:
            self._ledger = None
            raise
        self._progress.follow(self._ledger, vote)
        self._start_recording()

    def _start_recording(self) -> None:
        if not self._unrecorded:
            self._unrecorded = True
            self._recording = self._recorder.submit(self._record)

    def _record(self) -> None:
        """Write ``meta_set.csv`` and ``stage.json`` until they are of all votes, then unlock the run."""
        try:
            while True:
                with self._mutex:
                    ledger = self._refresh(for_writing=True)
                    count, content = ledger.count, ledger.snapshot()
                write_derived(self.run, content())
                with self._mutex:
                    if self._ledger is ledger and ledger.count == count:
                        ledger.note_recorded()
                        self._unrecorded = False
                        self._run_lock.close()
                        return
        except BaseException:
            with self._mutex:
                self._ledger, self._unrecorded = None, False
                self._run_lock.close()
            raise

    def _state(self, browser: str, *, message: str = "", again: int | None = None) -> dict[str, Json]:
        """What the page shows: sample ``again``, whoever else answered it, or the browser's own, or the next."""
        self._leases.expire()
        own = (key for key in self._leases.held_by(browser) if self._progress.is_open[key])
        key = again if again is not None else min(own, default=None)
        if key is None:
            key = next(self._leases.free(self._progress.is_open), None)
        item: dict[str, Json] | None = None
        if key is not None:
            self._leases.take(browser, key)
            item = {"key": key, "id": self.ids[key]}
        missing = self._progress.is_open.count(1)
        return {
            "item": item,
            "said": message,
            "total": len(self.ids),
            "done": len(self.ids) - missing,
            "waiting": 0 if item else missing,
        }
