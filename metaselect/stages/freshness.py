"""Whether a stage is done, stale, damaged, missing or interrupted, and why. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from metaselect.annotation.ledger import Ledger, read_ledger
from metaselect.annotation.ledger_record import InterruptedImport, require_recorded
from metaselect.annotation.quality.noise_estimate import estimate_inputs, has_control
from metaselect.annotation.rounds import Round, round_is_closed, rounds
from metaselect.errors import ArtefactError
from metaselect.registry import load
from metaselect.run.artefacts import META_SET, REWEIGHT, ROBUST_MODEL_INFO
from metaselect.run.key import GIVEN
from metaselect.run.layout import Run
from metaselect.run.stage_names import round_of
from metaselect.run.unfinished import UNFINISHED_KEY
from metaselect.stages.table import entry_of

DONE, STALE, DAMAGED, MISSING, INTERRUPTED = "done", "stale", "damaged", "missing", "interrupted"
DEAD = "dead"
"""Of a training that is up to date and whose result should not be used."""
ORACLE = "oracle"
"""Of a training that is up to date and was told the true labels: a bound for others, and no result."""
KNOWS_TRUTH = "it was told the true labels (--oracle-truth), so it is a bound for others"


class State(NamedTuple):
    """One stage: ``state`` is done, dead, oracle, stale, damaged, missing or interrupted; ``why`` may be empty."""

    stage: str
    state: str
    why: str


@dataclass(frozen=True)
class AnnotationView:
    """The rounds and votes of a run, read once for everything that is reported about it.

    Attributes:
        rounds: the earliest first; None where a ``selected.csv`` is damaged.
        ledger: the votes; None where they are damaged.
        damage: why ``ledger`` is None.
    """

    rounds: Sequence[Round] | None
    ledger: Ledger | None
    damage: ArtefactError | None = None

    @classmethod
    def read(cls, run: Run) -> "AnnotationView":
        """What can be read; damage is kept, so that the stages it concerns can be reported one by one."""
        try:
            every: Sequence[Round] | None = rounds(run)
        except ArtefactError:
            every = None
        try:
            return cls(every, read_ledger(run))
        except ArtefactError as error:
            return cls(every, None, error)

    def require_ledger(self) -> Ledger:
        """The votes.

        Raises:
            ArtefactError: they are damaged.
        """
        if self.ledger is None:
            assert self.damage is not None
            raise self.damage
        return self.ledger

    def is_closed(self, number: int) -> bool:
        """As ``round_is_closed``; True where damaged votes leave it open, so that nothing replaces the round."""
        return self.ledger is None or round_is_closed(self.ledger, number)


def state_of(run: Run, name: str, view: AnnotationView) -> State:
    """The state of a stage.

    Args:
        run: the run.
        name: of the stage: "warmup", "select/round-1", ...
        view: of ``AnnotationView.read``.
    """
    stage, entry = run.stage(name), entry_of(name)
    try:
        if entry.by_people:
            require_recorded(run)
        record = stage.record()
        if record is None:
            if (stage.work_folder / UNFINISHED_KEY).is_file():
                return State(name, INTERRUPTED, "the same command goes on where it stopped")
            return State(name, MISSING, "")
        stage.check()
        # Before its inputs are compared: a round that people work on stays, whatever changed since.
        closed = load(entry.closed)(name, view) if entry.closed else ""
        if closed:
            return State(name, DONE, closed)
        moved = stage.changed_inputs()
        if entry.unread:
            moved += load(entry.unread)(run, record.key.inputs, view)
    except InterruptedImport as error:
        return State(name, INTERRUPTED, f"{error} {error.hint}")
    except ArtefactError as error:
        return State(name, DAMAGED, str(error))
    if moved:
        return State(name, STALE, f"{', '.join(moved)} changed since")
    result = record.details.get("result", {})
    if result.get("dead"):
        return State(name, DEAD, result["dead"])
    return State(name, ORACLE, KNOWS_TRUTH) if result.get("oracle") else State(name, DONE, "")


def closed_round(name: str, view: AnnotationView) -> str:
    """Why a round's choice stays as it is; empty where it may still change."""
    return "closed: exported or answered" if view.is_closed(round_of(name)) else ""


def unread_meta_set(run: Run, inputs: Mapping[str, str], view: AnnotationView) -> list[str]:
    """The meta set, where there is one by now and a stage was made without."""
    path = META_SET.path()
    return [path] if path not in inputs and run.path(path).is_file() else []


def unread_by_evaluation(run: Run, inputs: Mapping[str, str], view: AnnotationView) -> list[str]:
    """Re-weightings, files of answered control samples and, beside a truth, bought labels that it was made without."""
    new = [
        name
        for name in run.stage_names(REWEIGHT.kind)
        if ROBUST_MODEL_INFO.path(name=name.partition("/")[2]) not in inputs
    ]
    if view.rounds is None or (view.ledger is None and has_control(view.rounds)):
        return new  # the damaged stages are reported by themselves
    if f"{GIVEN}truth" in inputs:  # which tells how many labels are right by now
        new += unread_meta_set(run, inputs, view)
    return new + [path for path in estimate_inputs(view.rounds, view.ledger) if path not in {*inputs, *new}]
