"""Self-paced learning and MentorNet's predefined curriculum: samples with small losses are trained on.

Source: of ``SelfPaced``, Kumar, Packer, Koller 2010 (Self-paced learning for latent variable models), v = [loss <=
t], with the threshold t of the code of MentorNet: a running mean of a percentile of the losses of each batch. Of
``MentorNet``, Jiang, Zhou, Leung, Li, Fei-Fei 2018 (arXiv:1712.05055), Eq. 7 and the curriculum of the authors' code:
every sample in the first 18 % of the training, then [loss <= t], and in the last 10 % clip(1 - (loss - t), 0, 1); half
of the samples are left out at random in the first 17 %, and 5 % later. Differs: the running mean starts at the first
percentile (in the code at 0, so that at first nothing is trained on); phases change between epochs; the weight decay is
not scaled; the mentor that is learnt from data is left out; training starts from the warm-up unless --init says
otherwise.
"""

from dataclasses import dataclass

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.random import generator
from metaselect.reweighting.base import Method, MethodRun, Start, State, StepObjective, require_option

BURN_IN, LAST = 0.18, 0.9  # shares of the training, from which losses count and where weights become soft
EARLY, EARLY_DROPOUT, DROPOUT = 0.17, 0.5, 0.05


@dataclass(frozen=True)
class SelfPaced(Method):
    """Hyper-parameters.

    Attributes:
        percentile: share of a batch whose losses are below the threshold that it asks for; above 0, at most 1.
        decay: share of the threshold that stays with each batch; in [0, 1).
    """

    percentile: float = 0.75
    decay: float = 0.5

    def __post_init__(self) -> None:
        require_option(self, "percentile", "above 0 and at most 1", holds=0 < self.percentile <= 1)
        require_option(self, "decay", "at least 0 and below 1", holds=0 <= self.decay < 1)

    def begin(self, start: Start) -> "SelfPacedRun":
        """Before the first threshold."""
        return SelfPacedRun(Threshold(self.percentile, self.decay, start.device))


@dataclass(frozen=True)
class MentorNet(SelfPaced):
    """The same hyper-parameters, with the curriculum."""

    def begin(self, start: Start) -> "MentorNetRun":
        """Before the first threshold."""
        return MentorNetRun(Threshold(self.percentile, self.decay, start.device), start.epochs)


class Threshold:
    """A running mean of a percentile of losses; ``value`` () is NaN before the first batch."""

    def __init__(self, percentile: float, decay: float, device: torch.device) -> None:
        self.percentile, self.decay = percentile, decay
        self.value = torch.full((), torch.nan, device=device)

    def moved(self, losses: torch.Tensor) -> torch.Tensor:
        """The threshold () with the losses (B,) of one more batch."""
        new = losses.quantile(self.percentile)
        old = torch.where(self.value.isnan(), new, self.value.to(new.dtype))
        self.value = self.decay * old + (1 - self.decay) * new
        return self.value


class SelfPacedRun(MethodRun):
    """Training on the samples below the threshold."""

    def __init__(self, threshold: Threshold) -> None:
        self.threshold = threshold

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """1/B for each sample below the threshold, 0 for the others."""
        losses = forward.losses.detach()
        return StepObjective((losses <= self.threshold.moved(losses)).to(losses.dtype) / len(ids))

    def state_dict(self) -> State:
        """The threshold."""
        return {"threshold": self.threshold.value}

    def load_state_dict(self, state: State) -> None:
        """The threshold."""
        self.threshold.value = state["threshold"].to(self.threshold.value.device)


def curriculum(losses: torch.Tensor, threshold: torch.Tensor, progress: float) -> torch.Tensor:
    """(B,) v in [0, 1], of the predefined curriculum.

    Args:
        losses: (B,).
        threshold: ().
        progress: share of the training that is over, in [0, 1).
    """
    if progress < BURN_IN:
        return torch.ones_like(losses)
    if progress < LAST:
        return (losses <= threshold).to(losses.dtype)
    return (1 - (losses - threshold)).clamp(0, 1)


class MentorNetRun(SelfPacedRun):
    """Training by the curriculum of ``epochs`` epochs."""

    def __init__(self, threshold: Threshold, epochs: int) -> None:
        super().__init__(threshold)
        self.epochs, self.epoch = epochs, 0

    def set_epochs(self, epochs: int) -> None:
        """Epochs of the curriculum."""
        self.epochs = epochs

    def epoch_end(self, epoch: int) -> None:
        """So many epochs are over."""
        self.epoch = epoch

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Weights v / B, of the samples that are not left out."""
        losses, progress = forward.losses.detach(), self.epoch / self.epochs
        v = curriculum(losses, self.threshold.moved(losses), progress)
        dropout = EARLY_DROPOUT if progress < EARLY else DROPOUT
        kept = torch.rand(len(ids), generator=generator(forward.seed, "left-out samples")) >= dropout
        return StepObjective(v * kept.to(v.device) / len(ids))

    def state_dict(self) -> State:
        """The threshold and the epoch."""
        return {**super().state_dict(), "epoch": torch.tensor(self.epoch)}

    def load_state_dict(self, state: State) -> None:
        """The same."""
        super().load_state_dict(state)
        self.epoch = int(state["epoch"])
