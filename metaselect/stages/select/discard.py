"""select --discard-round: the one way to be rid of a round that went out to people."""

from metaselect.annotation.ledger import read_ledger, remove_round
from metaselect.errors import UsageError
from metaselect.records import Outcome, Reporter
from metaselect.run.artefacts import DISCARDED, FORMS, SELECT, VOTES, round_of
from metaselect.run.layout import Run
from metaselect.run.tables import write_rows


def discard_round(run: Run, number: int, report: Reporter) -> Outcome:
    """Put the latest round and its answers aside, in ``discarded/``; what was paid for is never deleted.

    Raises:
        UsageError: it is not the latest round.
    """
    with run.lock():
        run.info()
        rounds = run.stage_names(SELECT.kind)
        if not rounds or rounds[-1] != SELECT.name(number=number):
            latest = f"the latest is {round_of(rounds[-1])}" if rounds else "there is none"
            raise UsageError(f"--discard-round {number}: only the latest round can go, and {latest}.")
        aside = run.path(DISCARDED.name(number=number))
        copies = 1
        while aside.exists():
            copies += 1
            aside = run.path(DISCARDED.name(number=f"{number}-{copies}"))
        votes = [vote for vote in read_ledger(run).votes if vote.round == number]
        if votes:
            write_rows(aside / VOTES.within(), VOTES, votes)
        remove_round(run, number)
        aside.mkdir(parents=True, exist_ok=True)
        forms = run.path(FORMS.name(number=number))
        if forms.is_dir():
            forms.rename(aside / FORMS.kind)
        run.path(rounds[-1]).rename(aside / SELECT.kind)
        report.note(f"Round {number} and its {len(votes)} answers are in {aside}.")
        return Outcome({"run": str(run.root), "discarded": number, "votes": len(votes), "folder": str(aside)})
