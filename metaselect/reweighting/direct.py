"""Direct meta re-weighting: one weight per training sample for the whole training, moved by the meta gradient.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Eq. 2-4. Weights start uniform in [0, 1) and are clipped
to [0, 1] as in the authors' experiments; the virtual step is the real optimiser's, state included.
Differs: ``step`` is the factor on s_i per visit (eta alpha / n of Eq. 3 in one number), so that it does not depend
on the batch size; as in Eq. 3 it falls with the learning rate.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.predictions import Predictions
from metaselect.reweighting.base import PRODUCTS, Method, MethodRun, Start, State, StepObjective
from metaselect.reweighting.meta_gradient import MetaGradient, require_meta_options


@dataclass(frozen=True)
class Direct(Method):
    """Hyper-parameters.

    Attributes:
        step: change of a weight per visit and unit of s_i, at the largest rate; above 0.
        every: the meta gradient is computed once in so many steps.
        scope: "all", or the parameters that take the virtual step: "top" or "last".
    """

    step: float = 1.0
    every: int = 1
    scope: str = "all"
    excludes_bought: ClassVar[bool] = True
    trace: ClassVar[str] = PRODUCTS
    needs_bought: ClassVar[bool] = True
    weight_kind: ClassVar[str] = "persistent"
    weighs_unseen: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.step < math.inf:
            raise UsageError(
                f"--option step={self.step:g} must be above 0 and finite.", "The default is 1.0."
            )
        require_meta_options(self.every, self.scope)

    def meta_batch_size(self, given: int | None, batch_size: int, bought: int) -> int:
        """All bought samples, at most a batch."""
        return min(given or batch_size, bought)

    def begin(self, start: Start) -> "DirectRun":
        """W drawn from U[0, 1)."""
        # Drawn on the CPU, so that every device starts from the same weights.
        weights = torch.rand(start.n, generator=start.generator).to(start.device)
        return DirectRun(weights, self.step / start.lr, MetaGradient(self.every, self.scope))


def move_weights(weights: torch.Tensor, s: torch.Tensor, step: float) -> torch.Tensor:
    """Eq. 3, clipped: (B,) new weights in [0, 1] from old ones and s (B,)."""
    return (weights + step * s).clamp(0, 1)


class DirectRun(MethodRun):
    """W (n,), and the step per unit of learning rate."""

    def __init__(self, weights: torch.Tensor, step_per_rate: float, meta_gradient: MetaGradient) -> None:
        self.weights, self.step_per_rate, self.meta_gradient = weights, step_per_rate, meta_gradient

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Eq. 2 (virtual step), Eq. 3 (weights), and the weights of Eq. 4's real step."""
        old = self.weights[ids]
        s = self.meta_gradient.of(forward, meta_batch, old / len(old))  # Eq. 2
        new = move_weights(old, s.to(old.dtype), self.step_per_rate * lr)  # Eq. 3
        self.weights[ids] = new
        return StepObjective(new / len(new))  # Eq. 4

    def epoch_end(self, epoch: int) -> None:
        """The next epoch begins with a new v."""
        self.meta_gradient.epoch_end()

    def pool_weights(self, predictions: Predictions) -> torch.Tensor:
        """W itself."""
        return self.weights

    def state_dict(self) -> State:
        """W."""
        return {"weights": self.weights}

    def load_state_dict(self, state: State) -> None:
        """W."""
        self.weights = state["weights"].to(self.weights.device)
