"""FSR's dictionary: training samples that stand for clean ones, equally many of each given class.

Source: Zhang, Pfister 2021 (FSR), Eq. 4 and Algorithm 1 (BalancedSampleBatch, FetchBalancedBatch).
Differs: the dictionary holds indices, so that its samples are augmented anew at every visit (theirs: one view an
epoch). A class with too few samples gives all that it has, and they come up more often in a batch (theirs: drawn with
replacement, or entries of an older epoch). Its size and the batch's need be no multiple of K: the classes that get
one more are drawn at random.
"""

import torch


def slots(size: int, share: float, classes: int, trained: int) -> int:
    """Samples of each class in a dictionary of ``size``, or of ``share`` of the trained samples if that is less."""
    return max(int(min(size, share * trained)) // classes, 1)


def best_of_each_class(
    scores: torch.Tensor, labels: torch.Tensor, candidates: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Eq. 4, class by class: indices of the highest scores, by class and then by rank.

    Args:
        scores: (n,) float; equal ones go to the lowest index.
        labels: (n,) int64 in 0..K-1.
        candidates: (n',) int64, sorted, who may be chosen.
        wanted: (K,) int64, how many of each class; fewer where there are fewer.
    """
    by_score = candidates[scores[candidates].sort(descending=True, stable=True).indices]
    chosen = by_score[labels[by_score].sort(stable=True).indices]
    classes = labels[chosen]
    return chosen[_place_in_group(classes, len(wanted)) < wanted[classes]]


def balanced_batch(
    members: torch.Tensor, labels: torch.Tensor, size: int, draw: torch.Generator
) -> torch.Tensor:
    """(size,) int64 of ``members``, equally many of each class that occurs, in random order within a class.

    Args:
        members: (r,) int64, the dictionary; at least one.
        labels: (r,) int64, their classes.
        size: of the batch.
        draw: on the CPU.
    """
    counts = torch.bincount(labels)
    groups = (counts > 0).cumsum(0)[labels] - 1  # classes that occur, numbered without gaps
    counts = counts[counts > 0]
    present = len(counts)
    # float64: adding a class number must not blur the order within it.
    keys = groups + torch.rand(len(members), generator=draw, dtype=torch.float64)
    shuffled = keys.sort(stable=True).indices
    wanted = torch.full((present,), size // present)
    wanted[torch.randperm(present, generator=draw)[: size % present]] += 1
    rows = torch.arange(present).repeat_interleave(wanted)
    place = _place_in_group(rows, present) % counts[rows]
    return members[shuffled[(counts.cumsum(0) - counts)[rows] + place]]


def _place_in_group(groups: torch.Tensor, count: int) -> torch.Tensor:
    """(r,) int64: 0, 1, ... within each run of equal groups; ``groups`` (r,) are sorted."""
    sizes = torch.bincount(groups, minlength=count)
    return torch.arange(len(groups)) - (sizes.cumsum(0) - sizes)[groups]
