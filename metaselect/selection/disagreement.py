"""Disagreement: typical samples of the part of the pool where views of the label disagree; for later rounds.

A sample has three views, distributions over the classes: of a head fitted on the bought labels, of its nearest
neighbours' labels, and of its given label (an even one, where it has none). The first knows true labels but few of
them; the others follow the given ones. Where a class has no bought label yet, they are what speaks for it.

Source: members of a committee disagree by their mean divergence from the committee's mean: McCallum, Nigam 1998;
K-means of the samples of highest score, one of each cluster: Zhdanov 2019 (arXiv:1901.05954).
Differs: the members are views of a label instead of models of one kind; the entropy of the head is added, since it is
the view that the bought labels improve; the clusters are not weighted by the score.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.models.logistic_regression import fit_logistic_regression
from metaselect.models.neighbours import neighbour_count, neighbour_votes
from metaselect.selection.base import (
    Choice,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    lowest_unbought,
    no_progress,
)
from metaselect.selection.clustering.euclidean import require_starts, typical_members
from metaselect.selection.uncertainty import entropy

HEAD_STRENGTH = (
    30.0  # scikit-learn's C: rows have norm 1, and a head of few labels must be able to separate them
)


@dataclass(frozen=True)
class Disagreement:
    """Hyper-parameters of disagreement.

    Attributes:
        share: part of the samples without a bought label, those of highest score, that are clustered.
        starts: seeded starts of K-means, at most 3 by mini-batches; the best inertia is kept.
    """

    share: float = 0.5
    starts: int = 10
    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("hidden", "bought_labels")

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(
                f"--option share={self.share:g} must be above 0 and at most 1.", "The default is 0.5."
            )
        require_starts(self.starts)

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The sample closest to the centre of each of ``budget`` clusters of the samples of highest score.

        ``similarity`` is the score. Bought samples without a label, such as unusable ones, are left out of the head.
        """
        unit = F.normalize(features.hidden[-1]).cpu()
        labels, labelled, true_labels = _labels(features, bought)
        classes = max(int(torch.cat([labels, true_labels]).max()), 0) + 1
        given = F.one_hot(labels.clamp(min=0), classes).float()
        given[labels < 0] = 1 / classes
        labels[labelled] = true_labels
        views = [given]
        if int((labels >= 0).sum()) > 1:
            progress("neighbours")
            views.append(neighbour_votes(unit, labels, classes, neighbour_count(len(unit)), generator))
        scores = torch.zeros(len(unit))
        if len(true_labels.unique()) > 1:
            progress("head on the bought labels")
            views.append(head_probs(unit, labelled, true_labels, classes))
            scores += entropy(views[-1])
        scores += jensen_shannon(views)
        free = len(unit) - len(bought)
        candidates = lowest_unbought(-scores, max(round(self.share * free), budget), bought).sort().values
        progress(f"K-means into {budget} clusters")
        none = torch.empty(0, dtype=torch.int64)
        found = typical_members(unit[candidates], budget, none, budget, self.starts, generator)
        details = {"clustered": len(candidates), "labels_of_the_head": len(true_labels)}
        return choice_without_clusters(candidates[found.ranked], scores, details)


def jensen_shannon(views: list[torch.Tensor]) -> torch.Tensor:
    """(n,) Jensen-Shannon divergence in nats of the rows of equally weighted ``views`` ((n, K) each), at least 0."""
    mean = torch.stack(views).mean(0)
    divergence: torch.Tensor = entropy(mean) - torch.stack([entropy(view) for view in views]).mean(0)
    return divergence.clamp(min=0)


def head_probs(
    unit: torch.Tensor, labelled: torch.Tensor, true_labels: torch.Tensor, classes: int
) -> torch.Tensor:
    """(n, K) probabilities of a logistic regression on the labelled rows; 0 for classes without a label.

    Args:
        unit: (n, d) float32, rows of norm 1 or 0.
        labelled: (m,) int64, rows.
        true_labels: (m,) int64, of two classes at least.
        classes: K.
    """
    present, targets = true_labels.unique(return_inverse=True)
    weight_decay = 1 / (HEAD_STRENGTH * len(labelled))
    head = fit_logistic_regression(unit[labelled], F.one_hot(targets).to(unit.dtype), weight_decay)
    probs = unit.new_zeros(len(unit), classes)
    probs[:, present] = head.log_probs(unit).exp()
    return probs


def _labels(features: PoolFeatures, bought: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The given labels (n,), a copy, and the indices and true labels (m',) of the bought samples that have one."""
    given = features.labels.cpu().clone()
    if features.bought_labels is None:
        none = torch.empty(0, dtype=torch.int64)
        return given, none, none
    has_label = features.bought_labels >= 0
    return given, bought[has_label], features.bought_labels[has_label]
