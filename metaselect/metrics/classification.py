"""Metrics of predicted classes on a labelled set, from counts of each class."""

from dataclasses import dataclass

import numpy as np

from metaselect.records import Json, matrix_rows


@dataclass(frozen=True)
class ClassCounts:
    """What predictions come to, class by class.

    Attributes:
        right: (K,) int64, samples of each class that are predicted right.
        support: (K,) int64, samples of each class.
        predicted: (K,) int64, samples for which each class is predicted.
        confusion: K rows of K counts, a row is a true class; of many classes as ``records.matrix_rows``.
    """

    right: np.ndarray
    support: np.ndarray
    predicted: np.ndarray
    confusion: list[Json]

    @property
    def balanced_accuracy(self) -> float:
        """As the function of that name."""
        return float(balanced_accuracy(self.right, self.support))

    @property
    def macro_f1(self) -> float:
        """As the function of that name."""
        return float(macro_f1(self.right, self.support, self.predicted))


def count_classes(labels: np.ndarray, predicted: np.ndarray, classes: int) -> ClassCounts:
    """The counts of predictions.

    Args:
        labels: (m,) int64, true classes.
        predicted: (m,) int64.
        classes: K.
    """
    matrix = count_pairs(labels, predicted, classes)
    return ClassCounts(matrix.diagonal(), matrix.sum(1), matrix.sum(0), matrix_rows(matrix))


def count_pairs(rows: np.ndarray, columns: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) int64: how many samples have each pair of two classes, both (m,) int64 in 0..K-1."""
    counts: np.ndarray = np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)
    return counts


def balanced_accuracy(right: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The mean recall of the classes that occur.

    Args:
        right: (K, ...) counts as in ``ClassCounts``.
        support: (K, ...).

    Returns:
        (...).
    """
    return _mean_where(support > 0, right / support.clip(1))


def macro_f1(right: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The mean F1 of the classes that occur; arguments (K, ...) as in ``ClassCounts``, result (...)."""
    return _mean_where(support > 0, 2 * right / (support + predicted).clip(1))


def _mean_where(occurs: np.ndarray, values: np.ndarray) -> np.ndarray:
    total: np.ndarray = values.sum(0, where=occurs) / occurs.sum(0)
    return total
