"""MixUp: training on mixtures of two samples and of their labels.

Source: Zhang, Cisse, Dauphin, Lopez-Paz 2018 (arXiv:1710.09412), section 2, with one share a batch as in the authors'
code and alpha = 1 as in their experiments on CIFAR-10. Differs: training starts from the warm-up unless --init says
otherwise.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.random import derive_seed, generator
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, equal_weights, require_option
from metaselect.reweighting.soft_targets import mixed


@dataclass(frozen=True)
class MixUp(Method):
    """Hyper-parameters.

    Attributes:
        alpha: both parameters of the Beta distribution of a batch's share; above 0.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        require_option(self, "alpha", "above 0 and finite", holds=0 < self.alpha < math.inf)

    def begin(self, start: Start) -> "MixUpRun":
        """A run without state."""
        return MixUpRun(self.alpha, start.labels.classes)


class MixUpRun(MethodRun):
    """Plain training on mixtures."""

    def __init__(self, alpha: float, classes: int) -> None:
        self.alpha, self.classes = alpha, classes

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights; inputs and targets of which each is mixed with a partner's."""
        share = np.random.default_rng(derive_seed(forward.seed, "mixup share")).beta(self.alpha, self.alpha)
        partners = torch.randperm(len(ids), generator=generator(forward.seed, "mixup")).to(ids.device)
        shares = torch.full((len(ids),), float(share), device=ids.device)
        targets = mixed(F.one_hot(forward.batch.labels, self.classes).float(), shares, partners)
        forward.replace_inputs(mixed(forward.inputs, shares, partners))
        weights = equal_weights(ids)
        return StepObjective(weights, weights[:, None] * targets)
