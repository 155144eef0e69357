"""Metrics of a model's predictions and of sample weights; arrays in, records out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of predictions on a labelled set.

    Attributes:
        accuracy: share of correct predictions.
        per_class_accuracy: K shares, None for a class without samples.
        macro_f1: mean F1 of the classes that occur.
        confusion: K rows of K counts; a row is a true class.
    """

    accuracy: float
    per_class_accuracy: Sequence[float | None]
    macro_f1: float
    confusion: Sequence[Sequence[int]]


def classification(labels: np.ndarray, predicted: np.ndarray, classes: int) -> ClassificationMetrics:
    """The metrics of predictions.

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
    """ROC-AUC of weights as scores for clean labels: P(a clean sample has a higher weight than a wrong one).

    Args:
        weights: (n',) weights of samples whose labels were not bought.
        clean: (n',) bool, whether the given label is the true one.

    Returns:
        None where it is undefined: all weights are equal, or there is no wrong (or no clean) label.
    """
    if clean.all() or not clean.any() or weights.min() == weights.max():
        return None
    return float(roc_auc_score(clean, weights))


def precision_of_lowest(weights: np.ndarray, clean: np.ndarray, k: int) -> float | None:
    """Precision at k: share of wrong labels among the k lowest weights; ties at the k-th count in proportion.

    Args:
        weights: (n',).
        clean: (n',) bool.
        k: from 1 to n'; the result is None for 0.
    """
    if k < 1:
        return None
    kth = np.partition(weights, k - 1)[k - 1]
    below, tied = weights < kth, weights == kth
    wrong = float((~clean[below]).sum()) + float((~clean[tied]).mean()) * (k - int(below.sum()))
    return wrong / k
