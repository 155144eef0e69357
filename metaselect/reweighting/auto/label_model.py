"""The model of the pool's labels: several candidates, weighed by how well they predict bought labels left out.

Bought labels are left out in folds. Of each, R_i(y_i) is the posterior probability after its given label is seen,
with T to a power between 0 and 1: where wrong labels depend on the sample and not on its class alone, a given label
says less than T claims. The power of each candidate is the most probable one, with a prior for T itself. Candidates are
weighed by pseudo-Bayesian model averaging with the Bayesian bootstrap over the bought labels (Yao, Vehtari, Simpson,
Gelman 2018, section 3.4).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.nn import functional as F

from metaselect.models.cross_fit import is_above
from metaselect.reweighting.auto.candidates import CANDIDATES, OF_ANSWERS, PLAIN, Candidate, fit_plain
from metaselect.reweighting.auto.fold_heads import fit_alone, fit_together
from metaselect.reweighting.auto.left_out import answer_folds, left_out_fits, to_power
from metaselect.reweighting.auto.problem import Problem, make_problem
from metaselect.reweighting.auto.transition import posterior
from metaselect.reweighting.evidence import Evidence

MANY_CLASSES = 30  # from which on fits take long
LEAST_BOUGHT = 10  # bought labels that a correction takes; five made it correct what was right
BOOTSTRAP_DRAWS = 1000
LEAST_WEIGHT = 0.05  # candidates below it are left out


class FitSize(NamedTuple):
    """How much a fit costs.

    Attributes:
        rows: samples that the candidates are fitted on.
        cross_rows: samples that they are fitted on in each fold.
        folds: of the bought labels.
        folds_of_many: the same, of more than ``MANY_CLASSES`` classes.
    """

    rows: int = 10_000
    cross_rows: int = 3_000
    folds: int = 8
    folds_of_many: int = 3


FULL_SIZE = FitSize()


class LabelModel(NamedTuple):
    """Class probabilities of every sample of the pool, and the transition matrix, both means over candidates.

    Attributes:
        probs: (n, K) P; of bought samples by models that did not know their bought label, where there is another one
            of their class.
        posterior: (n, K) R, after the given label is seen and before any bought one of that sample is.
        transition: (K, K) T, the mean of the candidates' after their powers.
        weights: of each candidate; they sum to 1.
        log_likelihood: of each candidate, the mean of log R_i(y_i) over bought labels that were left out; empty where
            there are none.
        estimated: (K, K) the mean of the candidates' T before the powers.
        corrects: there are enough bought labels, one of them differs from the given one, and some candidate predicts
            bought and given labels better than plain by more than a standard error.
        problem: the samples that the candidates were fitted on.
        candidates: those with a weight.
        powers: of each of these, the power of T.
    """

    probs: torch.Tensor
    posterior: torch.Tensor
    transition: torch.Tensor
    weights: dict[str, float]
    log_likelihood: dict[str, float]
    estimated: torch.Tensor
    corrects: bool
    problem: Problem
    candidates: dict[str, Candidate]
    powers: dict[str, float]

    @property
    def wrong_share(self) -> float:
        """The share of given labels that are wrong: 1 less the mean of P_k T_kk over the pool's classes."""
        return 1 - float((self.probs.mean(0) * self.estimated.diag()).sum())

    @property
    def chosen(self) -> str:
        """The candidate with the largest weight, the plainest of equal ones."""
        return max(self.weights, key=lambda name: self.weights[name])


class Part(NamedTuple):
    """What one candidate, or a mean of them, says; fields as those of ``LabelModel``."""

    probs: torch.Tensor
    posterior: torch.Tensor
    transition: torch.Tensor
    estimated: torch.Tensor


def fit_label_model(
    evidence: Evidence,
    bought: torch.Tensor,
    answers: torch.Tensor,
    usable: torch.Tensor,
    generator: torch.Generator,
    size: FitSize = FULL_SIZE,
) -> LabelModel:
    """The model of the labels.

    Args:
        evidence: of n samples.
        bought: (m,) int64 sorted pool indices; m may be 0.
        answers: (m,) int64, the bought labels.
        usable: (n',) int64 sorted pool indices; the given labels of all others are not used.
        generator: of the samples, the folds and the bootstrap.
        size: of the fits.
    """
    problem = make_problem(evidence, bought, answers, usable, size.rows, generator)
    folds = size.folds if problem.classes <= MANY_CLASSES else size.folds_of_many
    fold = answer_folds(answers, folds, generator)
    if not (fold >= 0).any():
        plain = fit_alone(fit_plain(problem))
        probs = OutsideRows(problem, evidence).whole_pool(plain)
        known = posterior(probs, plain.transition, evidence.given)
        fitted = (problem, {PLAIN: plain}, {PLAIN: 1.0})
        return LabelModel(probs, known, plain.transition, {PLAIN: 1.0}, {}, plain.transition, False, *fitted)
    crossed = make_problem(evidence, bought, answers, usable, size.cross_rows, generator, like=problem)
    left_out = left_out_fits(crossed, CANDIDATES, fold)
    powers = {name: fits.best_power(evidence.given[bought], answers) for name, fits in left_out.items()}
    terms = {
        name: fits.terms(powers[name], evidence.given[bought], answers) for name, fits in left_out.items()
    }
    weights = dict(zip(terms, averaging_weights(torch.stack([*terms.values()]), generator), strict=True))
    outside = OutsideRows(problem, evidence)
    weighty = [name for name, weight in weights.items() if weight]
    fits = fit_together([CANDIDATES[name](problem) for name in weighty])
    candidates = dict(zip(weighty, fits, strict=True))
    parts: dict[str, Part] = {}
    for name, candidate in candidates.items():
        of_pool = outside.whole_pool(candidate)
        of_pool[bought[fold >= 0]] = left_out[name].probs[fold >= 0]
        parts[name] = part_of(candidate, of_pool, powers[name], evidence.given)
    probs, known, transition, estimated = mixed(
        parts, weights, torch.bincount(answers, minlength=problem.classes) > 0
    )
    likelihood = {name: float(values.mean()) for name, values in terms.items()}
    joint = {name: fits.joint_terms(evidence.given[bought], answers) for name, fits in left_out.items()}
    wrong = (evidence.given[bought] != answers) & (evidence.given[bought] >= 0)
    case = len(bought) >= LEAST_BOUGHT and bool(wrong.any())
    corrects = case and any(is_above(terms, joint[PLAIN]) for name, terms in joint.items() if name != PLAIN)
    fitted = (problem, candidates, powers)
    return LabelModel(probs, known, transition, weights, likelihood, estimated, corrects, *fitted)


def part_of(candidate: Candidate, probs: torch.Tensor, power: float, given: torch.Tensor) -> Part:
    """What a candidate says of the pool.

    Args:
        candidate: with its T.
        probs: (n, K) P of the pool.
        power: of T.
        given: (n,) int64.
    """
    powered = to_power(candidate.transition, power)
    return Part(probs, posterior(probs, powered, given), powered, candidate.transition)


def mixed(parts: Mapping[str, Part], weights: Mapping[str, float], has_answer: torch.Tensor) -> Part:
    """The weighted mean of candidates.

    Candidates that know a class from its bought labels alone say nothing of a class without one: there the others
    decide, for the columns of P and R and the row of T.

    Args:
        parts: by name of the candidate.
        weights: by the same names.
        has_answer: (K,) bool, classes with a bought label.
    """
    mean = _weighted_mean(parts, weights)
    others = {name: part for name, part in parts.items() if name not in OF_ANSWERS}
    if has_answer.all() or not others:
        return mean
    rest = _weighted_mean(others, weights)
    probs, known = (
        torch.where(has_answer, F.normalize(of_all * has_answer, p=1, dim=1), 0.0)
        * (1 - (of_rest * ~has_answer).sum(1, keepdim=True))
        + of_rest * ~has_answer
        for of_all, of_rest in ((mean.probs, rest.probs), (mean.posterior, rest.posterior))
    )
    transition, estimated = (
        torch.where(has_answer[:, None], of_all, of_rest)
        for of_all, of_rest in ((mean.transition, rest.transition), (mean.estimated, rest.estimated))
    )
    return Part(probs, known, transition, estimated)


def _weighted_mean(parts: Mapping[str, Part], weights: Mapping[str, float]) -> Part:
    total = sum(weights[name] for name in parts)
    fields = zip(*parts.values(), strict=True)
    shares = [weights[name] / total for name in parts]
    return Part(*(sum(share * value for share, value in zip(shares, field, strict=True)) for field in fields))


def averaging_weights(terms: torch.Tensor, generator: torch.Generator) -> list[float]:
    """Weights of candidates: the softmax of the sums of their terms, averaged over draws of the Bayesian bootstrap.

    Args:
        terms: (candidates, m') log likelihoods of the same samples.
        generator: of the draws.
    """
    count = terms.shape[1]
    # Exponential draws, normalised: uniform over the simplex, Dirichlet(1, ..., 1).
    draws = (
        -torch.rand(BOOTSTRAP_DRAWS, count, generator=generator, dtype=torch.float64).clamp(min=1e-12).log()
    )
    sums = count * (draws / draws.sum(1, keepdim=True)) @ terms.double().T  # (draws, candidates)
    shares = sums.softmax(1).mean(0)
    shares = torch.where(shares < LEAST_WEIGHT, 0.0, shares)
    return (shares / shares.sum()).tolist()


class OutsideRows:
    """The samples of the pool that a problem was not made of, projected once for all candidates.

    Args:
        problem: r rows.
        evidence: of n samples.
    """

    def __init__(self, problem: Problem, evidence: Evidence) -> None:
        self.rows, self.size = problem.rows, len(evidence.given)
        self.spaces: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        for number, space in enumerate(evidence.spaces):
            outside = space.members[~torch.isin(space.members, problem.rows)]
            if len(outside):
                hidden = problem.projections[number].apply(space.hidden[outside])
                self.spaces.append((number, outside, hidden))

    def whole_pool(self, candidate: Candidate) -> torch.Tensor:
        """(n, K) P of the pool, from that of the problem's rows."""
        probs = candidate.probs.new_empty(self.size, candidate.probs.shape[1])
        probs[self.rows] = candidate.probs
        for number, outside, hidden in self.spaces:
            probs[outside] = candidate.extend(number, hidden)
        return probs
