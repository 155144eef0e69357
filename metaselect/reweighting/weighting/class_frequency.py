"""Weights by the frequency of the given class: in inverse proportion, or by its effective number of samples.

Source: of ``Proportion``, the baseline of Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050), section 4.1, with weights
that sum to 1 in each batch (their code's do not). Of ``ClassBalanced``, Cui, Jia, Lin, Song, Belongie 2019
(arXiv:1901.05555), Eq. 2 and section 4: E_n = (1 - beta^n) / (1 - beta), the weights 1 / E_n scaled to a mean of 1 over
the classes, with cross-entropy (their softmax form). Differs: training starts from the warm-up unless --init says
otherwise. Frequencies are those of the samples that are trained on, bought labels in place.
"""

from dataclasses import dataclass

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, require_option


@dataclass(frozen=True)
class Proportion(Method):
    """It has no hyper-parameters."""

    def begin(self, start: Start) -> "ClassWeightsRun":
        """The inverse frequencies."""
        factors = 1 / start.labels.counts.clamp(min=1)
        return ClassWeightsRun(factors.to(start.device), normalised=True)


@dataclass(frozen=True)
class ClassBalanced(Method):
    """Hyper-parameters.

    Attributes:
        beta: at 0 all classes weigh alike, towards 1 in inverse proportion to their frequency; in [0, 1). The paper
            takes the best of 0.9, 0.99, 0.999 and 0.9999 on each data set.
    """

    beta: float = 0.999

    def __post_init__(self) -> None:
        require_option(self, "beta", "at least 0 and below 1", holds=0 <= self.beta < 1)

    def begin(self, start: Start) -> "ClassWeightsRun":
        """The weights of the classes."""
        factors = effective_number_weights(start.labels.counts, self.beta)
        return ClassWeightsRun(factors.to(start.device), normalised=False)


def effective_number_weights(counts: torch.Tensor, beta: float) -> torch.Tensor:
    """(K,) weights (1 - beta) / (1 - beta^n), with a mean of 1 over the classes that have samples.

    Args:
        counts: (K,), n; an empty class has the weight 0.
        beta: in [0, 1).
    """
    present = counts > 0
    effective = (1 - beta ** counts.double()) / (1 - beta)
    inverse = torch.where(present, 1 / effective.clamp(min=1e-300), 0.0)
    return (inverse * present.sum() / inverse.sum()).float()


class ClassWeightsRun(MethodRun):
    """``factors`` (K,) of the given classes, on the device; ``normalised``: weights sum to 1 in each batch."""

    def __init__(self, factors: torch.Tensor, *, normalised: bool) -> None:
        self.factors, self.normalised = factors, normalised

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """The factors of the batch's labels, over their sum or over B."""
        factors = self.factors[forward.batch.labels]
        return StepObjective(factors / (factors.sum() if self.normalised else len(ids)))
