"""Metrics of a model's predictions on a labelled set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score

from metaselect.records import Json, matrix_rows


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of predictions on a labelled set.

    Attributes:
        accuracy: share of correct predictions.
        balanced_accuracy: mean of the accuracies of the classes that occur.
        per_class_accuracy: K shares, None for a class without samples.
        macro_f1: mean F1 of the classes that occur.
        confusion: K rows of K counts, a row is a true class; of many classes as ``records.matrix_rows``.
    """

    accuracy: float
    balanced_accuracy: float
    per_class_accuracy: Sequence[float | None]
    macro_f1: float
    confusion: Sequence[Json]


def classification(labels: np.ndarray, predicted: np.ndarray, classes: int) -> ClassificationMetrics:
    """The metrics of predictions.

    Args:
        labels: (n,) int64, true classes.
        predicted: (n,) int64.
        classes: K.
    """
    matrix = confusion_matrix(labels, predicted, labels=np.arange(classes))
    totals = matrix.sum(1)
    occurs = totals > 0
    return ClassificationMetrics(
        accuracy=float((labels == predicted).mean()),
        balanced_accuracy=float((matrix.diagonal()[occurs] / totals[occurs]).mean()),
        per_class_accuracy=[float(matrix[c, c] / totals[c]) if totals[c] else None for c in range(classes)],
        macro_f1=float(
            f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
        ),
        confusion=matrix_rows(matrix),
    )
