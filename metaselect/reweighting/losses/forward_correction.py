"""Forward correction: a loss behind a transition matrix that is estimated from confident predictions.

Source: Patrini, Rozza, Menon, Nock, Qu 2017 (arXiv:1609.03683), Eq. 7 and section 4: a network is trained on the given
labels; row k of T is its prediction for the sample that it takes most surely for class k, where the top 3 % are
dropped; a new network is trained with the loss behind T. Differs: the first network is the warm-up, by predictions of
models that did not see the label, where it has folds; a bought label is taken as true, without T.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.reweighting.base import (
    Method,
    MethodRun,
    Start,
    StepObjective,
    equal_weights,
    require_option,
)
from metaselect.reweighting.losses.transition_loss import transition_losses


@dataclass(frozen=True)
class ForwardCorrection(Method):
    """Hyper-parameters.

    Attributes:
        dropped: share of the samples with the largest probability of a class that is dropped, before the largest one
            is taken; in [0, 1).
    """

    needs_evidence: ClassVar[bool] = True

    dropped: float = 0.03

    def __post_init__(self) -> None:
        require_option(self, "dropped", "at least 0 and below 1", holds=0 <= self.dropped < 1)

    def begin(self, start: Start) -> "TransitionRun":
        """The matrix of the warm-up's predictions for the samples that are trained on."""
        assert start.evidence is not None  # the method needs it
        probs = start.evidence.probs[start.labels.trained]
        transition = anchored_transition(probs, self.dropped)
        return TransitionRun(transition.to(start.device), start.labels.is_bought.to(start.device))


def anchored_transition(probs: torch.Tensor, dropped: float) -> torch.Tensor:
    """(K, K) rows of ``probs``: that of class k is the row of its largest entry in column k, the top ones dropped.

    Args:
        probs: (n', K) predictions.
        dropped: share of the rows with the largest entries that are passed over.
    """
    place = min(round(dropped * len(probs)), len(probs) - 1)
    anchors = probs.argsort(dim=0, descending=True, stable=True)[place]  # (K,)
    rows = probs[anchors].clamp(min=0)
    return rows / rows.sum(1, keepdim=True)


class TransitionRun(MethodRun):
    """Training from the start with the loss behind ``transition`` (K, K); ``is_bought`` (n,)."""

    def __init__(self, transition: torch.Tensor, is_bought: torch.Tensor) -> None:
        self.transition, self.is_bought = transition, is_bought

    @property
    def starts_anew(self) -> bool:
        """The first network has learnt the wrong labels."""
        return True

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights, and the loss behind the matrix."""
        known = self.is_bought[ids]
        losses = transition_losses(forward.logits, forward.batch.labels, self.transition, known)
        return StepObjective(equal_weights(ids), losses=losses)
