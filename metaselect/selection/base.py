"""Selectors, one file each: from what the warm-up shows of the pool to the few samples worth a label."""

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

import torch
from torch import nn

from metaselect.records import Json

ProgressCallback: TypeAlias = Callable[[str], None]
"""Takes a few words on how far a long choice has come."""


def no_progress(_: str) -> None:
    """A ``ProgressCallback`` for those who do not listen."""


class ImagePool(NamedTuple):
    """The pool's images, for a selector with a training loop of its own.

    Attributes:
        inputs: ids (B,) int64 on the CPU -> (B, C, H, W) float32 as the model takes them, on the device.
        model: the warm-up's model at its last checkpoint; a fresh copy each call, on the device.
        shape: (C, H, W).
    """

    inputs: Callable[[torch.Tensor], torch.Tensor]
    model: Callable[[], nn.Module]
    shape: tuple[int, int, int]


class Gradients(NamedTuple):
    """Projected gradients of sampled layers at one checkpoint.

    Attributes:
        norms: (n,) float32.
        directions: (n, r) float16, rows of norm 1, or 0 where the gradient is.
    """

    norms: torch.Tensor
    directions: torch.Tensor


class PoolFeatures(NamedTuple):
    """What a selector may look at; the pool's order is that of ``index``. Fields that it did not want are empty.

    Attributes:
        probs: T tensors (n, K) float32, softmax outputs at each checkpoint, rows sum to 1.
        hidden: T tensors (n, d) float32, inputs of the last linear layer.
        labels: (n,) int64, given labels.
        gradients: T of them, of sampled layers.
        images: None unless wanted.
    """

    probs: tuple[torch.Tensor, ...]
    hidden: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    gradients: tuple[Gradients, ...] = ()
    images: ImagePool | None = None

    def subset(self, ids: torch.Tensor) -> "PoolFeatures":
        """Those of the samples at ``ids`` ((n',) int64 on the CPU), in that order."""
        at = ids.to(self.labels.device)
        images = self.images
        return PoolFeatures(
            tuple(probs[at] for probs in self.probs),
            tuple(hidden[at] for hidden in self.hidden),
            self.labels[at],
            tuple(Gradients(block.norms[at], block.directions[at]) for block in self.gradients),
            images and images._replace(inputs=lambda wanted: images.inputs(ids[wanted])),
        )


class Choice(NamedTuple):
    """What a selector answers.

    Attributes:
        ranked: (budget,) int64, distinct indices, the most useful first.
        cluster: (n,) int64, the cluster of every sample, -1 where the method has none.
        similarity: (n,) float32, the cosine of every sample with its cluster's centre, or another score of the
            method's; of two samples that are alike in all else, the method prefers the higher one.
        mass: (M,) float32, share of the pool in each cluster, by gradient norm where there are gradients; sums to 1.
        details: for ``stage.json``.
    """

    ranked: torch.Tensor
    cluster: torch.Tensor
    similarity: torch.Tensor
    mass: torch.Tensor
    details: Mapping[str, Json]


class Selector(Protocol):
    """Hyper-parameters of a selector; ``choose`` is a pure function of its arguments.

    A field named ``gradient`` is set by ``--gradient``: "label-free" or "full". A class that carries ``profiles``,
    from a name of ``registry.PROFILES`` to values of fields, starts from these under ``--profile``; so do re-weighters.

    Attributes:
        checkpoints: "all" or "last": the part of the history whose features it wants.
        required_features: names of the fields of ``PoolFeatures`` that it looks at, beside ``labels``.
    """

    checkpoints: ClassVar[str]

    @property
    def required_features(self) -> tuple[str, ...]: ...  # noqa: D102

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """Exactly ``budget`` distinct indices, none of them in ``bought`` ((m,) int64, on the CPU).

        ``generator`` is a CPU generator; what the answer holds is on the CPU.
        """


def choice_without_clusters(
    ranked: torch.Tensor, scores: torch.Tensor, details: Mapping[str, Json] | None = None
) -> Choice:
    """The answer of a method without clusters; ``scores`` (n,) are the higher, the earlier a sample is chosen."""
    none = torch.full(scores.shape, -1, dtype=torch.int64)
    return Choice(ranked.cpu(), none, scores.cpu().float(), torch.empty(0), details or {})


def lowest_unbought(scores: torch.Tensor, count: int, bought: torch.Tensor) -> torch.Tensor:
    """The ``count`` indices of lowest score that are not bought; ties go to the lowest index."""
    order = torch.sort(scores, stable=True).indices
    taken = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    taken[bought.to(scores.device)] = True
    return order[~taken[order]][:count]
