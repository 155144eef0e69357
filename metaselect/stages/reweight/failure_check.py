"""The check of a finished re-weighting, which uses no clean label but the bought ones."""

from typing import NamedTuple

import torch
from torch import nn

from metaselect.metrics.classification import count_classes
from metaselect.training.batches import Batches
from metaselect.training.predict import predict

FAILED_ZERO_SHARE = 0.2  # of the batches: where every weight was 0 in so many, a run must show that it learnt
CONSTANT_SAMPLE = 2000  # samples on which a model is tested for predicting one class for everything
REMEDY = "Try a smaller --lr, or the defaults of --momentum (0), --init (warmup) and --option."


class BoughtScore(NamedTuple):
    """How well a model predicts the bought samples, in eval mode.

    Attributes:
        loss: mean cross-entropy with the clean labels; NaN where nothing was bought.
        accuracy: share of them that it gets right; NaN where nothing was bought.
    """

    loss: float
    accuracy: float


class ModelScore(NamedTuple):
    """The score of the model that a run starts from, or ends with.

    Attributes:
        on_bought: on the bought samples.
        balanced: mean over the classes that were bought of the share of their samples that it gets right; NaN where
            nothing was bought.
        constant: the model predicts one class for everything.
    """

    on_bought: BoughtScore
    balanced: float
    constant: bool


def score_on_bought(model: nn.Module, batches: Batches, bought: torch.Tensor) -> BoughtScore:
    """The score of a model on the bought samples ((m,) int64 on the CPU)."""
    if not len(bought):
        return BoughtScore(float("nan"), float("nan"))
    predictions = predict(model, batches, bought)
    return BoughtScore(predictions.mean_loss, predictions.accuracy)


def score_start(model: nn.Module, batches: Batches, bought: torch.Tensor) -> ModelScore:
    """The score of a model before it is trained; ``batches`` have the bought labels."""
    spread = torch.arange(0, len(batches), max(len(batches) // CONSTANT_SAMPLE, 1))
    predicted = predict(model, batches, torch.cat([spread, bought])).predicted.cpu()
    balanced = mean_recall(predicted[len(spread) :], batches.labels.cpu()[bought])
    constant = is_constant(predicted[: len(spread)])
    return ModelScore(score_on_bought(model, batches, bought), balanced, constant)


def is_constant(predicted: torch.Tensor) -> bool:
    """Whether the predicted classes (n',) are one."""
    return len(torch.unique(predicted)) == 1


def mean_recall(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    """``ModelScore.balanced`` of predicted classes and clean labels, (m,) int64 each."""
    if not len(labels):
        return float("nan")
    classes = int(torch.cat([predicted, labels]).max()) + 1
    return count_classes(labels.cpu().numpy(), predicted.cpu().numpy(), classes).balanced_accuracy


def failure_reason(zero_batches: float, before: ModelScore, after: ModelScore) -> str:
    """Why the result of a re-weighting must not be used, as a sentence; empty if it may be.

    Batches without weight are a failure only where the model has not learnt the bought labels: where one class is very
    rare, most batches may rightly count for nothing. The other two tests apply only where the loss on the bought
    samples rose.

    Args:
        zero_batches: share of batches in which every weight was 0.
        before: of the model that it started from.
        after: of the final model.
    """
    if zero_batches >= FAILED_ZERO_SHARE and not _has_learnt(zero_batches, before, after):
        return (
            f"The run is dead: in {zero_batches:.0%} of the batches every weight was 0, and it did not learn the "
            f"bought labels. {REMEDY}"
        )
    started, ended = before.on_bought, after.on_bought
    if not ended.loss > started.loss:
        return ""
    if after.constant and not before.constant:
        return f"The run is dead: the model gives one class to every sample. {REMEDY}"
    # Fewer right as well as a higher loss: with twenty labels one answer more or less is chance. And fewer in the mean
    # over classes: what balances them gives samples of frequent classes away, which are most of the bought ones.
    if ended.accuracy < started.accuracy and after.balanced < before.balanced:
        return (
            f"The run is dead: it got {ended.accuracy:.0%} of the bought labels right, less than the model that it "
            f"started from ({started.accuracy:.0%}). {REMEDY}"
        )
    return ""


def _has_learnt(zero_batches: float, before: ModelScore, after: ModelScore) -> bool:
    """Whether training brought the model closer to the bought labels; False where there are none.

    A lower loss is not enough: weight decay alone lowers that of a model that is surely wrong, without changing much of
    what it predicts.
    """
    started, ended = before.on_bought, after.on_bought
    if zero_batches == 1 or not ended.loss < started.loss or after.constant:
        return False
    return ended.accuracy > started.accuracy or ended.accuracy == 1
