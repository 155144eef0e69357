"""Gold loss correction: a loss behind a transition matrix that is estimated from bought labels.

Source: Hendrycks, Mazeika, Wilson, Gimpel 2018 (arXiv:1802.05300), Algorithm 1: a network is trained on the given
labels; row k of C is the mean of its predictions for the trusted samples of class k; a new network is trained with
cross-entropy on the trusted samples, and with the loss behind C on the others. Differs: the first network is the
warm-up, by predictions of models that did not see the label, where it has folds; a class without a bought label has
the row of right labels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.reweighting.base import Method, Start
from metaselect.reweighting.losses.forward_correction import TransitionRun


@dataclass(frozen=True)
class GoldLossCorrection(Method):
    """It has no hyper-parameters."""

    needs_bought: ClassVar[bool] = True
    needs_evidence: ClassVar[bool] = True

    def begin(self, start: Start) -> TransitionRun:
        """The matrix of the warm-up's predictions for the bought samples."""
        assert start.evidence is not None  # the method needs it
        bought = start.labels.bought
        transition = gold_transition(start.evidence.probs[bought], start.labels.given[bought])
        return TransitionRun(transition.to(start.device), start.labels.is_bought.to(start.device))


def gold_transition(probs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(K, K): row k is the mean prediction for the samples of class k, and e_k where there are none.

    Args:
        probs: (m, K) predictions of given labels.
        labels: (m,) int64, true ones.
    """
    classes = probs.shape[1]
    sums = torch.zeros(classes, classes, dtype=probs.dtype).index_add_(0, labels, probs)
    counts = torch.bincount(labels, minlength=classes)[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), torch.eye(classes, dtype=probs.dtype))
