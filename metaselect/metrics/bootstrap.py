"""95 % intervals of scores by resampling the test samples.

Source: Efron, Tibshirani 1993, "An introduction to the bootstrap", chapter 13: the percentile interval.
Differs: for the calibration error, whose value in a sample is above the true one (the more so in a resample), the
interval holds the true values for which the one that was found is not unusual (chapter 12.3 and Hansen 1999, "The grid
bootstrap and the autoregressive model": a test is inverted): the gaps of all bins are scaled, the noise stays.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.sparse import coo_array

from metaselect.metrics.calibration import (
    BINS,
    calibration_error,
    confidence_bins,
    confidence_gaps,
    log_losses,
)
from metaselect.metrics.classification import balanced_accuracy, macro_f1

RESAMPLES = 1000
LIMITS = (0.025, 0.975)
CHUNK = 2**21  # numbers of times that samples are drawn, held at once
HALVINGS = 40  # of the range in which a limit lies

Interval: TypeAlias = tuple[float, float]


class BootstrapIntervals(NamedTuple):
    """Lower and upper limits; that of the calibration error is None where the confidence is not known."""

    balanced_accuracy: Interval
    macro_f1: Interval
    log_loss: Interval
    calibration_error: Interval | None


def bootstrap_intervals(
    labels: np.ndarray,
    predicted: np.ndarray,
    label_prob: np.ndarray,
    confidence: np.ndarray | None,
    classes: int,
    draw: np.random.Generator,
) -> BootstrapIntervals:
    """The intervals of a model's scores; the order of the samples does not change them.

    Args:
        labels: (m,) int64, true classes.
        predicted: (m,) int64.
        label_prob: (m,) the probability of the true class.
        confidence: (m,) that of the predicted class; None: not known.
        classes: K.
        draw: the resamples.
    """
    known = confidence is not None
    top = np.ones(len(labels)) if confidence is None else confidence
    order = np.lexsort((top, label_prob, predicted, labels))
    labels, predicted, label_prob, top = labels[order], predicted[order], label_prob[order], top[order]
    right = labels == predicted
    # A row for each sum over the samples: of the three counts of each class, the losses, and the gaps of each bin.
    parts = [
        (labels, np.ones(len(labels))),
        (classes + predicted, np.ones(len(labels))),
        (2 * classes + labels, right),
        (np.full(len(labels), 3 * classes), log_losses(label_prob)),
        (3 * classes + 1 + confidence_bins(top), top - right),
    ]
    rows, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    places = (rows, np.tile(np.arange(len(labels)), len(parts)))
    matrix = coo_array((values, places), (3 * classes + 1 + BINS, len(labels))).tocsr()
    balanced, f1, losses, gaps = [], [], [], []
    for counts in _times_drawn(len(labels), draw):
        sums = matrix @ counts
        support, guessed, hits = sums[: 3 * classes].reshape(3, classes, -1)
        balanced.append(balanced_accuracy(hits, support))
        f1.append(macro_f1(hits, support, guessed))
        losses.append(sums[3 * classes] / len(labels))
        gaps.append(sums[3 * classes + 1 :] / len(labels))
    calibration = (
        calibration_interval(confidence_gaps(top, right), np.concatenate(gaps, 1)) if known else None
    )
    limits = [percentiles(np.concatenate(values)) for values in (balanced, f1, losses)]
    return BootstrapIntervals(limits[0], limits[1], limits[2], calibration)


def percentiles(values: np.ndarray) -> Interval:
    """The limits between which 95 % of the (R,) values lie."""
    low, high = np.quantile(values, LIMITS)
    return float(low), float(high)


def calibration_interval(gaps: np.ndarray, resampled: np.ndarray) -> Interval:
    """The interval of the calibration error, which holds the one that was found.

    Args:
        gaps: (BINS,) of the sample.
        resampled: (BINS, R) of the resamples.
    """
    found, noise = float(calibration_error(gaps)), resampled - gaps[:, None]
    if found == 0:
        return percentiles(calibration_error(resampled))

    def unusual(scale: float, limit: float) -> bool:
        """Whether the found error is below this quantile of the ones that gaps of such a size would give."""
        return float(np.quantile(calibration_error(scale * gaps[:, None] + noise), limit)) > found

    ends = []
    for limit in reversed(LIMITS):
        # With the gaps at ``most`` times their size, no noise brings the error down to the found one.
        least, most = 0.0, 1 + float(calibration_error(noise).max()) / found
        for _ in range(HALVINGS):
            middle = (least + most) / 2
            least, most = (least, middle) if unusual(middle, limit) else (middle, most)
        ends.append(least * found)
    return min(ends[0], found), max(ends[1], found)


def _times_drawn(m: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each sample is in each resample: (m, c) float64, until all ``RESAMPLES`` are made."""
    size = min(max(CHUNK // m, 1), RESAMPLES)
    for start in range(0, RESAMPLES, size):
        count = min(size, RESAMPLES - start)
        drawn = draw.integers(0, m, (count, m)) + m * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * m)
        yield np.ascontiguousarray(times.reshape(count, m).T, dtype=np.float64)
