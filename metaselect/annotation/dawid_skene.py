"""The Dawid-Skene consensus: a confusion matrix of each annotator, estimated together with the true answers by EM.

Source: Dawid and Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM algorithm",
Applied Statistics 28 (1), 20-28: eqs. 2.3 to 2.5.
Differs: as in crowd-kit it starts from the shares of the votes, raises zero rates to ``FLOOR``, so that no single vote
excludes an answer, and stops when a step gains less than 1e-5 a vote. The gain is that of the log-likelihood itself;
crowd-kit's bound counts the prior once a vote, so that it may stop at another step.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

ITERATIONS = 100
TOLERANCE = 1e-5
FLOOR = 1e-10
DIGITS = 12  # of a probability: rounding errors must not separate answers that are equal by symmetry
Value = TypeVar("Value", str, tuple[str, str])


def dawid_skene(
    samples: np.ndarray,
    annotators: np.ndarray,
    answers: np.ndarray,
    *,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> np.ndarray:
    """The probability of every answer for every sample; takes memory for about 3 n A floats.

    Args:
        samples: (V,) int64, 0..n-1, of each vote; every sample has one at least.
        annotators: (V,) int64, 0..W-1; several votes of one annotator for one sample all count.
        answers: (V,) int64, 0..A-1.
        iterations: at most so many.
        tolerance: least gain of the log-likelihood, divided by the number of votes.

    Returns:
        (n, A) float64, rows add up to 1.
    """
    n, width = samples.max(initial=-1) + 1, answers.max(initial=-1) + 1
    # Rates are kept for pairs of annotator and answer that occur: only those enter the likelihood.
    cells, cell = np.unique(annotators * width + answers, return_inverse=True)
    annotator = cells // width
    # (A, n): transposed, so that each bincount below reads a contiguous row.
    probs = np.bincount(answers * n + samples, minlength=width * n).reshape(width, n)
    probs = probs / probs.sum(0)
    before = -np.inf
    for _ in range(iterations):
        prior = np.log(np.maximum(probs.mean(1), FLOOR))  # Eq. 2.4
        rates = np.log(_rates(probs, samples, cell, annotator))
        likelihood = _sum_of_votes(rates, samples, cell, n) + prior[:, None]
        top = likelihood.max(0)
        probs = np.exp(likelihood - top)  # Eq. 2.5, scaled by its largest term
        total = probs.sum(0)
        probs = np.round(probs / total, DIGITS)
        log_likelihood = float((top + np.log(total)).sum()) / len(samples)
        if log_likelihood - before < tolerance:
            break
        before = log_likelihood
    return np.asarray(probs.T)


def integer_codes(column: Sequence[Value]) -> tuple[list[Value], np.ndarray]:
    """The different values of a column, sorted, and (V,) int64 the position of each row's value among them."""
    values = sorted(set(column))
    code_of = {value: code for code, value in enumerate(values)}
    return values, np.fromiter(map(code_of.__getitem__, column), np.int64, len(column))


def _rates(probs: np.ndarray, samples: np.ndarray, cell: np.ndarray, annotator: np.ndarray) -> np.ndarray:
    """Eq. 2.3: (A, cells), how often an annotator gives the cell's answer where the true one is the row's."""
    counts = np.stack([np.bincount(cell, weights=row[samples], minlength=len(annotator)) for row in probs])
    counts = np.maximum(counts, FLOOR)
    totals = np.stack([np.bincount(annotator, weights=row) for row in counts])
    return np.asarray(counts / totals[:, annotator])


def _sum_of_votes(rates: np.ndarray, samples: np.ndarray, cell: np.ndarray, n: int) -> np.ndarray:
    """Eq. 2.5 without the prior, in logarithms: (A, n)."""
    return np.stack([np.bincount(samples, weights=row[cell], minlength=n) for row in rates])
