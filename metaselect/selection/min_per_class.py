"""A floor under every class: at least some of the picks from each, so that a rare one is not left out."""

import torch

from metaselect.selection.base import Choice, lowest_unbought


def with_min_per_class(
    choice: Choice, labels: torch.Tensor, floor: int, bought: torch.Tensor
) -> torch.Tensor:
    """(budget,) the picks, with at least ``floor`` of each given class, as far as the pool has them.

    A class that falls short gets the samples that the method's own score prefers, ranked behind the others; they
    take the places of the lowest-ranked picks of classes with more than the floor.

    Args:
        choice: of a method; floor times the number of classes must not exceed its picks.
        labels: (n,) int64, given labels, on the CPU.
        floor: picks of each class that has as many unbought samples.
        bought: (m,) int64, never chosen.
    """
    kept = choice.ranked.tolist()
    given = labels.tolist()
    counts = torch.bincount(labels[choice.ranked], minlength=int(labels.max()) + 1).tolist()
    taken = torch.cat([bought, choice.ranked])
    added: list[int] = []
    for label, count in enumerate(counts):
        if count >= floor:
            continue
        outside = (labels != label).nonzero()[:, 0]
        best = lowest_unbought(-choice.similarity, floor - count, torch.cat([taken, outside]))
        added.extend(best.tolist())
    spare = len(added)
    for position in range(len(kept) - 1, -1, -1):
        if spare and counts[given[kept[position]]] > floor:
            counts[given[kept[position]]] -= 1
            spare -= 1
            del kept[position]
    return torch.tensor(kept + added, dtype=torch.int64)
