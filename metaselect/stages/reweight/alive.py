"""Whether a re-weighting may be trusted, without a clean label beyond the bought ones."""

from typing import NamedTuple

import torch
from torch import nn

from metaselect.training.batches import Batches
from metaselect.training.predict import predict

DEAD_ZERO_SHARE = 0.2  # of batches with all-zero weights
CONSTANT_SAMPLE = 2000  # samples that tell whether a model gives one class to everything
REMEDY = "Try a smaller --lr, or the defaults of --momentum (0), --init (warmup) and --option."


class OnBought(NamedTuple):
    """A model's view of the bought samples, in eval mode.

    Attributes:
        loss: mean cross-entropy with the clean labels; NaN where nothing was bought.
        accuracy: share of them that it gets right; NaN where nothing was bought.
    """

    loss: float
    accuracy: float


class StartView(NamedTuple):
    """How the model that a run started from did; ``constant``: it gives one class to everything."""

    on_bought: OnBought
    constant: bool


def on_bought(model: nn.Module, batches: Batches, bought: torch.Tensor) -> OnBought:
    """Judge a model on the bought samples ((m,) int64 on the CPU)."""
    if not len(bought):
        return OnBought(float("nan"), float("nan"))
    seen = predict(model, batches, bought)
    return OnBought(seen.mean_loss, seen.accuracy)


def score_start(model: nn.Module, batches: Batches, bought: torch.Tensor) -> StartView:
    """Look at a model before it is trained."""
    some = torch.arange(0, len(batches), max(len(batches) // CONSTANT_SAMPLE, 1))
    predicted = predict(model, batches, some).predicted
    return StartView(on_bought(model, batches, bought), len(torch.unique(predicted)) == 1)


def failure_reason(zero_batches: float, before: StartView, after: OnBought, predicted: torch.Tensor) -> str:
    """Why a meta re-weighting must not be trusted, as a sentence; empty when it is alive.

    Args:
        zero_batches: share of batches in which every weight was 0.
        before: the model that it started from; a run that ends no worse is not dead.
        after: the final model.
        predicted: (n,) classes that the final model gives to the pool.
    """
    if zero_batches >= DEAD_ZERO_SHARE:
        return f"The run is dead: in {zero_batches:.0%} of the batches every weight was 0. {REMEDY}"
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
