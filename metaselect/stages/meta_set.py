"""The bought labels as training sees them, and the table that training hands back."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from metaselect.data.store import Dataset
from metaselect.errors import ArtefactError
from metaselect.pool_pass import PoolPass
from metaselect.run import Run
from metaselect.run.files import read_csv
from metaselect.run.layout import META_SET


class MetaSet(NamedTuple):
    """The bought labels.

    Attributes:
        bought: (m,) int64, sorted pool indices.
        labels: (m,) int64, their clean labels.
        unusable: sorted pool indices that an annotator set aside.
    """

    bought: np.ndarray
    labels: np.ndarray
    unusable: np.ndarray


def load_meta_set(run: Run, pool: Dataset) -> MetaSet:
    """The consensus of the votes; empty when nothing was bought yet.

    Raises:
        ArtefactError: it is damaged, or of other data.
    """
    if not run.path(META_SET).is_file():
        none = np.empty(0, np.int64)
        return MetaSet(none, none, none)
    run.stage("annotate").verified(META_SET)
    index = {sample_id: position for position, sample_id in enumerate(pool.sample_ids)}
    position_of = {name: position for position, name in enumerate(pool.classes)}
    rows = read_csv(run.path(META_SET))[1]
    answers = {*pool.classes, ""}
    strange = [row for row in rows if row["sample_id"] not in index or row["clean_label"] not in answers]
    if strange:
        raise ArtefactError(
            f"{run.path(META_SET)} holds {len(strange)} answers that are not for this data, e.g. "
            f"{strange[0]['sample_id']!r}: the data was replaced since.",
            "Ingest the data that was annotated, or move the folder annotate away and use the run anew.",
        )
    pairs = sorted((index[row["sample_id"]], row["clean_label"]) for row in rows)
    good = [(where, position_of[label]) for where, label in pairs if label]
    bought = np.array([where for where, _ in good], np.int64)
    labels = np.array([label for _, label in good], np.int64)
    return MetaSet(bought, labels, np.array([where for where, label in pairs if not label], np.int64))


def weights_table(
    pool: Dataset, meta_set: MetaSet, weights: np.ndarray, weight_kind: str, view: PoolPass
) -> pa.Table:
    """``weights.parquet``: one row a sample.

    ``label_issue_rank`` is 1 for the sample whose given label is trusted least (lowest weight, then lowest
    probability of the given label); it is null for bought and unusable samples.
    """
    n = len(pool)
    classes = np.array(pool.classes, dtype=object)
    bought, unusable = np.zeros(n, bool), np.zeros(n, bool)
    bought[meta_set.bought], unusable[meta_set.unusable] = True, True
    weights = np.where(bought, 1.0, np.where(unusable, 0.0, weights)).astype(np.float32)
    open_ids = (~(bought | unusable)).nonzero()[0]
    label_prob = view.label_prob.cpu().numpy()
    order = open_ids[np.lexsort((open_ids, label_prob[open_ids], weights[open_ids]))]
    ranks = np.zeros(n, np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    kinds = np.where(bought, "bought", np.where(unusable, "unusable", weight_kind))
    return pa.table(
        {
            "sample_id": pa.array(pool.sample_ids, pa.string()),
            "given_label": pa.array(classes[pool.labels].tolist(), pa.string()),
            "weight": pa.array(weights, pa.float32()),
            "weight_kind": pa.array(kinds.tolist(), pa.string()),
            "bought": pa.array(bought, pa.bool_()),
            "predicted_label": pa.array(classes[view.predicted.cpu().numpy()].tolist(), pa.string()),
            "predicted_prob": pa.array(view.confidence.float().cpu().numpy(), pa.float32()),
            "label_issue_rank": pa.array(ranks, pa.int64(), mask=bought | unusable),
        }
    )
