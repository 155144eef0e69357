"""The table of stages: each with its folder, its command, its code, and what its result follows from. No torch.

A new stage touches its own files (the stage, and its command in ``cli/``), its folder and files in
``run/artefacts.py``, its options in ``options.py``, one row here, and ``_register`` in ``cli/main.py``;
docs/extending.md lists the pages. `status`, `verify --rerun`, the order of the commands in the help and the
documentation's table follow from the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metaselect.errors import ArtefactError
from metaselect.run.artefacts import (
    ANNOTATE,
    DATA,
    EVALUATE,
    FANOUT,
    RECORD,
    REWEIGHT,
    SELECT,
    WARMUP,
)
from metaselect.run.key import EXTERNAL, GIVEN
from metaselect.run.layout import Run
from metaselect.run.schema import Artefact, Folder
from metaselect.run.stage_names import ARTEFACTS, folder_of, stage_of


@dataclass(frozen=True)
class StageEntry:
    """One stage.

    Attributes:
        folder: its place below the run, and the command that fills it.
        options: "module:Class" of the command's options; those that bear on the result are in the stage's key.
        function: "module:function" that runs it.
        summary: what it does, in one sentence.
        trains: whether it needs a model, so that a run of ids and labels alone cannot have it.
        expected: the name under which `status` shows it as missing before it was run; empty: not shown then.
        rerun: whether `verify --rerun` can run it again from what the run holds.
        by_people: whether it holds what people answered, so that no command makes it anew.
        closed: "module:function", (name, view) -> why the finished stage must stay as it is, or an empty string.
        unread: "module:function", (run, inputs, view) -> files of the run that the stage would read by now and whose
            hashes are not among its recorded inputs.
    """

    folder: Folder
    options: str
    function: str
    summary: str
    trains: bool = False
    expected: str = ""
    rerun: bool = True
    by_people: bool = False
    closed: str = ""
    unread: str = ""

    @property
    def name(self) -> str:
        """Its kind, the first part of its folder: "select" of "select/round-<number>"."""
        return self.folder.kind

    @property
    def command(self) -> str:
        """The command's name: "ingest" of "ingest DATA"."""
        return self.folder.command.split()[0]

    @property
    def several(self) -> bool:
        """Whether a run can hold several of them side by side."""
        return self.folder.several

    @property
    def inputs(self) -> tuple[Artefact, ...]:
        """What its result follows from; artefacts that a run need not have are among them."""
        return tuple(entry for entry in ARTEFACTS if self.name in entry.readers)

    def finished(self, run: Run) -> list[str]:
        """Names of the finished stages of this row, in natural order, but each behind those that it follows from."""
        if self.several:
            return _in_order(run, run.stage_names(self.name))
        return [self.name] if run.path(f"{self.name}/{RECORD}").is_file() else []


STAGES: tuple[StageEntry, ...] = (
    StageEntry(
        DATA,
        "metaselect.data_options:IngestOptions",
        "metaselect.stages.ingest:ingest",
        "Read a data set into the run.",
        expected=DATA.name(),
        rerun=False,  # the data set lies outside of the run
    ),
    StageEntry(
        WARMUP,
        "metaselect.options:WarmupOptions",
        "metaselect.stages.warmup.warmup:warmup",
        "Train on the given labels and keep checkpoints.",
        trains=True,
        expected=WARMUP.name(),
    ),
    StageEntry(
        SELECT,
        "metaselect.options:SelectOptions",
        "metaselect.stages.select.select:select",
        "Choose the samples whose labels are worth buying, in rounds.",
        expected=SELECT.name(number=1),
        closed="metaselect.stages.freshness:closed_round",
        unread="metaselect.stages.freshness:unread_meta_set",
    ),
    StageEntry(
        ANNOTATE,
        "metaselect.options:ImportOptions",
        "metaselect.stages.annotate.exchange:import_file",
        "Collect people's answers and derive the meta set from them.",
        expected=ANNOTATE.name(),
        rerun=False,
        by_people=True,
    ),
    StageEntry(
        REWEIGHT,
        "metaselect.options:ReweightOptions",
        "metaselect.stages.reweight.reweight:reweight",
        "Train a robust model and learn a weight for every sample of the pool.",
        trains=True,
        unread="metaselect.stages.freshness:unread_meta_set",
    ),
    StageEntry(
        FANOUT,
        "metaselect.data_options:FanoutOptions",
        "metaselect.stages.export.fanout:fanout",
        "Offer each bought label to the other samples of its cluster.",
    ),
    StageEntry(
        EVALUATE,
        "metaselect.data_options:EvaluateOptions",
        "metaselect.stages.evaluate.evaluate:evaluate",
        "Compare every model on a labelled test set, or on the bought labels.",
        trains=True,
        unread="metaselect.stages.freshness:unread_by_evaluation",
    ),
)
"""In workflow order: each stage after those that it reads from."""


def entry_of(stage: str) -> StageEntry:
    """The row of a stage: "select/round-1" -> that of select."""
    kind = folder_of(stage).kind
    return next(entry for entry in STAGES if entry.name == kind)


def _in_order(run: Run, names: Sequence[str]) -> list[str]:
    """Stages of one kind, as they are but for those that were made from another one, which stand behind it."""
    from_others = {name: {stage_of(path) for path in _recorded_inputs(run, name)} for name in names}
    left, found = list(names), list[str]()
    while left:
        ready = (name for name in left if not from_others[name].intersection(left))
        found.append(next(ready, left[0]))
        left.remove(found[-1])
    return found


def _recorded_inputs(run: Run, name: str) -> list[str]:
    """Paths below the run that a stage was made from; none where its record is damaged, which is found elsewhere."""
    try:
        record = run.stage(name).record()
    except ArtefactError:
        return []
    paths = record.key.inputs if record else ()
    return [path for path in paths if not path.startswith((EXTERNAL, GIVEN))]
