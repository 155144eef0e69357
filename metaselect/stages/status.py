"""status and verify: what is done, what is stale and why, and what comes next. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from metaselect.annotation.consensus import TIED
from metaselect.annotation.ledger import read_ledger
from metaselect.annotation.quality.noise_estimate import estimate_inputs, noise_estimate
from metaselect.annotation.rounds import bought_ids, round_is_closed, rounds
from metaselect.errors import ArtefactError
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.layout import META_SET, Run

TRAINING = ("warmup", "reweight", "evaluate")
DONE, STALE, DAMAGED, MISSING, INTERRUPTED = "done", "stale", "damaged", "missing", "interrupted"


class State(NamedTuple):
    """One stage: ``state`` is done, stale, damaged, missing or interrupted; ``why`` says what changed or is owed."""

    stage: str
    state: str
    why: str


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
    owed = _owed(run)
    states = [state_of(run, name) for name in stages_of(run)]
    states = [
        state._replace(why=str(owed)) if (state.stage, state.state) == ("annotate", DONE) else state
        for state in states
    ]
    bad = [state for state in states if state.state in (STALE, DAMAGED)]
    votes_damaged = any(state.stage == "annotate" for state in bad)
    listed: list[Json] = [state._asdict() for state in states]
    return Outcome(
        {
            "run": str(run.root),
            "stages": listed,
            "bought": None if votes_damaged else sum(state == DONE for state in bought_ids(run).values()),
            "noise_estimate": _noise(run),
            "next": next_command(run, states, owed),
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
    several = {kind: run.stage_names(kind) for kind in ("select", "reweight", "evaluate")}
    warmup = [] if run.ids_alone and not run.path("warmup/stage.json").is_file() else ["warmup"]
    names = ["data", *warmup, *(several["select"] or ["select/round-1"])]
    names += ["annotate", *several["reweight"], *several["evaluate"]]
    interrupted = [_name_of(run, key.parent) for key in sorted(run.path(".work").rglob("key.json"))]
    return names + [name for name in interrupted if name not in names]


def _name_of(run: Run, work: Path) -> str:
    return work.relative_to(run.path(".work")).as_posix()


def state_of(run: Run, name: str) -> State:
    """How a stage is."""
    stage = run.stage(name)
    unfinished = (run.path(f".work/{name}") / "key.json").is_file()
    try:
        record = stage.record()
        if record is None:
            if unfinished:
                return State(name, INTERRUPTED, "the same command goes on where it stopped")
            return State(name, MISSING, "")
        stage.check()
        kind, _, rest = name.partition("/")
        if kind == "select" and _is_closed(run, int(rest.rpartition("-")[2])):
            return State(name, DONE, "closed: exported or answered")
        moved = stage.moved() + (_unjudged(run, record.key.inputs) if kind == "evaluate" else [])
        if kind in ("select", "reweight") and META_SET not in record.key.inputs and _has_meta_set(run):
            moved.append(META_SET)
    except ArtefactError as error:
        return State(name, DAMAGED, str(error))
    return State(name, STALE, f"{', '.join(moved)} changed since") if moved else State(name, DONE, "")


def _owed(run: Run) -> OpenWork:
    """What people still owe; nothing where damage, of which other lines tell, does not let it be known."""
    try:
        verdicts = read_ledger(run).verdicts
        missing = sum(len(each.open_ids(verdicts)) for each in rounds(run))
    except ArtefactError:
        return OpenWork(0, 0)
    return OpenWork(missing, sum(verdict.status == TIED for verdict in verdicts.values()))


def _is_closed(run: Run, number: int) -> bool:
    """As ``round_is_closed``; where damaged votes do not say (their own line does), nothing may move the round."""
    try:
        return round_is_closed(run, number)
    except ArtefactError:
        return True


def _has_meta_set(run: Run) -> bool:
    return run.path(META_SET).is_file()


def _unjudged(run: Run, inputs: Mapping[str, str]) -> list[str]:
    """Re-weightings, and answered control samples, that an evaluation has not seen."""
    new = [name for name in run.stage_names("reweight") if f"{name}/model.json" not in inputs]
    try:
        return new + [path for path in estimate_inputs(run) if path not in inputs]
    except ArtefactError:
        return new  # damaged rounds or votes: their own lines say so


def _noise(run: Run) -> Json:
    """The estimate; None also where damage, of which its stage's line tells, does not let it be known."""
    try:
        found = noise_estimate(run)
    except ArtefactError:
        return None
    return found and found._asdict()


def next_command(run: Run, states: list[State], owed: OpenWork) -> str:
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
    chosen = run.stage_names("select")
    if not chosen:
        return run.select_command
    if not round_is_closed(run, int(chosen[-1].rpartition("-")[2])):
        return f"metaselect annotate export {at}"
    if not bought_ids(run):
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
