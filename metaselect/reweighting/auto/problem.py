"""The data that the model of the labels is fitted to: a sample of the pool, with representations and bought labels."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional as F

from metaselect.reweighting.evidence import Evidence, Space

LEAST_DIMENSIONS = 64  # of rows of norm 1; the length of a shorter one, of a table of features, says as much
MOST_DIMENSIONS = 128  # of the representations of an encoder; more changed nothing and took six times as long


class Projection(NamedTuple):
    """From a model's representations to rows of norm 1, or of mean norm 1 where there are few numbers.

    Attributes:
        mean: (d,), which is subtracted.
        directions: (d, d') orthonormal columns; None: all directions are kept.
        scale: that rows are divided by; None: each by its norm.
    """

    mean: torch.Tensor
    directions: torch.Tensor | None
    scale: torch.Tensor | None

    def apply(self, hidden: torch.Tensor) -> torch.Tensor:
        """(r, d') rows from (r, d)."""
        centred = hidden - self.mean
        if self.directions is not None:
            centred = centred @ self.directions
        return F.normalize(centred, dim=1) if self.scale is None else centred / self.scale


class Problem(NamedTuple):
    """A sample of the pool that holds all bought samples, on which the model of the labels is fitted.

    Attributes:
        rows: (r,) int64 sorted pool indices; all other indices of this record are positions among them.
        given: (r,) int64, given labels.
        probs: (r, K) ``Evidence.probs`` of the rows.
        spaces: with ``hidden`` (r, d') as projected.
        projections: of each space.
        fold: (r,) int64, 0 or 1; a row's class probabilities are of a head that was fitted to the other fold.
        known: (m,) int64, rows with a bought label.
        answers: (m,) int64.
    """

    rows: torch.Tensor
    given: torch.Tensor
    probs: torch.Tensor
    spaces: tuple[Space, ...]
    projections: tuple[Projection, ...]
    fold: torch.Tensor
    known: torch.Tensor
    answers: torch.Tensor

    @property
    def classes(self) -> int:
        """K."""
        return self.probs.shape[1]

    def splits(self) -> "Iterator[Split]":
        """Every fold of every space; the rows to predict in them are all members, each once."""
        is_known = torch.zeros(len(self.rows), dtype=torch.bool)
        is_known[self.known] = True
        for number, space in enumerate(self.spaces):
            is_member = torch.zeros(len(self.rows), dtype=torch.bool)
            is_member[space.members] = True
            for fold in (0, 1):
                inside = self.fold == fold
                yield Split(number, fold, (is_member & ~inside) | is_known, is_member & inside)

    def without(self, left_out: torch.Tensor) -> "Problem":
        """The same with the answers at ``left_out`` ((m,) bool) unknown."""
        return self._replace(known=self.known[~left_out], answers=self.answers[~left_out])


class Split(NamedTuple):
    """One fold of one space.

    Attributes:
        space: its number.
        fold: 0 or 1.
        train: (r,) bool, members of the other fold, and all bought rows.
        test: (r,) bool, members of this fold.
    """

    space: int
    fold: int
    train: torch.Tensor
    test: torch.Tensor


def fit_projection(hidden: torch.Tensor) -> Projection:
    """The mean of (r, d) representations, and their main directions where there are more than are kept."""
    mean = hidden.mean(0)
    if hidden.shape[1] < LEAST_DIMENSIONS:
        return Projection(mean, None, (hidden - mean).norm(dim=1).mean().clamp(min=1e-12))
    if hidden.shape[1] <= MOST_DIMENSIONS:
        return Projection(mean, None, None)
    centred = (hidden - mean).double()
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -MOST_DIMENSIONS:]
    return Projection(mean, directions.to(hidden.dtype), None)


def make_problem(
    evidence: Evidence,
    bought: torch.Tensor,
    answers: torch.Tensor,
    usable: torch.Tensor,
    most_rows: int,
    generator: torch.Generator,
    like: Problem | None = None,
) -> Problem:
    """At most ``most_rows`` random usable samples of the pool, and all bought ones.

    Args:
        evidence: of n samples.
        bought: (m,) int64 sorted pool indices.
        answers: (m,) int64.
        usable: (n',) int64 sorted pool indices, the bought ones among them.
        most_rows: at least 1.
        generator: of the sample and the folds.
        like: another problem of the evidence, whose projections are taken where it has the same rows.
    """
    n = len(evidence.given)
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[usable[torch.randperm(len(usable), generator=generator)[:most_rows]]] = True
    chosen[bought] = True
    rows = chosen.nonzero()[:, 0]
    position = torch.full((n,), -1, dtype=torch.int64)
    position[rows] = torch.arange(len(rows))
    if like is not None and torch.equal(rows, like.rows):
        spaces, projections = like.spaces, like.projections
    else:
        spaces, projections = _projected(evidence, rows, position)
    # Alternating over a random order, so that both folds have the same size.
    fold = torch.empty(len(rows), dtype=torch.int64)
    fold[torch.randperm(len(rows), generator=generator)] = torch.arange(len(rows)) % 2
    return Problem(
        rows,
        evidence.given[rows],
        evidence.probs[rows],
        spaces,
        projections,
        fold,
        position[bought],
        answers,
    )


def _projected(
    evidence: Evidence, rows: torch.Tensor, position: torch.Tensor
) -> tuple[tuple[Space, ...], tuple[Projection, ...]]:
    """The spaces of the rows, and how they were projected; ``position`` (n,) is -1 outside of the rows."""
    spaces, projections = [], []
    for space in evidence.spaces:
        members = position[space.members]
        members = members[members >= 0]
        hidden = space.hidden[rows]
        projections.append(fit_projection(hidden[members] if len(members) > 1 else hidden))
        spaces.append(Space(projections[-1].apply(hidden), members))
    return tuple(spaces), tuple(projections)
