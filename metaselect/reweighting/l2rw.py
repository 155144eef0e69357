"""Learning to reweight: new weights for every batch, from one meta gradient.

Source: Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050), Algorithm 1 and Eq. 4-9.
Differs: nothing in the arithmetic. The virtual step is plain gradient descent, whatever the real optimiser; at
epsilon = 0 it is theta itself and the rate cancels in Eq. 9, so none is taken. Where every weight of a batch is 0, the
step is left to momentum and weight decay, as in the authors' code; the share of such batches is logged.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.predictions import Predictions
from metaselect.reweighting.base import PRODUCTS, Method, MethodRun, Start, State, StepObjective
from metaselect.reweighting.meta_gradient import MetaGradient, require_meta_options
from metaselect.reweighting.recent_weights import AVERAGED_EPOCHS, RecentWeights


@dataclass(frozen=True)
class L2RW(Method):
    """Hyper-parameters; the paper's has none, since the rate cancels in the normalisation.

    Attributes:
        every: v is computed once in so many steps.
        scope: "all", or the parameters that v is of: "top" or "last".
    """

    every: int = 1
    scope: str = "all"
    excludes_bought: ClassVar[bool] = True
    trace: ClassVar[str] = PRODUCTS
    needs_bought: ClassVar[bool] = True
    weight_kind: ClassVar[str] = "mean of last visits"
    weighs_unseen: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_meta_options(self.every, self.scope)

    def meta_batch_size(self, given: int | None, batch_size: int, bought: int) -> int:
        """All bought samples, at most a batch."""
        return min(given or batch_size, bought)

    def begin(self, start: Start) -> "L2RWRun":
        """A run with no recorded weights."""
        used = torch.zeros(AVERAGED_EPOCHS, start.n, device=start.device)
        return L2RWRun(used, MetaGradient(self.every, self.scope))


def rectify_and_normalise(u: torch.Tensor) -> torch.Tensor:
    """Eq. 8 and 9: negative entries become 0, the rest sum to 1; all 0 where no entry is positive.

    Args:
        u: (B,), minus the meta gradient, in any positive unit.
    """
    rectified = u.clamp(min=0)  # Eq. 8
    total = rectified.sum()
    # Eq. 9, with delta(total) as a select, which needs no read of the device.
    return rectified / torch.where(total == 0, torch.ones_like(total), total)


class L2RWRun(MethodRun):
    """Records the weights of the last epochs; ``used`` (3, n) starts at 0."""

    def __init__(self, used: torch.Tensor, meta_gradient: MetaGradient) -> None:
        self.recent, self.meta_gradient = RecentWeights(used), meta_gradient

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Algorithm 1, lines 4-10."""
        # s is minus the meta gradient over the rate, and Eq. 9 has no unit.
        weights = rectify_and_normalise(self.meta_gradient.of(forward, meta_batch))
        self.recent.record(ids, weights)
        return StepObjective(weights)

    def epoch_end(self, epoch: int) -> None:
        """The next epoch has its own row of weights, and begins with a new v."""
        self.recent.epoch_end(epoch)
        self.meta_gradient.epoch_end()

    def pool_weights(self, predictions: Predictions) -> torch.Tensor:
        """The mean over the last 3 epochs of min(1, B w_i)."""
        return self.recent.mean()

    def state_dict(self) -> State:
        """The table and the epoch."""
        return self.recent.state_dict()

    def load_state_dict(self, state: State) -> None:
        """The table and the epoch."""
        self.recent.load_state_dict(state)
