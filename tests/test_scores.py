"""Scores of predictions: against scikit-learn, by hand, and whether the intervals hold the truth."""

import tracemalloc
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

from metaselect.metrics.bootstrap import BootstrapIntervals, bootstrap_intervals, calibration_interval
from metaselect.metrics.calibration import BINS, calibration_error, confidence_gaps, log_losses
from metaselect.metrics.classification import count_classes
from metaselect.stages.evaluate.candidates import ModelPredictions
from metaselect.stages.evaluate.scores import SCORES, WITH_INTERVAL, ClassScores, class_scores, model_scores


class Case(NamedTuple):
    """(m,) labels, and (m, K) probabilities of the classes."""

    labels: np.ndarray
    probs: np.ndarray

    @property
    def predictions(self) -> ModelPredictions:
        """As a stage has them."""
        rows = np.arange(len(self.labels))
        return ModelPredictions(self.probs.argmax(1), self.probs[rows, self.labels], self.probs.max(1))

    @property
    def names(self) -> list[str]:
        """Of the K classes."""
        return [f"c{place}" for place in range(self.probs.shape[1])]

    def scores(self) -> tuple[dict[str, Any], list[ClassScores]]:
        """What is written of it."""
        return model_scores(self.labels, self.predictions, self.names)


def random_case(seed: int) -> Case:
    """Of 2 to 7 classes, some of which are absent, or never predicted."""
    draw = np.random.default_rng(seed)
    classes, m = int(draw.integers(2, 8)), int(draw.integers(1, 60))
    present = draw.choice(classes, int(draw.integers(1, classes + 1)), replace=False)
    labels = draw.choice(present, m)
    logits = draw.normal(size=(m, classes)) * draw.uniform(0.1, 40) + 3 * np.eye(classes)[labels]
    logits[:, draw.integers(classes)] -= 5
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return Case(labels, (raised / raised.sum(1, keepdims=True)).astype(np.float32))


def looped_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Guo et al. 2017, Eq. 3, bin by bin."""
    total = 0.0
    for place in range(BINS):
        inside = [
            index
            for index, value in enumerate(confidence.astype(np.float64))
            if (place / BINS < value) and (value <= (place + 1) / BINS or place == BINS - 1)
        ]
        if inside:
            accuracy, mean = np.mean(right[inside]), np.mean(confidence[inside].astype(np.float64))
            total += len(inside) / len(right) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label")
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    case = random_case(seed)
    labels, (predicted, label_prob, confidence) = case.labels, case.predictions
    assert confidence is not None
    found, rows = case.scores()
    assert tuple(found) == SCORES
    assert found["test_accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    macro = f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro)
    # Of rows that sum to 1 in float64, as scikit-learn wants them.
    exact = case.probs.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    expected = log_loss(labels, exact, labels=np.arange(len(case.names)))
    assert found["log_loss"] == pytest.approx(expected, abs=1e-6)
    assert log_losses(label_prob).max() < 36.1
    ours = looped_calibration_error(confidence, labels == predicted)
    assert found["calibration_error"] == pytest.approx(ours)
    columns = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(case.names)), zero_division=np.nan
    )
    for row, precision, recall, f1, support in zip(rows, *columns, strict=True):
        assert row.support == support
        for share, theirs in ((row.precision, precision), (row.recall, recall), (row.f1, f1)):
            assert (np.nan if share is None else share) == pytest.approx(theirs, nan_ok=True)
        for score in ("precision", "recall", "f1"):
            value, low, high = (getattr(row, f"{score}{end}") for end in ("", "_low", "_high"))
            assert value is low is high is None or 0 <= low <= value <= high <= 1
    for name in WITH_INTERVAL:
        assert found[f"{name}_low"] <= found[f"{name}_high"]
    assert found["calibration_error_low"] <= found["calibration_error"] <= found["calibration_error_high"]


def test_classes_by_hand() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 0, 1, 1, 2, 3])
    counts = count_classes(labels, predicted, 4)
    assert counts.confusion == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert counts.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)  # class 2 does not occur
    # F1 of class 0: 2*2/(3+2), of class 1: 2*1/(2+2), of class 3: 1; class 2 does not occur.
    assert counts.macro_f1 == pytest.approx((4 / 5 + 1 / 2 + 1) / 3)
    rows = class_scores(counts, ["a", "b", "c", "d"])
    assert [row.recall for row in rows] == [2 / 3, 1 / 2, None, 1]
    assert [row.precision for row in rows] == [1, 1 / 2, 0, 1]
    assert [row.f1 for row in rows] == pytest.approx([4 / 5, 1 / 2, 0, 1])
    # Wilson's limits of 1 of 3, by hand: (1/3 + z²/6 -+ z sqrt(2/27 + z²/36)) / (1 + z²/3).
    z = 1.959964
    spread = z * np.sqrt(2 / 27 + z**2 / 36)
    low, high = ((1 / 3 + z**2 / 6 + sign * spread) / (1 + z**2 / 3) for sign in (-1, 1))
    assert rows[1].f1_low == pytest.approx(2 * low / (1 + low), rel=1e-5)
    assert rows[1].f1_high == pytest.approx(2 * high / (1 + high), rel=1e-5)


def test_the_worst_classes_are_those_of_the_lowest_recall() -> None:
    labels = np.repeat(np.arange(12), 4)
    wrong = np.tile(np.arange(4), 12) < np.array([1, 3, 0, 2, 3, 1, 0, 0, 0, 0, 0, 0]).repeat(4)
    predicted = np.where(wrong, (labels + 1) % 12, labels)
    found, _ = model_scores(labels, ModelPredictions(predicted, np.full(48, 0.5), None), list("abcdefghijkl"))
    worst: Any = found["worst_classes"]
    assert [row["label"] for row in worst] == list("bedafcghij")
    assert worst[0]["recall"] == 1 / 4
    assert found["calibration_error"] is found["calibration_error_low"] is None


def test_a_model_that_says_one_class() -> None:
    labels = np.zeros(4, np.int64)
    right, wrong = (count_classes(labels, np.full(4, place), 2) for place in (0, 1))
    assert (right.balanced_accuracy, right.macro_f1) == (1, 1)
    assert (wrong.balanced_accuracy, wrong.macro_f1) == (0, 0)
    assert [row.recall for row in class_scores(right, ["a", "b"])] == [1, None]


def test_probabilities_at_the_ends_of_bins() -> None:
    """A bin has its upper end and not its lower one; 1 is in the last."""
    ends = np.array([1 / 15, 2 / 15, 1.0])
    inside = confidence_gaps(ends, np.zeros(3, bool)) * 3
    assert inside[[0, 1, 14]] == pytest.approx(ends)
    assert np.count_nonzero(inside) == 3
    assert confidence_gaps(np.nextafter(ends, 2)[:2], np.zeros(2, bool))[[1, 2]] == pytest.approx(
        [1 / 30, 1 / 15]
    )


def test_the_order_of_the_samples_does_not_matter() -> None:
    case = random_case(5)
    order = np.random.default_rng(1).permutation(len(case.labels))
    mixed = Case(case.labels[order], case.probs[order]).scores()[0]
    for key, value in case.scores()[0].items():
        assert mixed[key] == (value if isinstance(value, dict | list) else pytest.approx(value, rel=1e-12))


def test_resamples_are_those_of_a_direct_bootstrap() -> None:
    """The same draws, each resample scored as a sample of its own."""
    case = random_case(8)
    order = np.lexsort((case.probs.max(1), case.predictions.label_prob, case.probs.argmax(1), case.labels))
    labels, (predicted, label_prob, confidence) = (
        case.labels[order],
        Case(*(each[order] for each in case)).predictions,
    )
    drawn = np.random.default_rng(3).integers(0, len(labels), (1000, len(labels)))
    direct = []
    for rows in drawn:
        counts = count_classes(labels[rows], predicted[rows], len(case.names))
        direct.append((counts.balanced_accuracy, counts.macro_f1, log_losses(label_prob[rows]).mean()))
    found = bootstrap_intervals(
        labels, predicted, label_prob, confidence, len(case.names), np.random.default_rng(3)
    )
    assert pytest.approx(np.array(found[:3])) == np.quantile(direct, (0.025, 0.975), axis=0).T


def test_the_interval_of_a_calibration_error_holds_what_the_found_one_is_usual_for() -> None:
    """At its limits, the found error is at a quantile of the ones that gaps of that size give."""
    draw = np.random.default_rng(2)
    gaps = draw.normal(0, 0.01, BINS)
    resampled = gaps[:, None] + draw.normal(0, 0.002, (BINS, 1000))
    low, high = calibration_interval(gaps, resampled)
    found = float(calibration_error(gaps))
    assert 0 < low < found < high
    for limit, share in ((low, 0.975), (high, 0.025)):
        errors = calibration_error((limit / found - 1) * gaps[:, None] + resampled)
        assert np.quantile(errors, share) == pytest.approx(found, rel=1e-6)
    assert calibration_interval(gaps / 100, resampled - 0.99 * gaps[:, None])[0] == 0
    assert calibration_interval(np.zeros(BINS), np.zeros((BINS, 1000))) == (0, 0)


def test_memory_is_bounded() -> None:
    """50,000 samples of 1,000 classes: less than the counts of all resamples would take in bytes, 400 MB."""
    draw = np.random.default_rng(0)
    labels, predicted = draw.integers(0, 1000, (2, 50_000))
    probs = draw.random(50_000)
    tracemalloc.start()
    bootstrap_intervals(labels, predicted, probs, probs, 1000, draw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6


SHARES = np.array([0.4, 0.3, 0.2, 0.1])


def simulated(seed: int, m: int, sharpness: float) -> Case:
    """Samples of four classes with known class probabilities, which the model raises to a power: 1 is calibrated."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(4, m, p=SHARES)
    logits = sharpness * (2 * (draw.normal(size=(m, 4)) + 2 * np.eye(4)[labels]) + np.log(SHARES))
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return Case(labels, raised / raised.sum(1, keepdims=True))


def true_scores(sharpness: float) -> np.ndarray:
    """In the field order of ``BootstrapIntervals``, of very many samples."""
    case = simulated(0, 1_000_000, sharpness)
    found = case.predictions
    assert found.confidence is not None
    counts = count_classes(case.labels, found.predicted, 4)
    error = calibration_error(confidence_gaps(found.confidence, case.labels == found.predicted))
    return np.array(
        [counts.balanced_accuracy, counts.macro_f1, log_losses(found.label_prob).mean(), float(error)]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("m", "sharpness"), [(300, 1.0), (300, 1.6), (1000, 1.15)])
def test_the_intervals_hold_the_truth_in_about_95_of_100_samples(m: int, sharpness: float) -> None:
    """Of models that are calibrated, over-confident, and nearly calibrated."""
    truth = true_scores(sharpness)
    covered = np.zeros(len(BootstrapIntervals._fields))
    for seed in range(1, 501):
        case = simulated(seed, m, sharpness)
        found = bootstrap_intervals(case.labels, *case.predictions, 4, np.random.default_rng(seed))
        covered += [
            limits is not None and limits[0] <= true <= limits[1]
            for limits, true in zip(found, truth, strict=True)
        ]
    assert (covered / 500 >= 0.92).all(), covered
    assert (covered / 500 <= 0.985).all(), covered


@pytest.mark.slow
def test_the_interval_of_an_f1_holds_the_truth() -> None:
    """Of every class, in samples in which a class has 20 to 80 of 200."""
    counts = count_classes(*_labels_and_predictions(simulated(0, 1_000_000, 1.0)), 4)
    truth = [row.f1 for row in class_scores(counts, list("abcd"))]
    covered = np.zeros(4)
    for seed in range(1, 1001):
        counts = count_classes(*_labels_and_predictions(simulated(seed, 200, 1.0)), 4)
        covered += [
            row.f1_low <= true <= row.f1_high  # type: ignore[operator]
            for row, true in zip(class_scores(counts, list("abcd")), truth, strict=True)
        ]
    assert (covered / 1000 >= 0.93).all(), covered
    assert (covered / 1000 <= 0.975).all(), covered


def _labels_and_predictions(case: Case) -> tuple[np.ndarray, np.ndarray]:
    return case.labels, case.predictions.predicted
