"""The check of a finished re-weighting, which uses no clean label but the bought ones."""

from typing import NamedTuple

import torch
from torch import nn

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


class StartScore(NamedTuple):
    """The score of the model that a run starts from.

    Attributes:
        on_bought: on the bought samples.
        constant: the model predicts one class for everything.
    """

    on_bought: BoughtScore
    constant: bool


def score_on_bought(model: nn.Module, batches: Batches, bought: torch.Tensor) -> BoughtScore:
    """The score of a model on the bought samples ((m,) int64 on the CPU)."""
    if not len(bought):
        return BoughtScore(float("nan"), float("nan"))
    predictions = predict(model, batches, bought)
    return BoughtScore(predictions.mean_loss, predictions.accuracy)


def score_start(model: nn.Module, batches: Batches, bought: torch.Tensor) -> StartScore:
    """The score of a model before it is trained."""
    sample = torch.arange(0, len(batches), max(len(batches) // CONSTANT_SAMPLE, 1))  # evenly spread
    predicted = predict(model, batches, sample).predicted
    return StartScore(score_on_bought(model, batches, bought), len(torch.unique(predicted)) == 1)


def failure_reason(
    zero_batches: float, before: StartScore, after: BoughtScore, predicted: torch.Tensor
) -> str:
    """Why the result of a re-weighting must not be used, as a sentence; empty if it may be.

    Batches without weight are a failure only where the model has not learnt the bought labels: where one class is very
    rare, most batches may rightly count for nothing. The other two tests apply only where the loss on the bought
    samples rose.

    Args:
        zero_batches: share of batches in which every weight was 0.
        before: of the model that it started from.
        after: of the final model.
        predicted: (n,) int64, classes that the final model predicts for the pool.
    """
    if zero_batches >= FAILED_ZERO_SHARE and not _has_learnt(zero_batches, before, after, predicted):
        return (
            f"The run is dead: in {zero_batches:.0%} of the batches every weight was 0, and it did not learn the "
            f"bought labels. {REMEDY}"
        )
    if not after.loss > before.on_bought.loss:
        return ""
    if len(torch.unique(predicted)) == 1 and not before.constant:
        return f"The run is dead: the model gives one class to every sample. {REMEDY}"
    # Fewer right as well as a higher loss: with twenty labels one answer more or less is chance.
    if after.accuracy < before.on_bought.accuracy:
        return (
            f"The run is dead: it got {after.accuracy:.0%} of the bought labels right, less than the model that it "
            f"started from ({before.on_bought.accuracy:.0%}). {REMEDY}"
        )
    return ""


def _has_learnt(zero_batches: float, before: StartScore, after: BoughtScore, predicted: torch.Tensor) -> bool:
    """Whether training brought the model closer to the bought labels; False where there are none.

    A lower loss is not enough: weight decay alone lowers that of a model that is surely wrong, without changing much of
    what it predicts.
    """
    if zero_batches == 1 or not after.loss < before.on_bought.loss or len(torch.unique(predicted)) == 1:
        return False
    return after.accuracy > before.on_bought.accuracy or after.accuracy == 1
