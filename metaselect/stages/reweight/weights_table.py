"""``weights.parquet``: the weight of every sample of the pool, and the final model's prediction."""

import numpy as np
import pyarrow as pa

from metaselect.annotation.meta_set import MetaSet
from metaselect.data.store import Dataset
from metaselect.models.predictions import Predictions


def weights_table(
    pool: Dataset,
    meta_set: MetaSet,
    weights: np.ndarray,
    weight_kind: str,
    predictions: Predictions,
    held_out_prob: np.ndarray | None = None,
) -> dict[str, pa.Array]:
    """The table of ``weights.parquet``: one row a sample.

    ``label_issue_rank`` is 1 for the sample whose given label is most likely wrong. It is null for bought and unusable
    samples, and where there is no given label; there the weight is 0. Where all weights are equal, they rank nothing,
    and the probability alone decides: of models that did not see the label, where there are any.

    Args:
        pool: the pool.
        meta_set: the bought samples, and unusable ones.
        weights: (n,) float32 in [0, 1].
        weight_kind: what the weights are.
        predictions: of the final model for the pool, with its given labels.
        held_out_prob: (n,) the probability of the given label by the warm-up's models of the other folds; None: there
            are none.
    """
    n = len(pool)
    classes = np.array(pool.classes, dtype=object)
    bought, unusable = np.zeros(n, bool), np.zeros(n, bool)
    bought[meta_set.bought], unusable[meta_set.unusable] = True, True
    unlabelled = ~pool.labelled
    weights = np.where(bought, 1.0, np.where(unusable | unlabelled, 0.0, weights)).astype(np.float32)
    ranked = ~(bought | unusable | unlabelled)
    ranks = np.zeros(n, np.int64)
    label_prob = predictions.label_prob.cpu().numpy()[ranked]
    held_out = None if held_out_prob is None else held_out_prob[ranked]
    ranks[ranked] = final_ranks(weights[ranked], label_prob, held_out)
    kinds = np.where(unusable, "unusable", np.where(unlabelled, "unlabelled", weight_kind))
    kinds = np.where(bought, "bought", kinds)
    return {
        "sample_id": pa.array(pool.sample_ids, pa.string()),
        "given_label": pa.array(pool.label_names(), pa.string()),
        "weight": pa.array(weights, pa.float32()),
        "weight_kind": pa.array(kinds.tolist(), pa.string()),
        "bought": pa.array(bought, pa.bool_()),
        "predicted_label": pa.array(classes[predictions.predicted.cpu().numpy()].tolist(), pa.string()),
        "predicted_prob": pa.array(predictions.confidence.float().cpu().numpy(), pa.float32()),
        "label_issue_rank": pa.array(ranks, pa.int64(), mask=~ranked),
    }


def final_ranks(weights: np.ndarray, label_prob: np.ndarray, held_out_prob: np.ndarray | None) -> np.ndarray:
    """(n',) ranks from 1, as ``label_issue_ranks``; where all weights are equal, by ``held_out_prob`` if there is one.

    Args:
        weights: (n',) weights in [0, 1].
        label_prob: (n',) the final model's probability of the given label.
        held_out_prob: (n',) that of the warm-up's models of the other folds.
    """
    if held_out_prob is not None and len(np.unique(weights)) == 1:
        label_prob = held_out_prob
    return label_issue_ranks(weights, label_prob)


def label_issue_ranks(weights: np.ndarray, label_prob: np.ndarray) -> np.ndarray:
    """(n',) ranks from 1: by weight, then by the probability of the given label, the lowest first.

    Samples that are equal in both have the same rank, that of the first of them, so that no order is claimed which
    nothing stands for.

    Args:
        weights: (n',) weights in [0, 1].
        label_prob: (n',) a model's probability of the given label.
    """
    order = np.lexsort((label_prob, weights))  # the last key is the first
    weight, prob = weights[order], label_prob[order]
    begins = np.ones(len(order), bool)  # whether a sample differs from the one before
    begins[1:] = (np.diff(weight) > 0) | (np.diff(prob) != 0)
    places = np.arange(1, len(order) + 1)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.maximum.accumulate(np.where(begins, places, 0))
    return ranks
