"""Training on the bought samples alone: of the warm-up's model, or of a new one.

Source: the baselines "base model + fine-tuning" and "clean only" of Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050),
Table 1. Differs: as many steps as other methods take, at the same rates: an epoch goes through the bought samples again
and again until it has the length of one over the pool.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import Method, MethodRun, Start, StepObjective, equal_weights


@dataclass(frozen=True)
class FineTune(Method):
    """The model that the run starts from is trained on."""

    needs_bought: ClassVar[bool] = True

    def begin(self, start: Start) -> "BoughtOnlyRun":
        """A run without state."""
        return BoughtOnlyRun(start.labels.bought, anew=False)


@dataclass(frozen=True)
class CleanOnly(Method):
    """A newly initialised model is trained, which never sees another label."""

    needs_bought: ClassVar[bool] = True

    def begin(self, start: Start) -> "BoughtOnlyRun":
        """A run without state."""
        return BoughtOnlyRun(start.labels.bought, anew=True)


class BoughtOnlyRun(MethodRun):
    """Plain training on ``bought`` (m,) int64; ``anew``: of a new model."""

    def __init__(self, bought: torch.Tensor, *, anew: bool) -> None:
        self.bought, self.anew = bought, anew

    @property
    def starts_anew(self) -> bool:
        """Whether the model must not know the given labels."""
        return self.anew

    def order(self, ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The bought samples in random order, and again, as many as ``ids``."""
        rounds = -(-len(ids) // len(self.bought))
        orders = [torch.randperm(len(self.bought), generator=generator) for _ in range(rounds)]
        return self.bought[torch.cat(orders)[: len(ids)]]

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """1/B for each sample."""
        return StepObjective(equal_weights(ids))
