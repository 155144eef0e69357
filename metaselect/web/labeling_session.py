"""Hands out the samples of one round, one to each screen, and takes every answer to disk before the next."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metaselect.annotation.imports import Source
from metaselect.annotation.ledger import Ledger, add_votes, open_ledger, read_ledger
from metaselect.annotation.ledger_record import POOL_INPUTS
from metaselect.annotation.rounds import Round, find_rounds
from metaselect.annotation.votes import DONE, STATUSES, WITHDRAWN, Vote, utc_now
from metaselect.errors import ArtefactError, UsageError
from metaselect.records import Json
from metaselect.run.inputs import inputs_of
from metaselect.run.layout import Run

FORMAT = "serve"
LEASE_SECONDS = 600.0  # a screen that says nothing for so long has been left
LONGEST_NAME = 100
ANSWERED_ELSEWHERE = "That sample was answered elsewhere meanwhile, so this answer was not taken."


class InvalidRequest(Exception):
    """A request that no page of ours makes; nothing was written."""


@dataclass(frozen=True)
class SubmittedAnswer:
    """One answer as a screen sends it.

    Attributes:
        key: the sample's position in the round.
        status: "done", "skip", "unsure" or "bad_sample".
        label: position of the class; None unless the status is done.
    """

    key: int
    status: str
    label: int | None


class LabelingSession:
    """The samples of one round between the votes on disk and the screens of one or a few people.

    Nothing but the leases is held in memory: what is open follows from the votes each time, so that a new desk
    goes on where the last one was, and other commands may write votes meanwhile.
    """

    def __init__(
        self, run: Run, chosen: Round, classes: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.run, self.chosen, self.classes, self.clock = run, chosen, classes, clock
        self.ids = list(chosen.samples)
        self.keys = {sample_id: key for key, sample_id in enumerate(self.ids)}
        self.pool = inputs_of(run, *POOL_INPUTS)
        self.source = Source(utc_now(), FORMAT, "", FORMAT)
        self.taken = 0  # answers, by this desk
        self._leases: dict[int, tuple[str, float]] = {}  # key -> (session, until when)

    def next(self, session: str) -> dict[str, Json]:
        """What the session should look at: the sample it has already, else the first that nobody looks at."""
        return self._state(session, read_ledger(self.run))

    def release(self, session: str) -> None:
        """Give the session's sample to others."""
        self._leases = {key: lease for key, lease in self._leases.items() if lease[0] != session}

    def answer(self, session: str, annotator: str, given: SubmittedAnswer) -> dict[str, Json]:
        """Write a vote, then say what comes next.

        Raises:
            InvalidRequest: no such sample, status or class, or no name.
            ArtefactError: another command is working in the run, or the round is no longer what it was.
        """
        vote = self._vote(annotator, given)
        with self.run.lock():
            ledger = self._read_ledger()
            earlier = ledger.latest.get(vote.key)
            answered = earlier is not None and earlier.round == self.chosen.number
            if answered and not vote.equals_but_for_time(earlier):
                return {**self._state(session, ledger, said=ANSWERED_ELSEWHERE), "refused": True}
            if not answered:
                ledger = self._add(ledger, vote)
                self.taken += 1
        self.release(session)
        return self._state(session, ledger)

    def undo(self, session: str, annotator: str) -> dict[str, Json]:
        """Take the annotator's last answer of this round back, by one more vote, and show that sample again.

        Raises:
            InvalidRequest: no name.
            ArtefactError: as ``answer``.
        """
        name = valid_annotator(annotator)
        with self.run.lock():
            ledger = self._read_ledger()
            last = next(
                (vote for vote in reversed(ledger.votes) if self._can_be_undone(vote, name, ledger)), None
            )
            if last is None:
                return self._state(session, ledger, said="There is nothing to undo.")
            ledger = self._add(
                ledger, last._replace(clean_label="", status=WITHDRAWN, note="", time=utc_now())
            )
        self.release(session)
        said = f"Taken back: {last.clean_label or last.status}. Answer again."
        return self._state(session, ledger, said=said, again=self.keys[last.sample_id])

    def open_keys(self, ledger: Ledger) -> list[int]:
        """Positions of the samples that nobody has answered, by rank."""
        return [self.keys[sample_id] for sample_id in self.chosen.unanswered_ids(ledger.verdicts)]

    def sample_id(self, key: object) -> str:
        """The sample at a position of the round.

        Raises:
            InvalidRequest: no such position.
        """
        # bool is an int to Python
        if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key < len(self.ids):
            raise InvalidRequest("There is no such sample.")
        return self.ids[key]

    def _vote(self, annotator: str, given: SubmittedAnswer) -> Vote:
        sample_id, name = self.sample_id(given.key), valid_annotator(annotator)
        label = ""
        if given.status not in STATUSES:
            raise InvalidRequest("There is no such status.")
        if given.status == DONE:
            known = isinstance(given.label, int) and not isinstance(given.label, bool)
            if not known or not 0 <= (given.label or 0) < len(self.classes):
                raise InvalidRequest("There is no such class.")
            label = self.classes[given.label or 0]
        return Vote(sample_id, label, name, given.status, "", self.chosen.number, utc_now())

    def _read_ledger(self) -> Ledger:
        """The votes, after making sure that they still are about what is on the screens."""
        try:
            (found,) = find_rounds(self.run, self.chosen.number)
            same = found.batch_id == self.chosen.batch_id and inputs_of(self.run, *self.pool) == self.pool
        except UsageError:
            same = False
        if not same:
            raise ArtefactError(
                f"Round {self.chosen.number} was chosen anew, or its data was, so the answer was not taken.",
                f"End this and start it again: metaselect annotate serve {self.run.flag}",
            )
        return open_ledger(self.run)

    def _add(self, ledger: Ledger, vote: Vote) -> Ledger:
        """Write a vote; all that come without another import between them are one import."""
        goes_on = bool(ledger.imports) and ledger.imports[-1].has_source(self.source)
        return add_votes(self.run, ledger, [vote], None if goes_on else self.source)

    def _can_be_undone(self, vote: Vote, annotator: str, ledger: Ledger) -> bool:
        return (
            vote.annotator == annotator
            and vote.round == self.chosen.number
            and ledger.latest.get(vote.key) is vote
            and vote.sample_id in self.keys
        )

    def _state(
        self, session: str, ledger: Ledger, *, said: str = "", again: int | None = None
    ) -> dict[str, Json]:
        """What the page shows: sample ``again``, whoever else answered it, or the session's own, or the next."""
        open_keys = self.open_keys(ledger)
        moment = self.clock()
        self._leases = {key: lease for key, lease in self._leases.items() if lease[1] > moment}
        own = [key for key in open_keys if key in self._leases and self._leases[key][0] == session]
        free = [key for key in open_keys if key not in self._leases]
        item: dict[str, Json] | None = None
        if again is not None or own or free:
            key = again if again is not None else (own or free)[0]
            self._lease(session, key)
            item = {"key": key, "id": self.ids[key]}
        return {
            "item": item,
            "said": said,
            "total": len(self.ids),
            "done": len(self.ids) - len(open_keys),
            "waiting": 0 if item else len(open_keys),
        }

    def _lease(self, session: str, key: int) -> None:
        self._leases[key] = (session, self.clock() + LEASE_SECONDS)


def valid_annotator(annotator: str) -> str:
    """The name as it stands in votes.

    Raises:
        InvalidRequest: blank, too long, or with characters that cannot be seen.
    """
    name = annotator.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(f"Answers need a name of 1 to {LONGEST_NAME} visible characters.")
    return name
