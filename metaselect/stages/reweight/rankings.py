"""How well each reason to doubt a label, taken as a ranking, finds the given labels that bought ones contradict."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from metaselect.metrics.auc_interval import auc_interval
from metaselect.metrics.ranking import clean_label_auc

FEWEST = 5  # wrong bought labels, and right ones, that a ranking is judged by


class JudgedRanking(NamedTuple):
    """How well a ranking does.

    Attributes:
        auc: the chance that a wrong label stands before a right one, ties counted half; None where it is not judged.
        low: lower limit of the 95 % interval.
        high: upper limit.
        reason: why it is not judged; None where it is.
    """

    auc: float | None
    low: float | None
    high: float | None
    reason: str | None = None


def judge_rankings(trust: Mapping[str, np.ndarray | str], right: np.ndarray) -> dict[str, JudgedRanking]:
    """Each ranking beside its AUC.

    Args:
        trust: by name, (m',) values that are higher for labels that are trusted more; or why there are none.
        right: (m',) bool, whether the given label is the bought one.
    """
    return {name: _judged(values, right) for name, values in trust.items()}


def _judged(values: np.ndarray | str, right: np.ndarray) -> JudgedRanking:
    if isinstance(values, str):
        return JudgedRanking(None, None, None, values)
    if reason := too_few(right):
        return JudgedRanking(None, None, None, reason)
    auc = clean_label_auc(values, right)
    if auc is None:
        return JudgedRanking(None, None, None, "it says the same of all bought samples")
    low, high = auc_interval(auc, int((~right).sum()), int(right.sum()))
    return JudgedRanking(auc, low, high)


def too_few(right: np.ndarray) -> str:
    """Why (m',) bought labels judge no ranking; empty where they do."""
    wrong = int((~right).sum())
    if min(wrong, len(right) - wrong) >= FEWEST:
        return ""
    return (
        f"it takes {FEWEST} bought labels that differ from the given one and {FEWEST} that do not, and there are "
        f"{wrong} and {len(right) - wrong}"
    )
