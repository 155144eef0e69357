"""Farthest-first traversal: each further centre is the row that is farthest from all centres before it.

Source: Gonzalez 1985 (the traversal); Minoux 1978 (lazy evaluation: the distance to the nearest centre only falls, so
that an old one bounds it from above).
Differs: after each pick, distances to it are computed for a few candidates, and for all rows when no candidate is
certain to be the farthest row any more, by one matrix product with all picks since then. The picks are those that the
distances of ``between`` to every centre would give.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from metaselect.selection.base import ProgressCallback, no_progress

CANDIDATES = 1024  # rows that are compared after each pick; in a smaller pool all of them

Between: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(ids (q,), centres (p,)) -> (q, p) distances of rows to rows, which decide."""
Lower: TypeAlias = Callable[[torch.Tensor, torch.Tensor], None]
"""(bounds (n,), centres (p,)): lowers, in place, the bounds of all rows to their distance from one of the centres, the
nearest as far as rounding allows."""


class Traversal(NamedTuple):
    """The rows that were picked.

    Attributes:
        picks: (count,) int64, distinct, in their order.
        distances: (count,) from the centres before.
        nearest: (n,) distance of every row to its nearest centre, which rounding may make a little too large in pools
            of more than ``CANDIDATES``; -inf for the centres.
    """

    picks: torch.Tensor
    distances: torch.Tensor
    nearest: torch.Tensor


def farthest_first(
    bounds: torch.Tensor,
    centres: torch.Tensor,
    count: int,
    between: Between,
    lower: Lower,
    progress: ProgressCallback = no_progress,
) -> Traversal:
    """The ``count`` rows that are each the farthest from all centres before them; ties go to the lowest index.

    Args:
        bounds: (n,) of each row at least its distance from the nearest of ``centres``, such as +inf; is changed.
        centres: (m,) int64, at least one; never picked.
        count: at most n - m.
        between: distances.
        lower: of bounds.
        progress: called after each round with a short text.
    """
    size, made = CANDIDATES, [centres]
    distances: list[float] = []
    lower(bounds, centres)
    bounds[centres] = -torch.inf
    while len(distances) < count:
        ids, certain = _candidates(bounds, size)
        nearest = torch.minimum(bounds[ids], between(ids, torch.cat(made)).amin(1))
        picks: list[int] = []
        while len(distances) < count:
            at = int(nearest.argmax())  # argmax returns the first of equals
            index, distance = int(ids[at]), float(nearest[at])
            if not certain(distance, index):
                break
            picks.append(index)
            distances.append(distance)
            nearest = torch.minimum(nearest, between(ids, ids[at : at + 1])[:, 0])
            nearest[at] = -torch.inf
        bounds[ids] = nearest
        size = CANDIDATES if picks else 2 * size  # many rows as far as the farthest: look at more of them
        if picks:
            new = torch.tensor(picks, device=bounds.device)
            made.append(new)
            if len(ids) < len(bounds):
                lower(bounds, new)
        progress(f"{len(distances)} of {count}")
    return Traversal(torch.cat(made[1:] or [centres[:0]]), bounds.new_tensor(distances), bounds)


def _candidates(bounds: torch.Tensor, size: int) -> tuple[torch.Tensor, Callable[[float, int], bool]]:
    """The rows of the largest bounds, by rising index, and whether a distance of one of them exceeds all other rows'.

    Args:
        bounds: (n,).
        size: rows.
    """
    if size >= len(bounds):
        return torch.arange(len(bounds)).to(bounds.device), lambda distance, index: True
    limit = float(bounds.topk(size + 1).values[-1])
    inside = bounds > limit
    ties = (bounds == limit).nonzero()[:, 0]
    room = size - int(inside.sum())
    inside[ties[:room]] = True
    left = int(ties[room])  # the first of the other rows that are as far as the limit
    return inside.nonzero()[:, 0], lambda distance, index: (distance, -index) > (limit, -left)
