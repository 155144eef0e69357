"""Representation-based clustering: the gradients of the last layer, clustered; one sample bought per cluster.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Eq. 10-12 and the section on noisy labels.
Differs: features are in eval mode and without augmentation, each checkpoint is scaled to mean norm 1, picks as
``clustering`` and K-means as ``kmeans`` say. ``rbc-k`` leaves out the weighting of Eq. 10, as in the paper's ablation.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, no_progress
from metaselect.selection.clustering.factored import FactoredRows
from metaselect.selection.clustering.representatives import choose_representatives

KINDS = ("product", "representation")


def factored_gradients(features: PoolFeatures, kind: str, gradient: str = "label-free") -> FactoredRows:
    """Factors of Eq. 11 at every checkpoint.

    Args:
        features: T checkpoints.
        kind: "product": the gradient, an outer product with the representation; "representation": that alone.
        gradient: of "product": "label-free": softmax (x) representation; "full": (softmax - onehot(given
            label)) (x) representation, for clean but unbalanced labels.
    """
    if kind == "representation":
        left = [torch.ones_like(hidden[:, :1]) for hidden in features.hidden]
    elif gradient == "full":
        onehot = F.one_hot(features.labels, features.probs[0].shape[1])
        left = [probs - onehot for probs in features.probs]  # Eq. 12
    else:
        left = list(features.probs)
    return FactoredRows(left, features.hidden)


@dataclass(frozen=True)
class RBC:
    """Hyper-parameters.

    Attributes:
        features: "product" or "representation".
        starts: seeded starts of K-means; the best objective is kept.
        iterations: of K-means, at most.
        gradient: "label-free" or "full", set by ``--gradient``.
    """

    features: str = "product"
    starts: int = 3
    iterations: int = 100
    gradient: str = "label-free"
    checkpoints: ClassVar[str] = "all"
    profiles: ClassVar[dict[str, dict[str, object]]] = {
        "long-tail": {"gradient": "full"}  # section "Re-weighting a Class-Imbalanced Training Set"
    }
    weighted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.features not in KINDS:
            raise UsageError(
                f"--option features={self.features} is not known.", f"One of {', '.join(KINDS)}."
            )
        if self.gradient == "full" and self.features == "representation":
            raise UsageError(
                "--gradient full means nothing to --option features=representation, which has no label part.",
                "Leave out one of the two; --profile long-tail sets --gradient full.",
            )
        check_clustering(self.starts, self.iterations)

    @property
    def required_features(self) -> tuple[str, ...]:
        """The representation alone, or both factors."""
        return ("hidden",) if self.features == "representation" else ("probs", "hidden")

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """One member of each of ``budget`` clusters: the one closest to its centroid."""
        return choose_representatives(
            factored_gradients(features, self.features, self.gradient),
            budget,
            bought,
            generator,
            progress,
            weighted=self.weighted,
            starts=self.starts,
            iterations=self.iterations,
        )


@dataclass(frozen=True)
class RBCK(RBC):
    """RBC without the norms of Eq. 10: similarity is the absolute cosine alone."""

    weighted: ClassVar[bool] = False


def check_clustering(starts: int, iterations: int) -> None:
    """Refuse less than one start or iteration.

    Raises:
        UsageError: naming both options.
    """
    if starts < 1 or iterations < 1:
        raise UsageError(
            "--option starts and iterations must be at least 1.", "Leave them at their defaults."
        )
