"""Metrics of a model's predictions and of sample weights; arrays in, records out."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, roc_auc_score

from metaselect.records import Json, matrix_rows

Z = NormalDist().inv_cdf(0.975)  # standard normal deviate, 95 % two-sided


class PairedDifference(NamedTuple):
    """The mean difference of two models over the same samples, the first less the second.

    Attributes:
        difference: the mean over the samples.
        standard_error: of that mean.
        low: lower limit of the 95 % interval.
        high: upper limit.
    """

    difference: float
    standard_error: float
    low: float
    high: float


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


class RankingMetrics(NamedTuple):
    """How well a ranking of the pool finds wrong labels; ties count in proportion.

    Attributes:
        auc: P(a wrong label stands before a right one); None where there is no wrong (or no right) label, and where
            all ranks are equal.
        average_precision: mean of the precisions at each wrong label; None as for ``auc``.
        k: how many of the first samples ``precision_at_k`` is about.
        precision_at_k: share of wrong labels among them; None where all ranks are equal, or ``k`` is 0.
    """

    auc: float | None
    average_precision: float | None
    k: int
    precision_at_k: float | None


def ranking(ranks: np.ndarray, clean: np.ndarray, k: int | None) -> RankingMetrics:
    """The metrics of a ranking of label issues.

    Args:
        ranks: (n',) the lowest for the label that is most likely wrong; equal ranks are ties.
        clean: (n',) bool, whether the given label is the true one.
        k: for the precision at k, at most n'; None: the number of wrong labels.
    """
    k = min(int((~clean).sum()) if k is None else k, len(clean))
    auc = clean_label_auc(ranks, clean)
    average_precision = None if auc is None else float(average_precision_score(~clean, -ranks))
    differ = len(ranks) > 0 and np.ptp(ranks) > 0
    return RankingMetrics(auc, average_precision, k, precision_of_lowest(ranks, clean, k) if differ else None)


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


def paired_accuracy(first: np.ndarray, second: np.ndarray) -> PairedDifference:
    """The difference of two accuracies on the same samples.

    Source: Agresti, Min 2005, "Simple improved confidence intervals for comparing matched proportions", Statistics in
    Medicine 24 (5), 729-740: Wald's interval after half a sample is added to each of the four cells, which is right for
    few samples too. The difference itself is the plain one.

    Args:
        first: (m,) bool, the samples that the first model gets right; m > 0.
        second: (m,) bool, of the second model.
    """
    won, lost, n = int((first & ~second).sum()), int((second & ~first).sum()), len(first)
    centre = (won - lost) / (n + 2)
    error = sqrt((won + lost + 1) - (won - lost) ** 2 / (n + 2)) / (n + 2)
    low, high = max(centre - Z * error, -1.0), min(centre + Z * error, 1.0)
    return PairedDifference((won - lost) / n, error, low, high)


def paired_mean(first: np.ndarray, second: np.ndarray) -> PairedDifference:
    """The difference of two means over the same samples, with Student's interval.

    Source: Abramowitz, Stegun 1964, 26.7.5: the quantile of Student's t by its expansion around the normal one.

    Args:
        first: (m,) values such as losses of the first model; m > 1.
        second: (m,) of the second model.
    """
    differences = first - second
    freedom = len(differences) - 1
    error = float(differences.std(ddof=1)) / sqrt(len(differences))
    t = Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
    t += (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * freedom**3)
    mean = float(differences.mean())
    return PairedDifference(mean, error, mean - t * error, mean + t * error)
