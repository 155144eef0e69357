"""Bought labels that candidates for the model of the labels are fitted without, and how well these predict them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch.nn import functional as F

from metaselect.models.cross_fit import stratified_folds
from metaselect.reweighting.auto.candidates import Candidate
from metaselect.reweighting.auto.fold_heads import Fit, fit_together
from metaselect.reweighting.auto.problem import Problem
from metaselect.reweighting.auto.transition import given_likelihood, posterior

LEAST_LEFT_OUT = 4  # bought labels that must be left out for candidates to be compared
T_POWERS = (1.0, 0.75, 0.5, 0.25, 0.0)
POWER_PRIOR = 1.5  # log odds of power 1 to power 0; without a prior, 20 labels chose the power by chance
LEAST_PROB = 1e-3  # a probability below counts as this


def answer_folds(answers: torch.Tensor, folds: int, generator: torch.Generator) -> torch.Tensor:
    """(m,) int64 folds from 0, the classes spread over them; -1 for the only bought label of its class.

    Without a class's only label no model could know that class, so that it is never left out. Where fewer than
    ``LEAST_LEFT_OUT`` are left, all labels are, unless there are fewer than that.
    """
    m = len(answers)
    fold = stratified_folds(answers, folds, generator)
    alone = torch.bincount(answers, minlength=1)[answers] == 1 if m else torch.zeros(0, dtype=torch.bool)
    if m - int(alone.sum()) >= LEAST_LEFT_OUT:
        fold[alone] = -1
    elif m < LEAST_LEFT_OUT:
        fold[:] = -1
    return fold


class LeftOut(NamedTuple):
    """A candidate's predictions of bought samples whose labels were left out.

    Attributes:
        fold: (m,) int64, -1 where nothing was left out.
        probs: (m, K) P_i; rows of fold -1 are undefined.
        transitions: by fold, (K, K) T.
    """

    fold: torch.Tensor
    probs: torch.Tensor
    transitions: dict[int, torch.Tensor]

    def terms(self, power: float, given: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """Log R_i(y_i) of the m' samples that were left out; ``given`` and ``answers`` are (m,)."""
        values = torch.empty(len(self.fold))
        for number, transition in self.transitions.items():
            out = self.fold == number
            known = posterior(self.probs[out], to_power(transition, power), given[out])
            values[out] = known.gather(1, answers[out, None])[:, 0].clamp(min=LEAST_PROB).log()
        return values[self.fold >= 0]

    def joint_terms(self, given: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """Log P_i(y_i) T(y_i, g_i), of the bought and the given label, of the m' samples that were left out."""
        values = torch.empty(len(self.fold))
        for number, transition in self.transitions.items():
            out = self.fold == number
            of_answer = self.probs[out, answers[out]].clamp(min=LEAST_PROB)
            of_given = given_likelihood(transition, given[out]).gather(1, answers[out, None])[:, 0]
            values[out] = (of_answer * of_given.clamp(min=LEAST_PROB)).log()
        return values[self.fold >= 0]

    def best_power(self, given: torch.Tensor, answers: torch.Tensor) -> float:
        """The most probable power of T: with the largest sum of terms and the prior; the largest of equal ones."""
        return max(
            T_POWERS,
            key=lambda power: float(self.terms(power, given, answers).sum()) + POWER_PRIOR * power,
        )


def left_out_fits(
    problem: Problem, fits: Mapping[str, Callable[[Problem], Fit[Candidate]]], fold: torch.Tensor
) -> dict[str, LeftOut]:
    """Each candidate by its name, fitted once for each fold (``answer_folds``) without its answers."""
    found = {name: LeftOut(fold, torch.full((len(fold), problem.classes), torch.nan), {}) for name in fits}
    each = [(name, number) for name in fits for number in sorted(set(fold.tolist()) - {-1})]
    together = [fits[name](problem.without(fold == number)) for name, number in each]
    for (name, number), candidate in zip(each, fit_together(together), strict=True):
        out = fold == number
        found[name].probs[out] = candidate.probs[problem.known[out]]
        found[name].transitions[number] = candidate.transition
    return found


def to_power(transition: torch.Tensor, power: float) -> torch.Tensor:
    """(K, K) T with every entry to a power, rows normalised."""
    return F.normalize(transition**power, p=1, dim=1)
