"""select --discard-round: the one way to be rid of a round that went out to people."""

from metaselect.annotation.ledger import read_ledger, remove_round
from metaselect.annotation.votes import Vote
from metaselect.errors import UsageError
from metaselect.records import Outcome, Reporter
from metaselect.run.files import write_csv
from metaselect.run.layout import Run


def discard_round(run: Run, number: int, report: Reporter) -> Outcome:
    """Put the latest round and its answers aside, in ``discarded/``; what was paid for is never deleted.

    Raises:
        UsageError: it is not the latest round.
    """
    with run.lock():
        run.info()
        rounds = run.stage_names("select")
        if not rounds or rounds[-1] != f"select/round-{number}":
            latest = f"the latest is {rounds[-1].rpartition('-')[2]}" if rounds else "there is none"
            raise UsageError(f"--discard-round {number}: only the latest round can go, and {latest}.")
        aside = run.path(f"discarded/round-{number}")
        copies = 1
        while aside.exists():
            copies += 1
            aside = run.path(f"discarded/round-{number}-{copies}")
        votes = [vote for vote in read_ledger(run).votes if vote.round == number]
        if votes:
            write_csv(aside / "votes.csv", Vote._fields, votes)
        remove_round(run, number)
        aside.mkdir(parents=True, exist_ok=True)
        forms = run.path(f"export/round-{number}")
        if forms.is_dir():
            forms.rename(aside / "export")
        run.path(rounds[-1]).rename(aside / "select")
        report.note(f"Round {number} and its {len(votes)} answers are in {aside}.")
        return Outcome({"run": str(run.root), "discarded": number, "votes": len(votes), "folder": str(aside)})
