"""What a model makes of samples: the pass over the pool or a test set that every judgement is taken from."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.errors import ConditionUnmet
from metaselect.training.batches import Batches

EVALUATION_BATCH, EVALUATION_NUMBERS = 1000, 2**22  # samples, and input values, at most


class Predictions(NamedTuple):
    """The model's view of samples, in their order.

    Attributes:
        losses: (n',) cross-entropy with the labels.
        predicted: (n',) int64, the most probable class.
        confidence: (n',) its probability.
        label_prob: (n',) the probability of the label.
        hits: (n',) bool, the most probable class is the label; ties go to the lowest class.
    """

    losses: torch.Tensor
    predicted: torch.Tensor
    confidence: torch.Tensor
    label_prob: torch.Tensor
    hits: torch.Tensor

    @property
    def accuracy(self) -> float:
        """Share of hits."""
        return int(self.hits.sum()) / len(self.hits)

    @property
    def mean_loss(self) -> float:
        """Mean loss, summed in float64 on the CPU, which every device can."""
        return float(self.losses.cpu().double().mean())


def predict(model: nn.Module, batches: Batches, ids: torch.Tensor) -> Predictions:
    """Run the model over ``ids`` ((n',) int64 on the CPU): eval mode, no augmentation, no autocast.

    Raises:
        ConditionUnmet: the model's values are not finite.
    """
    model.eval()
    size = min(max(EVALUATION_NUMBERS // batches.raw[0].numel(), 8), EVALUATION_BATCH)
    parts: list[Predictions] = []
    with torch.no_grad():
        for _, batch in batches.stream(torch.split(ids, size)):
            log_probs = F.log_softmax(model(batch.inputs), 1)
            losses = F.nll_loss(log_probs, batch.labels, reduction="none")
            confidence, predicted = log_probs.max(1)
            hits = predicted == batch.labels
            parts.append(Predictions(losses, predicted, confidence.exp(), (-losses).exp(), hits))
    seen = Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if not torch.isfinite(seen.losses).all():
        raise ConditionUnmet(
            "The training diverged: the model's losses are not finite.", "Use a smaller --lr."
        )
    return seen
