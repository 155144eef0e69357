"""RBC, representation-based clustering: last-layer gradients are clustered, and one sample of each cluster is chosen.

Source: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Eq. 10-12 and the section on noisy labels.
Differs: features are taken in eval mode and without augmentation, and each checkpoint is scaled to mean norm 1; see
also ``clustering.representatives`` and ``clustering.kmeans``. ``rbc-k`` leaves out the weighting of Eq. 10, as in the
paper's ablation.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.selection.base import Choice, PoolFeatures, ProgressCallback, no_progress
from metaselect.selection.clustering.factored import FactoredRows
from metaselect.selection.clustering.representatives import choose_representatives

FEATURE_KINDS = ("product", "representation")


def factored_gradients(features: PoolFeatures, kind: str, gradient: str = "label-free") -> FactoredRows:
    """The features of Eq. 11 at every checkpoint, as factored rows.

    Args:
        features: T checkpoints.
        kind: "product": the gradient, an outer product with the representation; "representation": that alone.
        gradient: of "product": "label-free": softmax (x) representation; "full": (softmax - onehot(given
            label)) (x) representation, for clean but unbalanced labels.
    """
    if kind == "representation":
        left = [torch.ones_like(hidden[:, :1]) for hidden in features.hidden]  # (n, 1)
    elif gradient == "full":
        onehot = F.one_hot(features.labels, features.probs[0].shape[1])
        left = [probs - onehot for probs in features.probs]  # Eq. 12
    else:
        left = list(features.probs)  # Eq. 11
    return FactoredRows(left, features.hidden)


@dataclass(frozen=True)
class RBC:
    """Hyper-parameters of RBC.

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
        if self.features not in FEATURE_KINDS:
            raise UsageError(
                f"--option features={self.features} is not known.", f"One of {', '.join(FEATURE_KINDS)}."
            )
        if self.gradient == "full" and self.features == "representation":
            raise UsageError(
                "--gradient full has no effect with --option features=representation, which does not depend on labels.",
                "Leave out one of the two; --profile long-tail sets --gradient full.",
            )
        require_starts_and_iterations(self.starts, self.iterations)

    @property
    def required_features(self) -> tuple[str, ...]:
        """The representation alone, or both factors of the gradient."""
        return ("hidden",) if self.features == "representation" else ("probs", "hidden")

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The choice of one member of each of ``budget`` clusters, the one closest to its centroid."""
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
    """RBC-K, which is RBC without the norms of Eq. 10: similarity is the absolute cosine alone."""

    weighted: ClassVar[bool] = False


def require_starts_and_iterations(starts: int, iterations: int) -> None:
    """Check that there is at least one start and one iteration of K-means.

    Raises:
        UsageError: naming both options.
    """
    if starts < 1 or iterations < 1:
        raise UsageError(
            "--option starts and iterations must be at least 1.", "Leave them at their defaults."
        )
