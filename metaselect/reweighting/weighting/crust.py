"""CRUST: training on the samples whose gradients are the most central of their class, each for those around it.

Source: Mirzasoleiman, Cao, Leskovec 2020 (Coresets for Robust Training of Neural Networks against Noisy Labels,
arXiv:2011.07451), with the constants of the authors' code: gradients of right labels lie close together, those of wrong
ones apart. After each epoch, from 5 of 120 on, the gradients of the losses with respect to the inputs of the last
layer, (p - onehot(y)) W, have medoids in each given class, half as many as it has samples, by greedy facility location.
The next epoch is trained on these alone. The weight of a medoid is the number of samples that are closest to it, and
weights sum to 1 in each batch. Inputs are mixed with those of a sample of the same label, by a share from Beta(1, 0.1).
Differs: p is that of the training passes of the epoch (in the code, of a pass of its own, in train mode and augmented
too), and W that of its end; a gradient is that of the sample's own loss (in the code, of the mean of a batch); the
code's weight is the number of samples within a fixed distance, which depends on the size of batches and features; a
class of more than 1,024 samples is split at random into equal parts; the other input of a mixture is from the same
batch; a bought sample is always a medoid; training starts from a new model, as the warm-up has learnt the wrong labels.

Time grows with the samples: 10 s an epoch for 50,000 of 10 classes on one thread.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.metagrad.facility_location import FacilityLocation
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.head import head_of
from metaselect.random import generator, uniform
from metaselect.ranks import alone, divide_chunks
from metaselect.reweighting.base import (
    Method,
    MethodRun,
    Start,
    State,
    StepObjective,
    normalised,
    require_option,
)
from metaselect.reweighting.soft_targets import mixed

MOST_SAMPLES = 1024  # of a part of a class: all distances in it are held, 8 MiB


@dataclass(frozen=True)
class Crust(Method):
    """Hyper-parameters.

    Attributes:
        share: of the samples of each class that are trained on; in (0, 1].
        initial: share of the epochs that have all samples; in [0, 1), and at least one epoch has.
        mixup: b of the distribution Beta(1, b) of an input's own share in its mixture; at least 0, and 0: no mixtures.
    """

    share: float = 0.5
    initial: float = 0.04
    mixup: float = 0.1

    def __post_init__(self) -> None:
        require_option(self, "share", "above 0 and at most 1", holds=0 < self.share <= 1)
        require_option(self, "initial", "at least 0 and below 1", holds=0 <= self.initial < 1)
        require_option(self, "mixup", "at least 0 and finite", holds=0 <= self.mixup < math.inf)

    def begin(self, start: Start) -> "CrustRun":
        """Before the first coreset."""
        return CrustRun(self, start)


def medoid_weights(gradients: torch.Tensor, known: torch.Tensor, share: float) -> torch.Tensor:
    """(m,) float32, how many samples each medoid is the closest one of, itself at least; 0: it is no medoid.

    Args:
        gradients: (m, d) of one class.
        known: (m,) bool, samples that are medoids in any case.
        share: of the samples that are medoids, at least one.
    """
    m = len(gradients)
    ones = torch.ones(m, 1, dtype=torch.float64, device=gradients.device)
    rows = FacilityLocation(torch.arange(m), gradients.double(), ones, euclidean=True, kept=True)
    bought = known.nonzero()[:, 0].tolist()
    gains = rows.first_gains(bought).tolist()
    more = max(round(share * m), 1) - len(bought)
    picks = [row for _, row in islice(rows.greedy(gains, known.tolist()), max(more, 0))]
    medoids = torch.tensor(sorted(bought + picks), device=gradients.device)
    nearest = medoids[rows.distances(medoids.tolist()).argmin(1)]
    nearest[medoids] = medoids  # also of those whose gradients are equal
    return torch.bincount(nearest, minlength=m).float()


def parts_of_classes(
    ids: torch.Tensor, labels: torch.Tensor, draw: torch.Generator
) -> Sequence[torch.Tensor]:
    """The ids of each class, in equal random parts of at most ``MOST_SAMPLES``.

    Args:
        ids: (n',) int64 on the CPU, ascending.
        labels: (n',) int64, theirs.
        draw: of the parts.
    """
    parts: list[torch.Tensor] = []
    for label in labels.unique().tolist():
        members = ids[labels == label]
        drawn = members[torch.randperm(len(members), generator=draw)]
        parts += [part.sort().values for part in drawn.tensor_split(-(-len(members) // MOST_SAMPLES))]
    return parts


def partners_of_same_label(labels: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """(B,) int64, a random order of the samples in which each stands in the place of one with its label."""
    drawn = torch.randperm(len(labels), generator=draw).to(labels.device)
    places = labels.argsort(stable=True)
    return torch.empty_like(drawn).scatter_(0, places, drawn[labels[drawn].argsort(stable=True)])


class CrustRun(MethodRun):
    """The weight of each sample, ``weights`` (n,), the epochs that are over, and the errors of this one's outputs."""

    def __init__(self, method: Crust, start: Start) -> None:
        self.method, self.device, self.epoch = method, start.device, 0
        self.labels, self.is_bought = start.labels, start.labels.is_bought
        self.weights = torch.ones(start.n, device=start.device)
        self.set_epochs(start.epochs)
        self._forget()

    def set_epochs(self, epochs: int) -> None:
        """The first coreset is that of the end of epoch ``first``."""
        self.first = max(math.ceil(self.method.initial * epochs), 1)

    @property
    def starts_anew(self) -> bool:
        """The warm-up has learnt the wrong labels, and their gradients lie among the others."""
        return True

    def _forget(self) -> None:
        self.head: nn.Linear | None = None
        self.residuals = torch.zeros(0, device=self.device)  # (n, K) p - onehot(y) of this epoch's visits

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Weights of the coreset, once there is one, and mixtures."""
        if self.method.mixup and self.epoch >= self.first:
            self._mix(forward)
        if self.epoch + 1 >= self.first:
            self._keep(forward, ids)
        weights = self.weights[ids]
        return StepObjective(normalised(weights))

    def _mix(self, forward: Forward) -> None:
        labels = forward.batch.labels
        # The inverse of the distribution function 1 - (1 - x)^b.
        share = 1 - uniform(forward.seed, "crust share") ** (1 / self.method.mixup)
        partners = partners_of_same_label(labels, generator(forward.seed, "crust"))
        shares = torch.full((len(labels),), share, device=labels.device)
        forward.replace_inputs(mixed(forward.inputs, shares, partners))

    def _keep(self, forward: Forward, ids: torch.Tensor) -> None:
        probs = forward.logits.detach().softmax(1)
        if self.head is None:
            self.head = head_of(forward.model)
            self.residuals = probs.new_zeros(len(self.weights), self.labels.classes)
        self.residuals[ids] = probs - F.one_hot(forward.batch.labels, self.labels.classes)

    def epoch_end(self, epoch: int) -> None:
        """The coreset of the samples that this epoch visited."""
        self.epoch = epoch
        if self.head is not None:
            self.weights = self._coreset(self.head.weight.detach())
        self._forget()

    def _coreset(self, layer: torch.Tensor) -> torch.Tensor:
        """(n,) weights by the last layer's parameters (K, d)."""
        ids = self.labels.trained
        parts = parts_of_classes(ids, self.labels.given[ids], generator(self.epoch, "crust"))
        own, division = divide_chunks(parts)
        found = [self.weights[:0]]
        with alone():  # each rank works on classes of its own
            for part in own:
                gradients = self.residuals[part.to(self.device)] @ layer.to(self.residuals)
                if self.device.type == "mps":  # Apple's GPUs have no float64
                    gradients = gradients.cpu()
                weights = medoid_weights(gradients, self.is_bought[part], self.method.share)
                found.append(weights.to(self.device))
        weights = division.joined(torch.cat(found))
        return torch.zeros_like(self.weights).index_copy(0, torch.cat(list(parts)).to(self.device), weights)

    def state_dict(self) -> State:
        """The weights and the epoch; errors are those of one epoch, at whose end a run is saved."""
        return {"weights": self.weights, "epoch": torch.tensor(self.epoch)}

    def load_state_dict(self, state: State) -> None:
        """The same, before the first visit of an epoch."""
        self.weights, self.epoch = state["weights"].to(self.device), int(state["epoch"])
        self._forget()
