"""Sample selection and relabelling: training on samples whose neighbours agree with their label.

Source: Feng, Tzimiropoulos, Patras 2022 (SSR: An Efficient and Robust Framework for Learning with Unknown Label Noise,
arXiv:2111.11288), with the constants of the authors' code: theta_s = 1, theta_r = 0.9 (0.8 for much noise), k = 200,
features compared by cosine, and votes in inverse proportion to the frequency of their class. A sample whose prediction
is surer than theta_r takes the predicted label for one epoch. Then a sample is selected if its label has at least
theta_s times the largest vote, and the selected ones are trained on with their classes in balance.
Differs: predictions and features are those of the training passes of the last epoch (in the paper, of a pass of its
own), so that a sample that is not selected is passed through with weight 0; the first epoch has the given labels;
classes are balanced by weights that sum to 1 in each batch, not by the draws; a sample does not vote for itself; in
small pools fewer neighbours vote, at most half as many as a class has on average; a bought label is kept, and its
sample always selected; training starts from the warm-up unless --init says otherwise. MixUp and the feature consistency
of SSR+ are left out.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch, full_precision
from metaselect.models.neighbours import neighbour_votes
from metaselect.random import generator
from metaselect.reweighting.base import (
    Labels,
    Method,
    MethodRun,
    Start,
    State,
    StepObjective,
    normalised,
    require_option,
)


@dataclass(frozen=True)
class SampleSelectionRelabelling(Method):
    """Hyper-parameters.

    Attributes:
        theta_s: share of the largest vote that a label needs for its sample to be selected; above 0, at most 1.
        theta_r: probability above which a sample takes the predicted label; in (0, 1], and 1: none does.
        neighbours: k, that vote; at least 1.
    """

    theta_s: float = 1.0
    theta_r: float = 0.9
    neighbours: int = 200

    def __post_init__(self) -> None:
        for name in ("theta_s", "theta_r"):
            require_option(self, name, "above 0 and at most 1", holds=0 < getattr(self, name) <= 1)
        require_option(self, "neighbours", "at least 1", holds=self.neighbours >= 1)

    def begin(self, start: Start) -> "SSRRun":
        """Every sample that is trained on is selected, with its label."""
        return SSRRun(self, start.labels, start.device)


def voters(wanted: int, samples: int, classes: int) -> int:
    """Neighbours that vote among so many samples, at least 1."""
    return min(wanted, max(samples // (2 * classes), 1))


def relabelled(
    given: torch.Tensor, confidence: torch.Tensor, predicted: torch.Tensor, theta_r: float
) -> torch.Tensor:
    """(m,) int64 labels: the predicted ones where the confidence (m,) is above theta_r, else the given ones."""
    return torch.where(confidence > theta_r, predicted, given)


def consistency(votes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(m,) in [0, 1], the balanced vote for a sample's label over the largest one.

    Args:
        votes: (m, K), the share of a sample's neighbours that have each label.
        labels: (m,) int64, those that voted.
    """
    counts = torch.bincount(labels, minlength=votes.shape[1]).clamp(min=1)
    balanced = votes / counts
    return balanced.gather(1, labels[:, None])[:, 0] / balanced.amax(1).clamp(min=1e-30)


class SSRRun(MethodRun):
    """The class that each sample is trained on, ``targets`` (n,) int64, -1: it is not selected; and the last visits."""

    def __init__(self, method: SampleSelectionRelabelling, labels: Labels, device: torch.device) -> None:
        self.method, self.classes = method, labels.classes
        self.given, self.is_bought = labels.given.to(device), labels.is_bought.to(device)
        targets = torch.full_like(self.given, -1)
        trained = labels.trained.to(device)
        targets[trained] = self.given[trained]
        self._take(targets)
        self._forget()
        self.features = torch.zeros(
            0, 0, device=device
        )  # (n, d) of this epoch's visits, from the first step on
        self.confidence = torch.zeros(0, device=device)
        self.predicted = torch.zeros_like(self.given)

    def _take(self, targets: torch.Tensor) -> None:
        self.targets = targets
        sizes = torch.bincount(targets[targets >= 0], minlength=self.classes).clamp(min=1)
        self.shares = torch.where(targets >= 0, 1 / sizes[targets.clamp(min=0)], 0.0)  # (n,)

    def _forget(self) -> None:
        self.visited = torch.zeros_like(self.is_bought)

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Weights of the selected samples, and the loss with their classes; the visit is kept."""
        self._keep(forward, ids)
        shares = self.shares[ids]
        losses = F.cross_entropy(forward.logits, self.targets[ids].clamp(min=0), reduction="none")
        return StepObjective(normalised(shares), losses=losses)

    def _keep(self, forward: Forward, ids: torch.Tensor) -> None:
        hidden, probs = full_precision(forward.hidden.detach()), forward.logits.detach().softmax(1)
        if not len(self.features):
            self.features = hidden.new_zeros(len(self.given), hidden.shape[1])
            self.confidence = probs.new_zeros(len(self.given))
        self.features[ids] = hidden
        self.confidence[ids], self.predicted[ids] = probs.max(1)
        self.visited[ids] = True

    def epoch_end(self, epoch: int) -> None:
        """Relabel and select the samples that this epoch visited."""
        ids = self.visited.nonzero()[:, 0]
        if len(ids) < 2:
            return
        known, given = self.is_bought[ids], self.given[ids]
        labels = relabelled(given, self.confidence[ids], self.predicted[ids], self.method.theta_r)
        labels = torch.where(known, given, labels)
        count = voters(self.method.neighbours, len(ids), self.classes)
        votes = neighbour_votes(self.features[ids], labels, self.classes, count, generator(epoch, "ssr"))
        selected = (consistency(votes, labels) >= self.method.theta_s) | known
        self._take(self.targets.index_copy(0, ids, torch.where(selected, labels, -1)))
        self._forget()

    def state_dict(self) -> State:
        """The classes; visits are those of one epoch, at whose end a run is saved."""
        return {"targets": self.targets}

    def load_state_dict(self, state: State) -> None:
        """The same, before the first visit of an epoch."""
        self._take(state["targets"].to(self.given.device))
        self._forget()
