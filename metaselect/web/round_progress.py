"""Which samples of a round are open, and what each annotator answered in it."""

from collections.abc import Sequence

from metaselect.annotation.rounds import Round
from metaselect.annotation.votes import WITHDRAWN, Vote
from metaselect.web.live_ledger import LiveLedger


class RoundProgress:
    """What votes mean for one round; the session tells it of every vote, in their order.

    Attributes:
        keys: sample_id -> the sample's position in the round.
        is_open: 1 for each key that nobody has answered; find() makes the next one cheap.
    """

    def __init__(self, current_round: Round) -> None:
        """Without votes."""
        self.current_round = current_round
        self.keys = {sample_id: key for key, sample_id in enumerate(current_round.samples)}
        self.is_open = bytearray()
        self._votes_by: dict[str, list[Vote]] = {}  # annotator -> votes of this round, some of them replaced

    def restart(self, ledger: LiveLedger) -> None:
        """Forget the votes; ``follow`` is then told of all of the ledger's."""
        verdicts = map(ledger.verdicts.get, self.keys)
        self.is_open = bytearray(not self.current_round.is_answered(verdict) for verdict in verdicts)
        self._votes_by = {}

    def follow(self, ledger: LiveLedger, vote: Vote) -> None:
        """Take in a vote that was added to the ledger."""
        sample_id = ledger.sample_of(vote.sample_id)
        key = self.keys.get(sample_id)
        if key is None:
            return
        self.is_open[key] = not self.current_round.is_answered(ledger.verdicts.get(sample_id))
        own = sample_id == vote.sample_id  # else it answers a blind repeat, which the page does not show
        if own and vote.round == self.current_round.number and vote.status != WITHDRAWN:
            self._votes_by.setdefault(vote.annotator, []).append(vote)

    def last_vote(self, ledger: LiveLedger, annotator: str) -> Vote | None:
        """The annotator's last vote of this round that counts."""
        votes = self._votes_by.get(annotator, [])
        while votes and ledger.latest(votes[-1].sample_id, annotator) is not votes[-1]:
            votes.pop()  # withdrawn or replaced since; it never counts again
        return votes[-1] if votes else None

    def votes_of(self, ledger: LiveLedger, annotator: str) -> Sequence[Vote]:
        """The annotator's votes of this round that count, the last first."""
        votes = self._votes_by.get(annotator, [])
        return [vote for vote in reversed(votes) if ledger.latest(vote.sample_id, annotator) is vote]
