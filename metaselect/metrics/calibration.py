"""How far a model's probabilities are to be believed: log loss and expected calibration error."""

import numpy as np

BINS = 15
LEAST_PROB = float(np.finfo(np.float64).eps)
"""A probability below counts as this, as in scikit-learn, so that a loss is finite."""


def log_losses(label_prob: np.ndarray) -> np.ndarray:
    """(m,) float64, in nats: -log of the (m,) probabilities of the true classes."""
    losses: np.ndarray = -np.log(label_prob.astype(np.float64).clip(LEAST_PROB, 1))
    return losses


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """(m,) int64: in which of ``BINS`` equal intervals of (0, 1], each with its upper end, a probability lies."""
    return np.searchsorted(np.arange(1, BINS) / BINS, confidence.astype(np.float64), side="left")


def confidence_gaps(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(BINS,) float64: the summed confidence less the number of right predictions of each bin, over all m samples.

    Args:
        confidence: (m,) the probability of the predicted class, in (0, 1].
        right: (m,) bool, whether it is the true one.
    """
    gaps = np.bincount(confidence_bins(confidence), confidence.astype(np.float64) - right, BINS)
    found: np.ndarray = gaps / len(right)
    return found


def calibration_error(gaps: np.ndarray) -> np.ndarray:
    """The expected calibration error, from the (BINS, ...) gaps: the mean distance of confidence and accuracy of a bin.

    Source: Guo, Pleiss, Sun, Weinberger 2017, "On calibration of modern neural networks", arXiv:1706.04599, Eq. 3, with
    15 bins of equal width.
    """
    found: np.ndarray = np.abs(gaps).sum(0)
    return found
