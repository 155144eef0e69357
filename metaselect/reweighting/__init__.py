"""Training methods, one file each: a frozen dataclass of hyper-parameters that begins a run with state.

There are two kinds. A *meta* re-weighter sees each training batch's ``Forward`` beside a batch of bought labels
and answers with weights. A *hook* has no meta gradient: it turns logits into per-sample losses, and trains on the
pool with the bought labels in place.
"""

from typing import ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch

from metaselect.gradients import Batch, Forward

State: TypeAlias = dict[str, torch.Tensor]


class StepWeights(NamedTuple):
    """What the real step minimises: ``sum_i weights_i f_i``; ``weights`` (B,) is 1/B each in plain training."""

    weights: torch.Tensor


class Start(NamedTuple):
    """What a method may know when its run begins.

    Attributes:
        n: samples of the pool.
        epochs: of the run.
        lr: largest learning rate of the schedule.
        generator: for initial values.
        device: of the training.
    """

    n: int
    epochs: int
    lr: float
    generator: torch.Generator
    device: torch.device


@runtime_checkable
class MetaRun(Protocol):
    """A meta re-weighter at work."""

    def step(self, forward: Forward, meta_batch: Batch, ids: torch.Tensor, lr: float) -> StepWeights:
        """The weights of one batch; ``ids`` (B,) int64 are pool indices on the device, ``lr`` this step's rate."""

    def epoch_end(self, epoch: int) -> None:
        """Epoch ``epoch`` (from 1) is over."""

    def pool_weights(self, losses: torch.Tensor) -> torch.Tensor:
        """(n,) weights in [0, 1] at the end; ``losses`` (n,) are the final model's on given labels."""

    def state_dict(self) -> State:
        """Every tensor that a resumed run needs."""

    def load_state_dict(self, state: State) -> None:
        """Go on from a saved state."""


class MetaReweighter(Protocol):
    """Hyper-parameters of a meta re-weighter."""

    meta: ClassVar[bool]
    weight_kind: ClassVar[str]

    def begin(self, start: Start) -> MetaRun:
        """A run at its start."""


class Hook(Protocol):
    """A method without a meta gradient."""

    meta: ClassVar[bool]
    weight_kind: ClassVar[str]

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor, bought: torch.Tensor
    ) -> torch.Tensor:
        """(B,) per-sample losses; ``labels`` hold bought labels in place where ``bought`` (B,) is true."""

    def pool_weights(self, losses: torch.Tensor) -> torch.Tensor:
        """(n,) weights in [0, 1] at the end; ``losses`` (n,) are the final model's on given labels."""
