"""Linear heads on the representations, each fitted to one half of the rows; those of several fits are solved together.

A fit is a generator. It yields targets that it wants heads for, is sent the heads, and returns its result. Fits of the
same rows, which differ in their bought labels or their noise model, go side by side: their heads are then solved in the
same passes over the rows (``fit_logistic_regressions``), which takes a fraction of the time.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import torch

from metaselect.models.logistic_regression import LinearParams, fit_logistic_regressions
from metaselect.reweighting.auto.problem import Problem

WEIGHT_DECAY = 3e-4  # of heads on rows of norm 1
TOLERANCE = 1e-4  # of the heads' gradients
REFIT_TOLERANCE = 1e-6  # of refitted ones; one label of a large pool moves a gradient by less than the other

Heads: TypeAlias = dict[tuple[int, int], LinearParams]
"""By number of the space and fold."""


class Wanted(NamedTuple):
    """What heads are to be fitted to.

    Attributes:
        problem: r rows.
        targets: (r, K) soft labels times the weights of the rows; rows of 0 are not fitted.
        starts: heads to begin with; may be empty.
    """

    problem: Problem
    targets: torch.Tensor
    starts: Heads


class Fitted(NamedTuple):
    """A head for each space and fold.

    Attributes:
        heads: the heads.
        log_probs: (r, K) log probabilities of each row by the head of the other fold.
    """

    heads: Heads
    log_probs: torch.Tensor


Result = TypeVar("Result")
Fit: TypeAlias = Generator[Wanted, Fitted, Result]


def fit_alone(fit: Fit[Result], tolerance: float = TOLERANCE) -> Result:
    """The result of one fit."""
    return fit_together([fit], tolerance)[0]


def fit_together(fits: Sequence[Fit[Result]], tolerance: float = TOLERANCE) -> list[Result]:
    """The results of several fits whose problems have the same rows, spaces and folds.

    Each is what it would be alone, within the tolerance.

    Args:
        fits: that were not begun.
        tolerance: of the heads' gradients.
    """
    results: dict[int, Result] = {}
    replies: dict[int, Fitted | None] = dict.fromkeys(range(len(fits)))
    while replies:
        wanted: dict[int, Wanted] = {}
        for number, reply in replies.items():
            fit = fits[number]
            try:
                wanted[number] = next(fit) if reply is None else fit.send(reply)
            except StopIteration as end:
                results[number] = end.value
        replies = dict(zip(wanted, fit_folds([*wanted.values()], tolerance), strict=True))
    return [results[number] for number in range(len(fits))]


def fit_folds(wanted: Sequence[Wanted], tolerance: float = TOLERANCE) -> list[Fitted]:
    """The heads of each, whose problems have the same rows, spaces and folds; gradients are within a tolerance."""
    found = [Fitted({}, torch.empty_like(each.targets)) for each in wanted]
    for splits in zip(*(each.problem.splits() for each in wanted), strict=True):
        number, fold, _, test = splits[0]
        hidden = wanted[0].problem.spaces[number].hidden
        tasks = (
            (each.targets * split.train[:, None], each.starts.get((number, fold)))
            for each, split in zip(wanted, splits, strict=True)
        )
        heads = fit_logistic_regressions(hidden, tasks, WEIGHT_DECAY, tolerance=tolerance)
        others = hidden[test]
        for fitted, head in zip(found, heads, strict=True):
            fitted.heads[number, fold] = head
            fitted.log_probs[test] = head.log_probs(others)
    return found
