"""What the report shows of a run beside an evaluation, and the files that it is read from."""

from collections.abc import Sequence
from typing import NamedTuple

from metaselect.annotation.rounds import Round
from metaselect.data.store import array_files, preprocess_of
from metaselect.run.artefacts import ISSUES, REWEIGHT, REWEIGHT_HISTORY, SELECTED, WARMUP, WARMUP_HISTORY
from metaselect.run.layout import IMAGES, Run
from metaselect.run.schema import Artefact
from metaselect.run.tables import read_parquet
from metaselect.stages.evaluate.candidates import Candidate


class Shown(NamedTuple):
    """What the report shows of the run beside the evaluation.

    Attributes:
        rounds: of which a model has learnt a bought label.
        pictures: whether there are images to show.
        files: below the run, that the report is made from and the evaluation is not.
    """

    rounds: Sequence[Round]
    pictures: bool
    files: Sequence[str]


def shown_of(run: Run, models: Sequence[Candidate], rounds: Sequence[Round], *, images: bool) -> Shown:
    """What the report shows of a run.

    Args:
        run: the run.
        models: that are evaluated, the warm-up first.
        rounds: of the run.
        images: may be shown.

    Raises:
        ArtefactError: a list of doubted labels is damaged.
    """
    names = [each.name for each in models if each.table]
    listed = [name for name in names if was_made(run, REWEIGHT.name(name=name), ISSUES)]
    bought: set[str] = set()
    for name in listed:
        table = read_parquet(run, ISSUES, ["sample_id", "bought_label"], name=name)
        bought.update(table.filter(table["bought_label"].is_valid())["sample_id"].to_pylist())
    learnt = [each for each in rounds if not bought.isdisjoint(each.samples)]
    pictured = images and IMAGES in preprocess_of(run).kinds
    files = [ISSUES.path(name=name) for name in listed]
    files += _history_files(run, names)
    files += [SELECTED.path(number=each.number) for each in learnt]
    files += array_files(run, IMAGES) if pictured else ()
    return Shown(learnt, pictured, files)


def _history_files(run: Run, names: Sequence[str]) -> list[str]:
    """The paths below the run of the histories of the warm-up and of these re-weightings.

    Args:
        run: the run.
        names: of the re-weightings.
    """
    found = [WARMUP_HISTORY.path()] if was_made(run, WARMUP.name(), WARMUP_HISTORY) else []
    return found + [
        REWEIGHT_HISTORY.path(name=name)
        for name in names
        if was_made(run, REWEIGHT.name(name=name), REWEIGHT_HISTORY)
    ]


def was_made(run: Run, stage: str, artefact: Artefact) -> bool:
    """Whether a finished stage has this file."""
    return artefact.within() in run.stage(stage).require().outputs
