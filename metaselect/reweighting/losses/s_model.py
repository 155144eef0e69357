"""S-model: a layer behind the softmax that learns how given labels come from true ones.

Source: Goldberger, Ben-Reuven 2017 (Training deep neural-networks using a noise adaptation layer), section 3: the
probability of a given label is p^T Theta, Theta the row-wise softmax of B; predictions are p. Differs: B starts at the
logarithm of a smoothed identity with ``smoothing`` 0.1, since the paper's other start, by a confusion matrix of a first
training, is what ``losses.forward_correction`` has; a bought label is taken as true, without the layer; B takes plain
gradient steps at the rate of the training; training starts from the warm-up unless --init says otherwise.
"""

import math
from dataclasses import dataclass

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.parameters import Params
from metaselect.reweighting.base import (
    Method,
    MethodRun,
    Start,
    State,
    StepObjective,
    equal_weights,
    require_option,
)
from metaselect.reweighting.losses.transition_loss import transition_losses


@dataclass(frozen=True)
class SModel(Method):
    """Hyper-parameters.

    Attributes:
        smoothing: what the layer takes away from the true class at the start, spread over the others; in (0, 1).
    """

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        require_option(self, "smoothing", "above 0 and below 1", holds=0 < self.smoothing < 1)

    def begin(self, start: Start) -> "SModelRun":
        """The layer before its first step."""
        classes = start.labels.classes
        scores = torch.full((classes, classes), math.log(self.smoothing / max(classes - 1, 1)))
        scores.fill_diagonal_(math.log(1 - self.smoothing))
        return SModelRun(scores.to(start.device), start.labels.is_bought.to(start.device))


class SModelRun(MethodRun):
    """The layer's ``scores`` (K, K), B, and ``is_bought`` (n,), on the device."""

    def __init__(self, scores: torch.Tensor, is_bought: torch.Tensor) -> None:
        self.scores, self.is_bought = scores.requires_grad_(), is_bought
        self.lr = 0.0

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights, and the loss behind the layer; its gradient is the layer's too."""
        self.lr = lr
        labels, known = forward.batch.labels, self.is_bought[ids]
        losses = transition_losses(forward.logits, labels, self.scores.softmax(1), known)
        return StepObjective(equal_weights(ids), losses=losses)

    def after_step(self, params: Params) -> None:
        """A step of the layer."""
        if self.scores.grad is not None:
            self.scores = (self.scores.detach() - self.lr * self.scores.grad).requires_grad_()

    def state_dict(self) -> State:
        """The layer."""
        return {"scores": self.scores.detach()}

    def load_state_dict(self, state: State) -> None:
        """The layer."""
        self.scores = state["scores"].to(self.scores.device).requires_grad_()
