"""The bought labels as training sees them."""

from typing import NamedTuple

import numpy as np

from metaselect.annotation.ledger_record import require_recorded
from metaselect.data.store import Dataset
from metaselect.errors import ArtefactError
from metaselect.run.artefacts import ANNOTATE, META_SET
from metaselect.run.layout import Run
from metaselect.run.tables import read_records
from metaselect.text import quoted


class MetaSet(NamedTuple):
    """The bought labels.

    Attributes:
        bought: (m,) int64, sorted pool indices.
        labels: (m,) int64, their clean labels.
        unusable: sorted pool indices of samples that annotators called unusable.
    """

    bought: np.ndarray
    labels: np.ndarray
    unusable: np.ndarray


def load_meta_set(run: Run, pool: Dataset) -> MetaSet:
    """The consensus of the votes; empty when nothing was bought yet.

    Raises:
        ArtefactError: it is damaged, of other data, or does not count every vote (an import was interrupted).
    """
    require_recorded(run)
    if not run.path(META_SET.path()).is_file():
        none = np.empty(0, np.int64)
        return MetaSet(none, none, none)
    run.stage(ANNOTATE.name()).verified(META_SET.path())
    index = {sample_id: position for position, sample_id in enumerate(pool.sample_ids)}
    position_of = {name: position for position, name in enumerate(pool.classes)}
    rows = read_records(run, META_SET)
    answers = {*pool.classes, ""}
    strange = [row for row in rows if row["sample_id"] not in index or row["clean_label"] not in answers]
    if strange:
        raise ArtefactError(
            f"{run.path(META_SET.path())} holds {len(strange)} answers that are not for this data, e.g. "
            f"{quoted(strange[0]['sample_id'])}: the data was replaced since.",
            "Ingest the data that was annotated, or move the folder annotate away and use the run anew.",
        )
    pairs = sorted((index[row["sample_id"]], row["clean_label"]) for row in rows)
    labelled = [(row, position_of[label]) for row, label in pairs if label]
    bought = np.array([row for row, _ in labelled], np.int64)
    labels = np.array([label for _, label in labelled], np.int64)
    return MetaSet(bought, labels, np.array([row for row, label in pairs if not label], np.int64))
