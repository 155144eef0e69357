"""Training methods, one file each: a frozen dataclass of hyper-parameters that begins a run with state.

There are two kinds. A *meta* re-weighter sees each training batch's ``Forward`` beside a batch of bought labels
and answers with weights; one that declares ``joint_batch`` says itself who is in that batch. A *hook* has no meta
gradient: it turns logits into per-sample losses, and trains on the pool with the bought labels in place.
"""

from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.parameters import Params

State: TypeAlias = dict[str, torch.Tensor]


def below(state: State, prefix: str) -> State:
    """The part of a state whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


class StepWeights(NamedTuple):
    """What the real step minimises.

    Attributes:
        weights: (B,), factors of the training samples; 1/B each in plain training.
        targets: (B', K), soft labels times their factors, for each row that the step is taken on: it minimises
            ``-sum_ik targets_ik log p_ik``. None: ``sum_i weights_i f_i``, f_i the loss on the given label.
    """

    weights: torch.Tensor
    targets: torch.Tensor | None = None


class Labels(NamedTuple):
    """The pool's labels and who is in which set; all on the CPU, indices sorted.

    Attributes:
        given: (n,) int64, bought labels in place.
        classes: K.
        trained: (n',) int64, the samples that are trained on.
        bought: (m,) int64.
    """

    given: torch.Tensor
    classes: int
    trained: torch.Tensor
    bought: torch.Tensor


class Start(NamedTuple):
    """What a method may know when its run begins.

    Attributes:
        labels: of the pool of n samples.
        epochs: of the run.
        lr: largest learning rate of the schedule.
        generator: for initial values.
        device: of the training.
    """

    labels: Labels
    epochs: int
    lr: float
    generator: torch.Generator
    device: torch.device

    @property
    def n(self) -> int:
        """Samples of the pool."""
        return len(self.labels.given)


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


@runtime_checkable
class JointRun(MetaRun, Protocol):
    """One whose meta batch shares a pass with the training batch, and is its own choice; needs no bought labels."""

    def meta_ids(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """(size,) int64 pool indices on the CPU: the next meta batch."""

    def stepped(self, params: Params) -> None:
        """The real step was taken; ``params`` are what it came to."""

    def averaged(self) -> Params | None:
        """The parameters that the model is judged and saved with; None: those of the last step."""


class MetaReweighter(Protocol):
    """Hyper-parameters of a meta re-weighter.

    Attributes:
        joint_batch: it begins a ``JointRun``, whose meta batch is a field ``meta_ratio`` times the training batch.
    """

    meta: ClassVar[bool]
    joint_batch: ClassVar[bool]
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


def require_option(method: Any, name: str, limits: str, *, holds: bool) -> None:
    """Refuse the value of a method's numeric field unless it ``holds`` its limits.

    Raises:
        UsageError: naming the option, the value, the limits and the default.
    """
    if not holds:
        raise UsageError(
            f"--option {name}={getattr(method, name):g} must be {limits}.",
            f"The default is {type(method).__dataclass_fields__[name].default:g}.",
        )
