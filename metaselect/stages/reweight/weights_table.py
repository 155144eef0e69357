"""``weights.parquet``: the weight of every sample of the pool, and the final model's prediction."""

import numpy as np
import pyarrow as pa

from metaselect.annotation.meta_set import MetaSet
from metaselect.data.store import Dataset
from metaselect.models.predictions import Predictions


def weights_table(
    pool: Dataset, meta_set: MetaSet, weights: np.ndarray, weight_kind: str, predictions: Predictions
) -> dict[str, pa.Array]:
    """The table of ``weights.parquet``: one row a sample.

    ``label_issue_rank`` is 1 for the sample whose given label is most likely wrong (lowest weight, then lowest
    probability of the given label); it is null for bought and unusable samples.
    """
    n = len(pool)
    classes = np.array(pool.classes, dtype=object)
    bought, unusable = np.zeros(n, bool), np.zeros(n, bool)
    bought[meta_set.bought], unusable[meta_set.unusable] = True, True
    weights = np.where(bought, 1.0, np.where(unusable, 0.0, weights)).astype(np.float32)
    open_ids = (~(bought | unusable)).nonzero()[0]
    label_prob = predictions.label_prob.cpu().numpy()
    # lexsort takes the last key first: weight, then probability, then index.
    order = open_ids[np.lexsort((open_ids, label_prob[open_ids], weights[open_ids]))]
    ranks = np.zeros(n, np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    kinds = np.where(bought, "bought", np.where(unusable, "unusable", weight_kind))
    return {
        "sample_id": pa.array(pool.sample_ids, pa.string()),
        "given_label": pa.array(classes[pool.labels].tolist(), pa.string()),
        "weight": pa.array(weights, pa.float32()),
        "weight_kind": pa.array(kinds.tolist(), pa.string()),
        "bought": pa.array(bought, pa.bool_()),
        "predicted_label": pa.array(classes[predictions.predicted.cpu().numpy()].tolist(), pa.string()),
        "predicted_prob": pa.array(predictions.confidence.float().cpu().numpy(), pa.float32()),
        "label_issue_rank": pa.array(ranks, pa.int64(), mask=bought | unusable),
    }
