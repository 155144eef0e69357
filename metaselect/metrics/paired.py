"""The difference of two models on the same samples, with an interval."""

from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

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

    Args:
        first: (m,) values such as losses of the first model; m > 1.
        second: (m,) of the second model.
    """
    differences = first - second
    error = float(differences.std(ddof=1)) / sqrt(len(differences))
    t = float(stdtrit(len(differences) - 1, 0.975))
    mean = float(differences.mean())
    return PairedDifference(mean, error, mean - t * error, mean + t * error)
