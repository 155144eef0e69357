"""All artefacts; and from the name of a stage, or the path of one of its files, to its folder. No torch, no pyarrow."""

from collections.abc import Mapping

from metaselect.run import artefacts, evaluation_artefacts
from metaselect.run.schema import Artefact, Folder

ARTEFACTS: tuple[Artefact, ...] = tuple(
    value
    for module in (artefacts, evaluation_artefacts)
    for value in vars(module).values()
    if isinstance(value, Artefact)
)
"""Every row of the table."""
FOLDERS: Mapping[str, Folder] = {
    entry.folder.kind: entry.folder for entry in ARTEFACTS if entry.folder is not None
}
"""The folders of the stages by their kind."""


def stage_of(path: str) -> str:
    """The stage that a path below the run belongs to: "select/round-1/selected.csv" -> "select/round-1"."""
    kind, *below = path.split("/")
    folder = FOLDERS.get(kind)
    return "/".join([kind, *below[:1]]) if folder is not None and folder.several else kind


def folder_of(stage: str) -> Folder:
    """The folder that a stage's name belongs to: "select/round-1" -> ``SELECT``."""
    return FOLDERS[stage.split("/")[0]]


def round_of(stage: str) -> int:
    """The number of a round: "select/round-12" -> 12."""
    return int(stage.rpartition("-")[2])
