"""A minimum of picks for every class (``--min-per-class``), so that rare classes are not left out."""

import torch

from metaselect.selection.base import Choice, lowest_unbought


def with_min_per_class(
    choice: Choice, labels: torch.Tensor, minimum: int, bought: torch.Tensor
) -> torch.Tensor:
    """(budget,) picks with at least ``minimum`` of each given class, as far as the pool has them.

    A class with fewer gets its samples of highest ``similarity``, ranked behind the others; they replace the
    lowest-ranked picks of classes that have more than ``minimum``.

    Args:
        choice: of a method; ``minimum`` times the number of classes must not exceed its picks.
        labels: (n,) int64, given labels, on the CPU; -1: none.
        minimum: picks of each class that has as many unbought samples.
        bought: (m,) int64, never chosen.
    """
    kept = choice.ranked.tolist()
    given = labels.tolist()
    chosen = labels[choice.ranked]
    counts = torch.bincount(chosen[chosen >= 0], minlength=int(labels.max()) + 1).tolist()
    unavailable = torch.cat([bought, choice.ranked])
    added: list[int] = []
    for label, count in enumerate(counts):
        if count >= minimum:
            continue
        other_classes = (labels != label).nonzero()[:, 0]
        best = lowest_unbought(-choice.similarity, minimum - count, torch.cat([unavailable, other_classes]))
        added.extend(best.tolist())
    surplus = len(added)  # picks to remove
    for position in range(len(kept) - 1, -1, -1):
        label = given[kept[position]]
        if surplus and (label < 0 or counts[label] > minimum):
            if label >= 0:
                counts[label] -= 1
            surplus -= 1
            del kept[position]
    return torch.tensor(kept + added, dtype=torch.int64)
