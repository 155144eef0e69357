"""`select --discard-round`: set a round aside that was exported or has answers."""

from metaselect import ranks
from metaselect.annotation.ledger import read_ledger, remove_round
from metaselect.errors import UsageError
from metaselect.records import Outcome, Reporter
from metaselect.run.artefacts import DISCARDED, FORMS, SELECT, VOTES
from metaselect.run.layout import Run
from metaselect.run.stage_names import round_of
from metaselect.run.tables import write_rows
from metaselect.text import counted


def discard_round(run: Run, number: int, report: Reporter) -> Outcome:
    """Move the latest round, its forms and its answers to ``discarded/``; nothing that was paid for is deleted.

    Raises:
        UsageError: it is not the latest round, or there are several ranks.
    """
    if ranks.size() > 1:
        raise UsageError("--discard-round runs in one process.", "Run it without torchrun.")
    with run.lock():
        run.info()
        rounds = run.stage_names(SELECT.kind)
        if not rounds or rounds[-1] != SELECT.name(number=number):
            latest = f"the latest is {round_of(rounds[-1])}" if rounds else "there is none"
            raise UsageError(
                f"--discard-round {number}: only the latest round can be discarded, and {latest}."
            )
        target = run.path(DISCARDED.name(number=number))
        copies = 1
        while target.exists():
            copies += 1
            target = run.path(DISCARDED.name(number=f"{number}-{copies}"))
        ledger = read_ledger(run)
        votes = [vote for vote in ledger.votes if vote.round == number]
        answers = sum(vote.round == number for vote in ledger.latest.values())
        if votes:
            write_rows(target / VOTES.within(), VOTES, votes)
        remove_round(run, number)
        target.mkdir(parents=True, exist_ok=True)
        forms = run.path(FORMS.name(number=number))
        if forms.is_dir():
            forms.rename(target / FORMS.kind)
        run.path(rounds[-1]).rename(target / SELECT.kind)
        report.note(f"Round {number} is in {target}, with {counted(answers, 'answer', 'answers')}.")
        return Outcome(
            {
                "run": str(run.root),
                "discarded": number,
                "answers": answers,
                "votes": len(votes),
                "folder": str(target),
            }
        )
