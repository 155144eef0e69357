"""status and verify: the state of every stage, why it is stale or damaged, and the next command. No torch."""

from typing import NamedTuple

from metaselect.annotation.consensus import TIED
from metaselect.annotation.ledger_record import require_recorded
from metaselect.annotation.quality.noise_estimate import noise_estimate
from metaselect.annotation.rounds import bought_samples
from metaselect.annotation.votes import DONE as ANSWERED
from metaselect.data.originals import check_originals
from metaselect.errors import ArtefactError
from metaselect.memory import Need, require_memory, spoken_size
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import ANNOTATE, EVALUATE, FORMS, REWEIGHT, SELECT, VOTES
from metaselect.run.layout import Run
from metaselect.run.schema import Folder
from metaselect.run.stage_names import round_of
from metaselect.run.unfinished import UNFINISHED_KEY, WORK
from metaselect.stages.freshness import (
    DAMAGED,
    DONE,
    INTERRUPTED,
    STALE,
    AnnotationView,
    State,
    state_of,
)
from metaselect.stages.model_choice import choose_by_comparisons, chosen_on_test_set
from metaselect.stages.table import STAGES, entry_of

VOTE_FACTOR = 12  # bytes of memory for a byte of votes.csv, as measured
ANSWER_FACTOR = 36  # the same for a file that is imported, at most: a CSV is shortest


class OpenWork(NamedTuple):
    """Numbers of selected samples without an answer (``missing``) and of samples without a consensus (``tied``)."""

    missing: int
    tied: int

    def __str__(self) -> str:
        counts = ((self.missing, "without an answer"), (self.tied, "tied"))
        parts = [f"{count} {what}" for count, what in counts if count]
        return f"samples: {', '.join(parts)}" if parts else ""


def status(run: Run, report: Reporter) -> Outcome:
    """The state of every stage and the next command; unmet if a stage is stale or damaged."""
    del report
    run.info()
    require_memory_for_votes(run)
    view = AnnotationView.read(run)
    open_work = _open_work(view)
    states = _states(run, view)
    states = [
        state._replace(why=str(open_work)) if (state.stage, state.state) == (ANNOTATE.name(), DONE) else state
        for state in states
    ]
    bad = [state for state in states if state.state in (STALE, DAMAGED)]
    votes_damaged = any(state.stage == ANNOTATE.name() for state in bad)
    bought = {} if votes_damaged else bought_samples(view.require_ledger())
    listed: list[Json] = [{**state._asdict(), "why": state.why or None} for state in states]
    return Outcome(
        {
            "run": str(run.root),
            "stages": listed,
            "bought": None if votes_damaged else sum(status == ANSWERED for status in bought.values()),
            "noise_estimate": _noise(run, view),
            "take": _model_to_take(run, states),
            "next": _next_command(run, states, open_work, view) or None,
        },
        unmet=f"{', '.join(state.stage for state in bad)}: not up to date." if bad else "",
    )


def require_memory_for_votes(run: Run, answers: int = 0) -> None:
    """Check that all votes of a run fit --max-memory, with a file of so many bytes that is imported.

    Raises:
        ResourceError: they do not.
    """
    path = run.path(VOTES.path())
    held = VOTE_FACTOR * (path.stat().st_size if path.is_file() else 0) + ANSWER_FACTOR * answers
    what = f"An import of {spoken_size(answers)}" if answers else "The state of the run"
    require_memory(Need(held), what, "Answers can be imported in parts.")


def verify(run: Run, report: Reporter) -> Outcome:
    """Hash every artefact of the run and compare it with the record, and so the images that stay encoded.

    Raises:
        ArtefactError: naming the first damaged file of each stage.
    """
    run.info()
    damaged: list[ArtefactError] = []
    checked = 0
    for name in stages_of(run):
        stage = run.stage(name)
        record = stage.record()
        try:
            if entry_of(name).by_people:
                require_recorded(run)
            if record is not None:
                stage.check(thorough=True)
                checked += len(record.outputs)
        except ArtefactError as error:
            damaged.append(error)
    originals = 0
    if not damaged:  # else the places of the images may be wrong
        try:
            originals = check_originals(run, report)
        except ArtefactError as error:
            damaged.append(error)
    if damaged:
        remedies = dict.fromkeys(error.hint.rstrip(".") for error in damaged)  # in their order, each once
        raise ArtefactError(" ".join(map(str, damaged)), "; ".join(remedies))
    return Outcome({"run": str(run.root), "artefacts": checked, "originals": originals})


def next_step(run: Run, view: AnnotationView) -> str:
    """The command that brings the run forward, as `status` names it; empty when there is nothing to do."""
    return _next_command(run, _states(run, view), _open_work(view), view)


def buying_step(run: Run, view: AnnotationView) -> str:
    """The next command on the way to bought labels; empty where there are some."""
    chosen = run.stage_names(SELECT.kind)
    if not chosen or not (run.has_warmup or run.ids_alone):
        return run.selecting_command
    if not view.is_closed(round_of(chosen[-1])):
        return _command(run, FORMS)
    return "" if bought_samples(view.require_ledger()) else _command(run, ANNOTATE)


def stages_of(run: Run) -> list[str]:
    """Names of the stages to show: those that every run needs, and whatever else is there."""
    names: list[str] = []  # in the order of the table, which is that of the pipeline
    for entry in STAGES:
        possible = not (entry.trains and run.ids_alone)
        names += entry.finished(run) or ([entry.expected] if entry.expected and possible else [])
    work = run.path(WORK)
    unfinished = [key.parent.relative_to(work).as_posix() for key in sorted(work.rglob(UNFINISHED_KEY))]
    return names + [name for name in unfinished if name not in names]


def _states(run: Run, view: AnnotationView) -> list[State]:
    return [state_of(run, name, view) for name in stages_of(run)]


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


def _model_to_take(run: Run, states: list[State]) -> Json:
    """The choice; None also where it is hidden by damage, which is reported by its stage."""
    usable = {state.stage for state in states if state.state == DONE}
    try:
        choice = chosen_on_test_set(run, usable) or choose_by_comparisons(run, usable)
    except ArtefactError:
        return None
    return choice and choice._asdict()


def _next_command(run: Run, states: list[State], open_work: OpenWork, view: AnnotationView) -> str:
    """The command that brings the run forward; empty when there is nothing to do."""
    by_name = {state.stage: state for state in states}
    if (
        by_name[ANNOTATE.name()].state == INTERRUPTED
    ):  # first, since what follows from the answers waits for it
        return _command(run, ANNOTATE)
    for state in states:
        entry = entry_of(state.stage)
        not_by_command = entry.by_people or (entry.trains and run.ids_alone)
        if state.state in (STALE, INTERRUPTED, DAMAGED) and not not_by_command:
            return run.stage(state.stage).command(*(["--force"] if state.state == DAMAGED else []))
    if by_name[ANNOTATE.name()].state == DAMAGED:
        return ""  # no command brings answers back; the stage's own line says what is damaged
    # From here on the first step of the pipeline that is still to be done.
    step = buying_step(run, view)
    if step or run.ids_alone:
        return step
    for folder in (REWEIGHT, EVALUATE):
        if not run.stage_names(folder.kind):
            return _command(run, folder)
    if open_work.missing:
        return _command(run, ANNOTATE)
    return _command(run, FORMS, "--conflicts") if open_work.tied else ""


def _command(run: Run, folder: Folder, *flags: str) -> str:
    """The command line that fills a folder of the run."""
    loads_model = folder in (REWEIGHT, EVALUATE)
    return " ".join(["metaselect", folder.command, *flags, run.model_flags if loads_model else run.flag])
