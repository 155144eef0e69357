"""The protocol of a selector, a method that chooses which samples of the pool get a bought label.

A selector is a frozen dataclass. Its fields are the hyper-parameters of its paper with the paper's defaults, checked in
``__post_init__``; the ``Attributes`` of its docstring are what ``--option help`` prints. ``required_features`` and
``checkpoints`` declare its inputs, and ``choose`` ranks ``budget`` samples. To add one:

1. ``selection/<name>.py``: the class; the paper under ``Source:``, deviations under ``Differs:`` at the file's head.
2. ``registry.SELECTORS``: one line, "name": "metaselect.selection.<name>:<Class>".
3. the documentation's table of selectors: one row.
4. ``tests/``: one test against brute force or a closed form on few samples. The contract tests of
   ``tests/test_selection.py`` run for every selector of the registry.

Features come from ``metaselect.features``; a selector sees tensors only, no paths and no run directory.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

import torch
from torch import nn

from metaselect.records import Json

ProgressCallback: TypeAlias = Callable[[str], None]
"""Called with a short text about how far a long choice has come."""


def no_progress(_: str) -> None:
    """A ``ProgressCallback`` that does nothing."""


class ImagePool(NamedTuple):
    """The pool's images, for a selector that trains networks of its own.

    Attributes:
        inputs: ids (B,) int64 on the CPU -> (B, C, H, W) float32, normalised for the model, on the device.
        model: () -> the warm-up's model at its last checkpoint, a new copy each call, on the device.
        shape: (C, H, W).
    """

    inputs: Callable[[torch.Tensor], torch.Tensor]
    model: Callable[[], nn.Module]
    shape: tuple[int, int, int]


class Gradients(NamedTuple):
    """Projected gradients of sampled layers at one checkpoint.

    Attributes:
        norms: (n,) float32.
        directions: (n, r) float16, rows of norm 1; 0 where the gradient is 0.
    """

    norms: torch.Tensor
    directions: torch.Tensor


class PoolFeatures(NamedTuple):
    """The inputs of a selector, in pool order (sorted by sample_id); fields that it does not require are empty.

    Attributes:
        probs: T tensors (n, K) float32, softmax outputs at each checkpoint, rows sum to 1.
        hidden: T tensors (n, d) float32, inputs of the last linear layer.
        labels: (n,) int64, given labels; where there is none, the most probable class, or -1 if no model knows one.
        gradients: projected gradients of sampled layers at each of T checkpoints.
        images: None unless required.
        bought_labels: (m,) int64 on the CPU, true labels of the ``bought`` samples of ``choose``, in their order; -1
            where there is none (unusable, or not answered yet).
        scores: (n,) float32 on the CPU, the place of each sample in a list that somebody made, the first the highest;
            None without a list.
    """

    probs: tuple[torch.Tensor, ...]
    hidden: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    gradients: tuple[Gradients, ...] = ()
    images: ImagePool | None = None
    bought_labels: torch.Tensor | None = None
    scores: torch.Tensor | None = None

    def subset(self, ids: torch.Tensor) -> "PoolFeatures":
        """The features of the samples at ``ids`` ((n',) int64 on the CPU), in that order; the same bought labels."""
        at = ids.to(self.labels.device)
        images = self.images
        return PoolFeatures(
            tuple(probs[at] for probs in self.probs),
            tuple(hidden[at] for hidden in self.hidden),
            self.labels[at],
            tuple(Gradients(block.norms[at], block.directions[at]) for block in self.gradients),
            images and images._replace(inputs=lambda rows: images.inputs(ids[rows])),
            self.bought_labels,
            None if self.scores is None else self.scores[ids],
        )


class Choice(NamedTuple):
    """The result of a selector.

    Attributes:
        ranked: (budget,) int64, distinct indices, the most useful first.
        cluster: (n,) int64, the cluster of every sample, -1 where the method has none.
        similarity: (n,) float32, the cosine of every sample with its cluster's centre, or another score of the method;
            the higher, the sooner a sample is chosen, other things equal.
        mass: (M,) float32, share of the pool in each cluster, by gradient norm where there are gradients; sums to 1.
        details: for ``stage.json``.
    """

    ranked: torch.Tensor
    cluster: torch.Tensor
    similarity: torch.Tensor
    mass: torch.Tensor
    details: Mapping[str, Json]


class Selector(Protocol):
    """A selector: hyper-parameters, and ``choose`` as a pure function of its arguments.

    A field named ``gradient`` is set by ``--gradient``: "label-free" or "full". A class attribute ``profiles`` maps a
    name of ``registry.PROFILES`` to values of fields, which ``--profile`` sets.

    Attributes:
        checkpoints: "all" or "last": the checkpoints of the warm-up whose features it uses.
        required_features: fields of ``PoolFeatures`` that it uses beside ``labels``.
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
        """The choice of exactly ``budget`` distinct samples, none of them in ``bought``.

        Args:
            features: of n samples, on the device.
            budget: from 1 to n - m.
            bought: (m,) int64, on the CPU, indices of samples that must not be chosen: those with a bought label, those
                that earlier rounds selected (also without an answer), and unusable ones. Methods that cover the pool
                or learn from labelled samples treat all of them as labelled.
            generator: on the CPU; every random number comes from it, so the same seed gives the same choice.
            progress: called now and then with a short text.

        Returns:
            Tensors on the CPU.
        """


def choice_without_clusters(
    ranked: torch.Tensor, scores: torch.Tensor, details: Mapping[str, Json] | None = None
) -> Choice:
    """The choice of a method without clusters; ``scores`` (n,) are higher for samples that it would choose sooner."""
    no_cluster = torch.full(scores.shape, -1, dtype=torch.int64)
    return Choice(ranked.cpu(), no_cluster, scores.cpu().float(), torch.empty(0), details or {})


def lowest_unbought(scores: torch.Tensor, count: int, bought: torch.Tensor) -> torch.Tensor:
    """The ``count`` indices of lowest score that are not bought; ties go to the lowest index."""
    order = torch.sort(scores, stable=True).indices
    is_bought = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    is_bought[bought.to(scores.device)] = True
    return order[~is_bought[order]][:count]
