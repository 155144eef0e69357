"""The comparison of a re-weighting with plain training and with the warm-up, from predictions of bought samples.

It needs no test set: every bought sample is predicted by models that were trained without it (``cross_fit``).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metaselect.metrics.paired import PairedDifference, paired_accuracy, paired_mean
from metaselect.records import Json
from metaselect.registry import BASELINE
from metaselect.stages.reweight.cross_fit import CrossFitRow

LEAST_PROB = 1e-3  # a probability below counts as this, so that one sample does not decide the log loss
WARMUP_NAME = "the warm-up"


class ArmScores(NamedTuple):
    """A model's scores on the bought samples: (m,) bool whether it is right, (m,) float64 log losses."""

    right: np.ndarray
    losses: np.ndarray

    def as_json(self) -> Json:
        """Count, share and mean."""
        right = int(self.right.sum())
        return {"right": right, "accuracy": right / len(self.right), "log_loss": float(self.losses.mean())}


def compare(rows: Sequence[CrossFitRow], name: str, *, is_baseline: bool) -> dict[str, Json]:
    """The comparison, for ``stage.json`` and ``--json``.

    Args:
        rows: of ``cross_fit.csv``; those without a bought label are left out.
        name: of the re-weighting.
        is_baseline: its method is the baseline, so that there is the warm-up alone to compare it with.
    """
    bought = [row for row in rows if row.clean_label]
    warmup, baseline, method = (arm_scores(bought, arm) for arm in ("warmup", "baseline", "method"))
    assert method is not None
    others = {BASELINE: None if is_baseline else baseline, WARMUP_NAME: warmup}
    compared = {other: scores for other, scores in others.items() if scores is not None}
    accuracy = {other: paired_accuracy(method.right, scores.right) for other, scores in compared.items()}
    losses = {other: paired_mean(method.losses, scores.losses) for other, scores in compared.items()}
    against: dict[str, Json] = {
        key: {"accuracy": accuracy[other]._asdict(), "log_loss": losses[other]._asdict()}
        if other in compared
        else None
        for key, other in (("against_baseline", BASELINE), ("against_warmup", WARMUP_NAME))
    }
    right = {other: int(scores.right.sum()) for other, scores in compared.items()}
    return {
        "bought": len(bought),
        "warmup": warmup and warmup.as_json(),
        "baseline": baseline and baseline.as_json(),
        "method": method.as_json(),
        **against,
        "verdict": verdict(accuracy[BASELINE]) if BASELINE in accuracy else None,
        "sentence": _sentence(name, int(method.right.sum()), len(bought), right, accuracy),
    }


def arm_scores(rows: Sequence[CrossFitRow], arm: str) -> ArmScores | None:
    """The scores of an arm on rows with a bought label; None for a warm-up that there is not."""
    predicted = [getattr(row, f"{arm}_predicted") for row in rows]
    if not all(predicted):
        return None
    right = np.array([row.clean_label == label for row, label in zip(rows, predicted, strict=True)])
    probs = np.array([getattr(row, f"{arm}_prob") for row in rows], np.float64)
    return ArmScores(right, -np.log(probs.clip(LEAST_PROB, 1)))


def verdict(accuracy: PairedDifference) -> str:
    """Better or worse where the 95 % interval of the difference leaves 0 out, else undecided."""
    if accuracy.low > 0:
        return "better"
    return "worse" if accuracy.high < 0 else "undecided"


def difference_phrase(accuracy: PairedDifference, other: str) -> str:
    """A difference of accuracies in words: "better than uniform by 10 points (95 % interval 1 to 19)"."""
    points, low, high = (round(100 * value, 1) for value in (accuracy.difference, *accuracy[2:]))
    interval = f"(95 % interval {low:g} to {high:g})"
    found = verdict(accuracy)
    if found == "undecided":
        return f"not clearly better or worse than {other}, {points:+g} points {interval}"
    return f"{found} than {other} by {abs(points):g} points {interval}"


def _sentence(
    name: str, right: int, bought: int, others: dict[str, int], accuracy: dict[str, PairedDifference]
) -> str:
    counts = "".join(f", {other} {count}" for other, count in others.items())
    found = f"{name} gets {right} of {bought} bought labels right that it did not see{counts}"
    if not others:
        return f"{found}."
    other = next(iter(others))
    return f"{found}: {difference_phrase(accuracy[other], other)}."
