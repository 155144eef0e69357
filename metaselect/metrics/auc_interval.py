"""An interval for the area under a ROC curve that holds for few samples too.

Source: method 5 of Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic.
Part 2", Statistics in Medicine 25 (4), 559-573. Unlike DeLong's it has a width where all pairs are in order, which
with few samples happens by chance.
"""

from math import sqrt

from metaselect.metrics.paired import Z

BISECTIONS = 50  # of an interval within [0, 1]


def auc_interval(auc: float, wrong: int, right: int) -> tuple[float, float]:
    """The limits of the 95 % interval: the AUCs from which the found one is 1.96 of their standard errors away.

    Args:
        auc: in [0, 1].
        wrong: samples of the one kind, at least 1.
        right: of the other.
    """
    return _lower_limit(auc, wrong, right), 1 - _lower_limit(1 - auc, wrong, right)


def _lower_limit(auc: float, wrong: int, right: int) -> float:
    """By bisection: at 0 an AUC is far from the found one, at the found one it is not."""
    far, near = 0.0, auc
    for _ in range(BISECTIONS):
        middle = (far + near) / 2
        if auc - middle > Z * sqrt(_variance(middle, wrong, right)):
            far = middle
        else:
            near = middle
    return near


def _variance(auc: float, wrong: int, right: int) -> float:
    """Of an estimate of this AUC, for two exponential distributions (Hanley and McNeil 1982) of equal sizes."""
    others = (wrong + right) / 2 - 1
    shape = 1 + others * ((1 - auc) / (2 - auc) + auc / (1 + auc))
    return auc * (1 - auc) * shape / (wrong * right)
