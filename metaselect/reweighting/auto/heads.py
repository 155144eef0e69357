"""Linear heads and a transition matrix, fitted together by expectation-maximisation.

P(true class | sample) is the softmax of a linear head on the representations, T says how given labels come from true
classes. Expectation: R_ik ~ P_ik T_k,g_i, bought labels in place. Maximisation: heads fitted to R, each predicting the
half of the rows that it was not fitted to; one temperature for all, by the likelihood of the given labels; T.

Source: Dempster, Laird, Rubin 1977, for the noise model of ``transition``; the heads are those of ``linear``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from metaselect.models.logistic_regression import fit_logistic_regression
from metaselect.reweighting.auto.fold_heads import Fit, Heads, Wanted
from metaselect.reweighting.auto.problem import Problem
from metaselect.reweighting.auto.transition import (
    counted_transition,
    estimate_transition,
    given_likelihood,
    posterior,
    with_answers,
)

FEW_WEIGHT_DECAY = 1e-3  # of a head that is fitted to the bought labels alone
ANSWER_WEIGHT = 5.0  # of a bought sample among those whose class is estimated
ROUNDS = 8  # of expectation-maximisation
REFIT_ROUNDS = 2  # of a model that is settled, on other bought labels
SETTLED = 1e-3  # mean change of a probability in a round; below it the rounds end
TEMPERATURES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # factors of the logits


class HeadModel(NamedTuple):
    """Heads with their transition matrix.

    Attributes:
        probs: (r, K) P of every row, by heads that were not fitted to it (bought rows excepted).
        transition: (K, K).
        heads: by number of the space and fold.
        temperature: factor of their logits.
    """

    probs: torch.Tensor
    transition: torch.Tensor
    heads: Heads
    temperature: float


def probs_of_answers(problem: Problem) -> torch.Tensor:
    """(r, K) class probabilities by heads that are fitted to the bought labels alone."""
    probs = torch.empty_like(problem.probs)
    labels = F.one_hot(problem.answers, problem.classes).to(probs.dtype)
    for space in problem.spaces:
        head = fit_logistic_regression(space.hidden[problem.known], labels, FEW_WEIGHT_DECAY)
        probs[space.members] = head.log_probs(space.hidden[space.members]).exp()
    return probs


def fit_heads(problem: Problem, start: torch.Tensor, fixed: torch.Tensor | None = None) -> Fit[HeadModel]:
    """Heads and T by expectation-maximisation.

    Args:
        problem: r rows.
        start: (r, K), P before the first round.
        fixed: (K, K), a T that is not estimated.
    """
    transition = (
        counted_transition(start, problem.given, problem.known, problem.answers) if fixed is None else fixed
    )
    model = HeadModel(start, transition, {}, 1.0)
    for _ in range(ROUNDS):
        before = model.probs
        model = yield from _next_round(problem, model, fixed, TEMPERATURES)
        if float((model.probs - before).abs().mean()) < SETTLED:
            break
    return _with_last_transition(problem, model, fixed)


def refit_heads(problem: Problem, model: HeadModel, fixed: torch.Tensor | None = None) -> Fit[HeadModel]:
    """A fitted model after ``REFIT_ROUNDS`` rounds more, at its temperature.

    Args:
        problem: the rows that it was fitted to, with other bought labels.
        model: to go on from.
        fixed: as in ``fit_heads``.
    """
    model = model if fixed is None else model._replace(transition=fixed)
    for _ in range(REFIT_ROUNDS):
        model = yield from _next_round(problem, model, fixed, (model.temperature,))
    return _with_last_transition(problem, model, fixed)


def _next_round(
    problem: Problem,
    model: HeadModel,
    fixed: torch.Tensor | None,
    temperatures: Sequence[float],
) -> Fit[HeadModel]:
    """The model after one round of expectation-maximisation."""
    given, known, answers = problem.given, problem.known, problem.answers
    probs, transition = model.probs, model.transition
    if fixed is None:
        transition = estimate_transition(probs, given, known, answers, transition)
    targets = with_answers(posterior(probs, transition, given), known, answers)
    heads, log_probs = yield Wanted(problem, weighted(problem, targets), model.heads)
    temperature, probs = _calibrated(log_probs, transition, given, temperatures)
    return HeadModel(probs, transition, heads, temperature)


def _with_last_transition(problem: Problem, model: HeadModel, fixed: torch.Tensor | None) -> HeadModel:
    """The model with the T that follows from its P."""
    if fixed is not None:
        return model
    given, known, answers = problem.given, problem.known, problem.answers
    return model._replace(
        transition=estimate_transition(model.probs, given, known, answers, model.transition)
    )


def weighted(problem: Problem, targets: torch.Tensor) -> torch.Tensor:
    """(r, K) targets with the rows of bought samples times ``ANSWER_WEIGHT``."""
    factors = torch.ones(len(targets), 1)
    factors[problem.known] = ANSWER_WEIGHT
    return targets * factors


def _calibrated(
    log_probs: torch.Tensor, transition: torch.Tensor, given: torch.Tensor, temperatures: Sequence[float]
) -> tuple[float, torch.Tensor]:
    """The temperature under which the given labels are most likely, and (r, K) probabilities with it."""
    # (K, r): a softmax over the first dimension takes a fraction of the time.
    log_probs, of_given = log_probs.T.contiguous(), given_likelihood(transition, given).T.contiguous()
    best, chosen = -torch.inf, (1.0, log_probs.exp())
    for factor in temperatures:
        probs = (factor * log_probs).softmax(0)
        likelihood = (probs * of_given).sum(0).clamp(min=1e-9).log().mean()
        if float(likelihood) > best:
            best, chosen = float(likelihood), (factor, probs)
    factor, probs = chosen
    return factor, probs.T.contiguous()
