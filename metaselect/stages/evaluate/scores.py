"""The scores of one model on the samples that it is judged on, with 95 % intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metaselect.annotation.quality.noise_estimate import wilson
from metaselect.metrics.bootstrap import bootstrap_intervals
from metaselect.metrics.calibration import calibration_error, confidence_gaps, log_losses
from metaselect.metrics.classification import ClassCounts, count_classes
from metaselect.random import derive_seed
from metaselect.records import Json
from metaselect.stages.evaluate.candidates import ModelPredictions

MOST_CLASSES = 10
"""Classes that are listed as the worst of a model."""
WITH_INTERVAL = ("test_accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error")
SCORES = (
    *(f"{name}{end}" for name in WITH_INTERVAL for end in ("", "_low", "_high")),
    *("per_class_accuracy", "worst_classes", "confusion"),
)
"""Keys of a model's scores; all are None for a model that is not judged."""


class ClassScores(NamedTuple):
    """A model's scores on one class, with the limits of their 95 % intervals; None where there is nothing to divide by.

    Attributes:
        label: name of the class.
        support: samples of the class.
        predicted: samples for which it is predicted.
        right: samples of the class that are predicted right.
        precision: right / predicted.
        precision_low: and the next, by Wilson.
        precision_high: upper limit.
        recall: right / support, the accuracy on the samples of the class.
        recall_low: and the next, by Wilson.
        recall_high: upper limit.
        f1: the harmonic mean of precision and recall.
        f1_low: and the next, from Wilson's limits of right / (support + predicted - right), of which it is a function.
        f1_high: upper limit.
    """

    label: str
    support: int
    predicted: int
    right: int
    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    f1: float | None
    f1_low: float | None
    f1_high: float | None


def class_scores(counts: ClassCounts, classes: Sequence[str]) -> list[ClassScores]:
    """The scores on every class, in the order of the classes."""
    rows = []
    columns = (counts.right.tolist(), counts.support.tolist(), counts.predicted.tolist())
    for label, right, support, predicted in zip(classes, *columns, strict=True):
        # Of the samples that are of the class or are taken for it a share J is right (Jaccard): F1 = 2 J / (1 + J).
        jaccard = _share(right, support + predicted - right)
        f1 = tuple(None if share is None else 2 * share / (1 + share) for share in jaccard)
        scores = (*_share(right, predicted), *_share(right, support), *f1)
        rows.append(ClassScores(label, support, predicted, right, *scores))
    return rows


def model_scores(
    labels: np.ndarray, found: ModelPredictions, classes: Sequence[str]
) -> tuple[dict[str, Json], list[ClassScores]]:
    """The scores of a model for ``metrics.json``, with the keys ``SCORES``, and those on every class.

    Args:
        labels: (m,) int64, true classes.
        found: the model's predictions.
        classes: K names.
    """
    right = labels == found.predicted
    counts = count_classes(labels, found.predicted, len(classes))
    # The same resamples for every model.
    draw = np.random.default_rng(derive_seed(0, "evaluate", "resamples"))
    limits = bootstrap_intervals(
        labels, found.predicted, found.label_prob, found.confidence, len(classes), draw
    )
    gaps = None if found.confidence is None else confidence_gaps(found.confidence, right)
    values: dict[str, float | None] = {
        "balanced_accuracy": counts.balanced_accuracy,
        "macro_f1": counts.macro_f1,
        "log_loss": float(log_losses(found.label_prob).mean()),
        "calibration_error": None if gaps is None else float(calibration_error(gaps)),
    }
    scores: dict[str, Json] = {}
    for name, estimate in (
        ("test_accuracy", _share(int(right.sum()), len(labels))),
        *((name, (value, *(getattr(limits, name) or (None, None)))) for name, value in values.items()),
    ):
        scores |= zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True)
    rows = class_scores(counts, classes)
    occurring = [row for row in rows if row.recall is not None]
    worst = sorted(occurring, key=lambda row: row.recall or 0)[:MOST_CLASSES]
    scores["per_class_accuracy"] = {row.label: row.recall for row in rows}
    scores["worst_classes"] = [row._asdict() for row in worst]
    scores["confusion"] = counts.confusion
    return scores, rows


def _share(count: int, n: int) -> tuple[float | None, float | None, float | None]:
    """A share with Wilson's limits; three times None of nothing."""
    return (count / n, *wilson(count, n)) if n else (None, None, None)
