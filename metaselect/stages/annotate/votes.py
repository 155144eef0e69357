"""`annotate status`, `undo` and `consensus`: report votes, undo imports, and choose the consensus method."""

from dataclasses import replace

from metaselect.annotation.consensus import TIED, Verdict
from metaselect.annotation.ledger import (
    Ledger,
    open_ledger,
    read_ledger,
    undo_import,
    write_meta_set_and_record,
)
from metaselect.annotation.ledger_record import CONSENSUS, STAGE
from metaselect.annotation.quality.noise_estimate import noise_estimate
from metaselect.annotation.rounds import rounds
from metaselect.annotation.summary import Progress, count_with_status, progress
from metaselect.annotation.undo import latest_standing_import
from metaselect.annotation.votes import DONE, utc_now
from metaselect.data.store import load_ids
from metaselect.records import Json, Outcome, Reporter
from metaselect.registry import FORMATS, READ_ONLY
from metaselect.run.artefacts import DATA, REWEIGHT, VOTES
from metaselect.run.files import write_json
from metaselect.run.layout import Run
from metaselect.stages.annotate.exchange import no_garbage_collection
from metaselect.text import examples, quoted


def status(run: Run) -> Progress:
    """The progress of each round; changes nothing.

    Raises:
        ArtefactError: no run, or the votes were changed by hand.
    """
    run.info()
    with no_garbage_collection():
        ledger = read_ledger(run)
        every = rounds(run)
        return progress(ledger, every, noise_estimate(run, every, ledger))


def undo(run: Run, number: int | None, report: Reporter) -> Outcome:
    """Undo an import; without a number the latest one. Of one that is undone already nothing changes.

    Raises:
        UsageError: there is no such import.
        ArtefactError: no run, or the votes were changed by hand.
    """
    run.info()
    with no_garbage_collection(), run.lock():
        ledger, done, earlier = undo_import(run, number, utc_now())
    if earlier:
        standing = latest_standing_import(ledger.imports, len(ledger.votes))
        other = (
            f" Another: metaselect annotate undo --import {standing.number} {run.flag}" if standing else ""
        )
        report.note(f"Import {done.number} was undone already.{other}")
    is_file = done.format in {**FORMATS, **READ_ONLY}
    again = "importing the file again takes the undo back" if is_file else "they count again when given again"
    report.note(f"The votes stay in {VOTES.within()}; {again}.")
    if unused := _unused_classes(run, ledger):
        report.note(
            f"No label is of class {examples([quoted(name) for name in unused])} any more. To have the classes of "
            f"the data again: {run.stage(DATA.name()).command('--force')}"
        )
    return Outcome({**done._asdict(), "bought": count_with_status(ledger.verdicts, DONE)})


def _unused_classes(run: Run, ledger: Ledger) -> list[str]:
    """Classes of votes that do not count any more, of which there is no given label either."""
    voted = {vote.clean_label for vote in ledger.votes}
    counting = {vote.clean_label for vote in ledger.latest_with_repeats.values()}
    if voted <= counting | {""}:
        return []  # as nearly always, and then the pool need not be read
    _, labels, classes = load_ids(run)
    given = {classes[label] for label in set(labels.tolist()) if label >= 0}
    return sorted((voted - counting - given) & set(classes))


def consensus(run: Run, method: str | None, report: Reporter) -> Outcome:
    """Choose the consensus method, or, without one, report the current method.

    Raises:
        ArtefactError: no run, or the votes were changed by hand.
    """
    run.info()
    with no_garbage_collection(), run.lock():
        ledger = open_ledger(run)
        before = ledger.verdicts
        if method is not None and method != ledger.method:
            write_json(run.path(f"{STAGE}/{CONSENSUS}"), {"method": method})
            ledger = replace(ledger, method=method)
        write_meta_set_and_record(run, ledger)
        changed: list[Json] = [
            {"sample_id": sample_id, "before": _answer_text(before[sample_id]), "now": _answer_text(verdict)}
            for sample_id, verdict in ledger.verdicts.items()
            if _answer_text(before[sample_id]) != _answer_text(verdict)
        ]
    if changed and run.stage_names(REWEIGHT.kind):
        report.note(f"What was trained on the meta set is stale now. Next: metaselect status {run.flag}")
    counts = {
        name: count_with_status(ledger.verdicts, status)
        for name, status in (("bought", DONE), ("tied", TIED))
    }
    return Outcome({"method": ledger.method, **counts, "changed": changed})


def _answer_text(verdict: Verdict) -> str:
    return verdict.clean_label if verdict.status == DONE else f"({verdict.status})"
