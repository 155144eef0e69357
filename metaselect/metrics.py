"""Numbers that judge a model or its weights; arrays in, records out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score


@dataclass(frozen=True)
class ClassificationMetrics:
    """How a model did on a labelled set.

    Attributes:
        accuracy: share of right predictions.
        per_class_accuracy: K shares, None for a class without samples.
        macro_f1: mean F1 of the classes that occur.
        confusion: K rows of K counts; a row is a true class.
    """

    accuracy: float
    per_class_accuracy: Sequence[float | None]
    macro_f1: float
    confusion: Sequence[Sequence[int]]


def classification(labels: np.ndarray, predicted: np.ndarray, classes: int) -> ClassificationMetrics:
    """Judge predictions.

    Args:
        labels: (n,) int64, true classes.
        predicted: (n,) int64.
        classes: K.
    """
    matrix = confusion_matrix(labels, predicted, labels=np.arange(classes))
    totals = matrix.sum(1)
    return ClassificationMetrics(
        accuracy=float((labels == predicted).mean()),
        per_class_accuracy=[float(matrix[c, c] / totals[c]) if totals[c] else None for c in range(classes)],
        macro_f1=float(
            f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
        ),
        confusion=matrix.tolist(),
    )


def clean_label_auc(weights: np.ndarray, clean: np.ndarray) -> float | None:
    """ROC-AUC of weights against cleanness: the chance that a clean sample weighs more than a wrong one.

    Args:
        weights: (n',) of samples that were not bought.
        clean: (n',) bool, the given label is the true one.

    Returns:
        None where it means nothing: all weights alike, or no wrong (or no clean) label.
    """
    if clean.all() or not clean.any() or weights.min() == weights.max():
        return None
    return float(roc_auc_score(clean, weights))


def precision_of_lowest(weights: np.ndarray, clean: np.ndarray, k: int) -> float | None:
    """Share of wrong labels among the k lowest weights; ties at the edge count in proportion.

    Args:
        weights: (n',).
        clean: (n',) bool.
        k: from 1 to n'; None is returned for 0.
    """
    if k < 1:
        return None
    edge = np.partition(weights, k - 1)[k - 1]
    below, at = weights < edge, weights == edge
    wrong = float((~clean[below]).sum()) + float((~clean[at]).mean()) * (k - int(below.sum()))
    return wrong / k
