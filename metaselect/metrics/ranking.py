"""Metrics of sample weights and of rankings of label issues, where it is known which labels are wrong.

AUC and average precision are computed here in a few lines, with the values of scikit-learn's ``roc_auc_score`` and
``average_precision_score``, whose import takes a second of every command that judges a ranking.
"""

from typing import NamedTuple

import numpy as np


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
    wrong = np.sort(weights[~clean])
    below, up_to = (np.searchsorted(wrong, weights[clean], side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(wrong))  # ties count half


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
    average_precision = None if auc is None else _average_precision(ranks, clean)
    differ = len(ranks) > 0 and np.ptp(ranks) > 0
    return RankingMetrics(auc, average_precision, k, mean_of_lowest(ranks, ~clean, k) if differ else None)


def _average_precision(ranks: np.ndarray, clean: np.ndarray) -> float:
    """The sum over distinct ranks of the precision up to there, times the share of the wrong labels of that rank."""
    _, place = np.unique(ranks, return_inverse=True)
    listed, wrong = np.bincount(place), np.bincount(place, ~clean)
    return float((wrong * wrong.cumsum() / listed.cumsum()).sum() / wrong.sum())


def mean_of_lowest(ranks: np.ndarray, values: np.ndarray, k: int) -> float | None:
    """The mean value of the k samples of the lowest ranks; of wrong labels it is the precision at k.

    Ties at the k-th count in proportion.

    Args:
        ranks: (n',).
        values: (n',) numbers, or bool.
        k: from 1 to n'; the result is None for 0.
    """
    if k < 1:
        return None
    kth = np.partition(ranks, k - 1)[k - 1]
    below, tied = ranks < kth, ranks == kth
    total = float(values[below].sum()) + float(values[tied].mean()) * (k - int(below.sum()))
    return total / k
