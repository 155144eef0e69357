"""status and verify: what is done, what is stale and why, and what comes next. No torch."""

from pathlib import Path
from typing import NamedTuple

from metaselect.annotation.consensus import TIED
from metaselect.annotation.quality.noise_estimate import noise_estimate
from metaselect.annotation.rounds import bought_samples
from metaselect.annotation.votes import DONE as ANSWERED
from metaselect.errors import ArtefactError
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import RECORD, SELECT, SEVERAL, UNFINISHED_KEY, WARMUP, WORK, round_of
from metaselect.run.layout import Run
from metaselect.stages.freshness import (
    DAMAGED,
    DONE,
    INTERRUPTED,
    MISSING,
    STALE,
    AnnotationView,
    State,
    state_of,
)

TRAINING = ("warmup", "reweight", "evaluate")


class OpenWork(NamedTuple):
    """Samples that people still have to do something about: ``missing`` have no answer, ``tied`` no consensus."""

    missing: int
    tied: int

    def __str__(self) -> str:
        counts = ((self.missing, "without an answer"), (self.tied, "tied"))
        found = [f"{count} {what}" for count, what in counts if count]
        return f"samples: {', '.join(found)}" if found else ""


def status(run: Run, report: Reporter) -> Outcome:
    """Every stage's state and the next command; unmet when something is stale or damaged."""
    del report
    run.info()
    view = AnnotationView.read(run)
    owed = _open_work(view)
    states = [state_of(run, name, view) for name in stages_of(run)]
    states = [
        state._replace(why=str(owed)) if (state.stage, state.state) == ("annotate", DONE) else state
        for state in states
    ]
    bad = [state for state in states if state.state in (STALE, DAMAGED)]
    votes_damaged = any(state.stage == "annotate" for state in bad)
    bought = {} if votes_damaged else bought_samples(view.require_ledger())
    listed: list[Json] = [state._asdict() for state in states]
    return Outcome(
        {
            "run": str(run.root),
            "stages": listed,
            "bought": None if votes_damaged else sum(status == ANSWERED for status in bought.values()),
            "noise_estimate": _noise(run, view),
            "next": next_command(run, states, owed, view),
        },
        unmet=f"{', '.join(state.stage for state in bad)}: not up to date." if bad else "",
    )


def verify(run: Run, report: Reporter) -> Outcome:
    """Hash every artefact; the first damage is an error only after all were looked at.

    Raises:
        ArtefactError: naming every file whose bytes changed.
    """
    run.info()
    damaged: list[str] = []
    checked = 0
    for name in stages_of(run):
        stage = run.stage(name)
        record = stage.record()
        if record is None:
            continue
        try:
            stage.check(thorough=True)
        except ArtefactError as error:
            damaged.append(str(error))
        checked += len(record.outputs)
    if damaged:
        raise ArtefactError(
            " ".join(damaged), "Recompute what is named with --force, or restore it from a copy."
        )
    del report
    return Outcome({"run": str(run.root), "artefacts": checked})


def stages_of(run: Run) -> list[str]:
    """Names of the stages to show: the fixed ones and every round, re-weighting and evaluation that is there."""
    several = {kind: run.stage_names(kind) for kind in SEVERAL}
    warmup = [] if run.ids_alone and not run.path(f"{WARMUP.name()}/{RECORD}").is_file() else ["warmup"]
    names = ["data", *warmup, *(several[SELECT.kind] or [SELECT.name(number=1)])]
    names += ["annotate", *several["reweight"], *several["evaluate"]]
    interrupted = [_name_of(run, key.parent) for key in sorted(run.path(WORK).rglob(UNFINISHED_KEY))]
    return names + [name for name in interrupted if name not in names]


def _name_of(run: Run, work: Path) -> str:
    return work.relative_to(run.path(WORK)).as_posix()


def _open_work(view: AnnotationView) -> OpenWork:
    """Samples without an answer or a consensus; none where damage, which is reported by its stage, hides them."""
    if view.rounds is None or view.ledger is None:
        return OpenWork(0, 0)
    verdicts = view.ledger.verdicts
    missing = sum(len(each.unanswered_ids(verdicts)) for each in view.rounds)
    return OpenWork(missing, sum(verdict.status == TIED for verdict in verdicts.values()))


def _noise(run: Run, view: AnnotationView) -> Json:
    """The estimate; None also where it is hidden by damage, which is reported by its stage."""
    if view.rounds is None:
        return None
    try:
        estimate = noise_estimate(run, view.rounds, view.ledger)
    except ArtefactError:
        return None
    return estimate and estimate._asdict()


def next_command(run: Run, states: list[State], owed: OpenWork, view: AnnotationView) -> str:
    """The command that brings the run forward; empty when there is nothing to do."""
    at = run.flag
    beyond_help = ("annotate", *(TRAINING if run.ids_alone else ()))  # no command brings these forward here
    by_name = {state.stage: state for state in states}
    for state in states:
        kind = state.stage.partition("/")[0]
        if state.state in (STALE, INTERRUPTED, DAMAGED) and kind not in beyond_help:
            return run.stage(state.stage).command(*(["--force"] if state.state == DAMAGED else []))
    if by_name["annotate"].state == DAMAGED:
        return ""  # no command brings answers back; its line says what is wrong
    if not run.ids_alone and by_name["warmup"].state == MISSING:
        return f"metaselect warmup {at}"
    chosen = run.stage_names(SELECT.kind)
    if not chosen:
        return run.select_command
    if not view.is_closed(round_of(chosen[-1])):
        return f"metaselect annotate export {at}"
    if not bought_samples(view.require_ledger()):
        return f"metaselect annotate import FILE {at}"
    if run.ids_alone:
        return ""
    if not run.stage_names("reweight"):
        return f"metaselect reweight {at}"
    if not run.stage_names("evaluate"):
        return f"metaselect evaluate TEST {at}"
    if owed.missing:
        return f"metaselect annotate import FILE {at}"
    return f"metaselect annotate export --conflicts {at}" if owed.tied else ""
