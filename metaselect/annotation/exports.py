"""The forms that were exported, one row each, and the samples of each batch as they were at its first export."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metaselect.annotation.votes import RESTORE_REMEDY
from metaselect.run.artefacts import BATCH, EXPORTS
from metaselect.run.tables import read_rows, write_rows


class Export(NamedTuple):
    """One exported form; the fields are the columns of ``exports.csv``.

    Attributes:
        time: when, ISO 8601, UTC.
        round: the purchase that it is about.
        batch_id: of that round.
        format: a name of ``annotation.formats``.
        file: below the run, or as the command named it; "-" for stdout.
        samples: rows of the form.
        classes_sha256: of ``data/classes.json`` at that time.
    """

    time: str
    round: int
    batch_id: str
    format: str
    file: str
    samples: int
    classes_sha256: str

    def equals_but_for_time(self, earlier: "Export") -> bool:
        """Whether an earlier export differs in its time at most."""
        return self[1:] == earlier[1:]


class ExportedSample(NamedTuple):
    """One sample of a batch; the fields are the columns of ``batches/<batch_id>.csv``.

    Attributes:
        sample_id: as in the pool.
        name: of the exported image, without its extension.
        content_hash: as in the data at the first export.
    """

    sample_id: str
    name: str
    content_hash: str


def read_exports(path: Path) -> tuple[Export, ...]:
    """Every exported form, oldest first.

    Raises:
        ArtefactError: a row that is not an export.
    """
    return read_rows(path, EXPORTS, _parse_export, RESTORE_REMEDY)


def write_exports(path: Path, exports: Sequence[Export]) -> None:
    """Write the whole table."""
    write_rows(path, EXPORTS, exports)


def remove_exports(folder: Path, exports: Sequence[Export], number: int) -> None:
    """Remove the exports of a round, and the lists of its batches."""
    kept = tuple(each for each in exports if each.round != number)
    write_exports(folder / EXPORTS.within(), kept)
    for batch_id in {each.batch_id for each in exports} - {each.batch_id for each in kept}:
        batch_path(folder, batch_id).unlink(missing_ok=True)


def batch_path(folder: Path, batch_id: str) -> Path:
    """The list of a batch's samples; ``folder`` is ``annotate/``."""
    return folder / BATCH.within(batch_id=batch_id)


def write_batch_once(folder: Path, batch_id: str, samples: Sequence[ExportedSample]) -> None:
    """List a batch's samples, unless an earlier export did."""
    path = batch_path(folder, batch_id)
    if not path.is_file():
        write_rows(path, BATCH, samples)


def read_batch(folder: Path, batch_id: str) -> tuple[ExportedSample, ...]:
    """The samples of a batch, as they were first exported.

    Raises:
        ArtefactError: damaged.
    """
    return read_rows(batch_path(folder, batch_id), BATCH, ExportedSample, RESTORE_REMEDY)


def read_exported_samples(folder: Path, exports: Sequence[Export]) -> list[ExportedSample]:
    """Every sample that was ever exported, as it was first exported, the earliest batch first.

    Raises:
        ArtefactError: the list of a batch is missing or damaged.
    """
    batches = dict.fromkeys(each.batch_id for each in exports)  # without repetition, in order
    return [sample for batch_id in batches for sample in read_batch(folder, batch_id)]


def _parse_export(
    time: str, number: str, batch_id: str, form: str, file: str, samples: str, classes: str
) -> Export:
    return Export(time, int(number), batch_id, form, file, int(samples), classes)
