"""CRAIG: samples whose last-layer gradients cover those of the pool, by greedy facility location in each class.

Source: Mirzasoleiman, Bilmes, Leskovec 2020 (arXiv:1906.01827), Algorithm 1, as the baseline *CRAIG* of Wu,
Stein, Gardner, Naik 2023 (arXiv:2302.04418): by the class that the model believes; lazy greedy: Minoux 1978.
Differs: distances are squared and gradients include the bias, as in that baseline; the weights of the medoids are not
used; every gradient has the same scale and its own index, where the authors' code scaled a class's last batch otherwise
and shuffled the rows; samples of earlier rounds are in the set from the start.

Time is quadratic in the size of a class: 7 s (1 s of it before the first pick) for n=50,000 in 10 classes of 5,000,
d=64 and a budget of 500 on one thread. Memory is n (K + d) float64, and a few tiles.
"""

import heapq
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.metagrad.facility_location import FacilityLocation
from metaselect.selection.base import (
    Choice,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    no_progress,
)


@dataclass(frozen=True)
class Craig:
    """CRAIG, which has no hyper-parameters."""

    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("probs", "hidden")

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The greedy maximum of F(S) = sum_i max_{j in S} s(i, j), with ``bought`` in S from the start.

        ``similarity`` is what a sample adds to F before the first pick, as a share of the largest possible F; it is 0
        for bought samples. ``details`` hold the share that all picks and bought samples reach.
        """
        del generator
        classes = predicted_classes(features.probs[-1], features.hidden[-1])
        is_bought = torch.zeros(len(features.probs[-1]), dtype=torch.bool)
        is_bought[bought.cpu()] = True
        first = torch.zeros(len(is_bought), dtype=torch.float64)
        picks = []
        for number, members in enumerate(classes):
            progress(f"class {number + 1} of {len(classes)}")
            gains = members.first_gains(is_bought[members.ids].nonzero()[:, 0].tolist())
            first[members.ids] = gains.cpu()
            picks.append(members.greedy(gains.tolist(), is_bought[members.ids].tolist()))
        # The largest possible F, with S the whole pool. It is 0 where every class is one point; then divide by 1.
        best = sum(members.largest * len(members.ids) for members in classes) or 1.0
        value = sum(float(members.covered.sum()) for members in classes)
        ranked = []
        # A pick changes no gain in another class: the greedy order of the pool is the merged order of its classes.
        for loss, index in islice(heapq.merge(*picks), budget):
            ranked.append(index)
            value -= loss  # loss = -gain
            progress(f"pick {len(ranked)} of {budget}")
        scores = (first / best).clamp(max=1)
        return choice_without_clusters(torch.tensor(ranked), scores, {"coverage": min(value / best, 1.0)})


def predicted_classes(probs: torch.Tensor, hidden: torch.Tensor) -> list[FacilityLocation]:
    """The predicted classes that have samples, in ascending order, each with the factors of its gradients.

    Args:
        probs: (n, K) float32, softmax outputs at one checkpoint.
        hidden: (n, d) float32, inputs of the last layer, which has a bias.
    """
    if probs.device.type == "mps":  # Apple's GPUs have no float64
        probs, hidden = probs.cpu(), hidden.cpu()
    predicted = probs.argmax(1)
    classes = []
    for label in sorted(set(predicted.tolist())):
        ids = (predicted == label).nonzero()[:, 0]
        left = probs[ids].double()
        left[:, label] -= 1  # softmax - onehot(class), the gradient by the logits
        classes.append(FacilityLocation(ids.cpu(), left, F.pad(hidden[ids].double(), (0, 1), value=1.0)))
    return classes
