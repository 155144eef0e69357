"""The table of features that `embed` writes, with the ids and labels of the data set."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from metaselect.data.classes import class_metadata
from metaselect.data.listing import Listing
from metaselect.data.rewrite import OTHERS
from metaselect.encoders.zero_shot import ZeroShot


def features_table(
    listing: Listing, positions: Sequence[int], rows: Sequence[np.ndarray], classifier: ZeroShot | None
) -> pa.Table:
    """The samples' sample_id, features, label (a position in the classes, null without one), and perhaps probs.

    Args:
        listing: the data set.
        positions: of B samples in it.
        rows: their features, (d,) float32 each.
        classifier: for the probabilities; None: without these.
    """
    labels = [int(listing.labels[position]) for position in positions]
    columns = {
        "sample_id": pa.array([listing.sample_ids[position] for position in positions], pa.string()),
        "features": _lists(np.stack(rows)) if rows else pa.array([], pa.list_(pa.float32())),
        "label": pa.array([label if label >= 0 else None for label in labels], pa.int64()),
    }
    others = {"sample_id": OTHERS["sample_id"], "features": _described(columns["features"])}
    if classifier is not None and rows:
        columns["probs"] = _lists(classifier.probabilities(np.stack(rows)))
        others["probs"] = _described(columns["probs"])
    return pa.table(columns).replace_schema_metadata(class_metadata("label", listing.classes, others))


def _lists(numbers: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), numbers.shape[1])


def _described(column: pa.Array) -> dict[str, object]:
    """As Hugging Face's datasets describes a list of numbers."""
    width = column.type.list_size if len(column) else 0
    return {**OTHERS["features"], "length": width}
