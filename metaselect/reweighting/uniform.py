"""The baseline: plain training on the pool with the bought labels in place, every sample alike.

Source: the baseline of every paper on re-weighting. Differs: it gets the bought labels too, so that beating it
measures the method and not the labels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.logistic_regression import LinearParams
from metaselect.models.predictions import Predictions
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, equal_weights
from metaselect.reweighting.linear_problem import LinearProblem


@dataclass(frozen=True)
class Uniform(Method):
    """Cross-entropy with equal weights."""

    weight_kind: ClassVar[str] = "uniform"
    solves_linear: ClassVar[bool] = True
    judged: ClassVar[bool] = False  # it is what the others are compared with

    def begin(self, start: Start) -> "UniformRun":
        """A run without state."""
        return UniformRun()


class UniformRun(MethodRun):
    """Plain training."""

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """1/B for each sample."""
        return StepObjective(equal_weights(ids))

    def solve(self, problem: LinearProblem) -> LinearParams:
        """Logistic regression on the labels."""
        return problem.fit_labels()

    def pool_weights(self, predictions: Predictions) -> torch.Tensor:
        """All 1."""
        return torch.ones_like(predictions.losses)
