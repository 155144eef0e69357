"""The model to take, by a labelled test set."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metaselect.metrics.paired import PairedDifference, paired_accuracy
from metaselect.registry import BASELINE, PREFERRED
from metaselect.stages.evaluate.candidates import Candidate, ModelPredictions
from metaselect.stages.model_choice import ModelChoice
from metaselect.stages.reweight.comparison import WARMUP_NAME, difference_phrase


class Judged(NamedTuple):
    """A model with its predictions of the test samples, and (m,) bool, those that are right."""

    candidate: Candidate
    predictions: ModelPredictions
    right: np.ndarray

    @property
    def name(self) -> str:
        """As sentences name it."""
        return self.candidate.name if self.candidate.table else WARMUP_NAME


def baseline_of(judged: Sequence[Judged]) -> Judged | None:
    """The re-weighting by the baseline's method that is not dead; of several, the one with its name, else the first."""
    found = [each for each in judged if each.candidate.method == BASELINE and not each.candidate.dead]
    return min(found, key=lambda each: each.candidate.name != BASELINE, default=None)


def against_baseline(judged: Sequence[Judged]) -> dict[str, PairedDifference]:
    """The accuracy of every re-weighting less that of the baseline, by name; empty without a baseline."""
    return _against(judged, baseline_of(judged))


def against_warmup(judged: Sequence[Judged]) -> dict[str, PairedDifference]:
    """The same less that of the warm-up; empty where the warm-up is not judged."""
    return _against(judged, next((each for each in judged if not each.candidate.table), None))


def _against(judged: Sequence[Judged], other: Judged | None) -> dict[str, PairedDifference]:
    return {
        each.candidate.name: paired_accuracy(each.right, other.right)
        for each in judged
        if other is not None and each.candidate.table and each is not other
    }


def choose(judged: Sequence[Judged]) -> ModelChoice:
    """The model to take: plain training, unless the best method is above it by more than chance.

    Plain training is the baseline, or the warm-up where there is no baseline or it is worse. Dead runs and
    oracles are never taken.

    Args:
        judged: the warm-up first, then the re-weightings.
    """
    warmup, baseline = judged[0], baseline_of(judged)
    plain = warmup if baseline is None or baseline.right.mean() < warmup.right.mean() else baseline
    methods = [each for each in judged[1:] if each.candidate.method != BASELINE and each.candidate.usable]
    taken, why = plain, f"no method was run that could be compared with {plain.name}"
    if methods:
        best = max(methods, key=lambda each: (each.right.mean(), each.candidate.method == PREFERRED))
        difference = paired_accuracy(best.right, plain.right)
        why = f"{best.name} is {difference_phrase(difference, plain.name)}"
        if difference.low > 0:
            taken = best
        else:
            why = f"plain training is enough: {why}"
    return ModelChoice(taken.candidate.name, taken.candidate.weights, why)
