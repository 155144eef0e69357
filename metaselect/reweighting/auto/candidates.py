"""Candidates for the model of the labels, each a function from a problem to a fit of P and T.

P are class probabilities of every sample that do not depend on its given label, T is the transition matrix:

* plain: heads fitted to the given labels as they are, T near the identity: nothing is corrected;
* symmetric: T has the rate of wrong labels among the bought ones, spread evenly;
* given: T estimated, starting from the warm-up's predictions; for pools where most labels of each class are right;
* bought: T estimated, starting from heads on the bought labels alone; for pools where most labels are wrong;
* spread: P by label spreading from the bought labels and the given labels that agree with them; for features in which
  neighbours have the same class.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from metaselect.reweighting.auto.fold_heads import Fit, Heads, Wanted
from metaselect.reweighting.auto.heads import (
    ANSWER_WEIGHT,
    HeadModel,
    fit_heads,
    probs_of_answers,
    refit_heads,
)
from metaselect.reweighting.auto.problem import Problem
from metaselect.reweighting.auto.spreading import BLOCK, NEIGHBOURS, Graph, as_shares, nearest, spread_answers
from metaselect.reweighting.auto.transition import (
    RATES,
    counted_transition,
    estimate_transition,
    given_counts,
    symmetric_transition,
    wrong_rate,
)

PLAIN = "plain"
AGREEMENT_ROUNDS = 2
T_STEPS = 20  # of expectation-maximisation of T with P fixed
POWERS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # of spread scores, which are too even


class Candidate(NamedTuple):
    """A fitted candidate.

    Attributes:
        probs: (r, K) P of the problem's rows.
        transition: (K, K) T.
        extend: (number of a space, (n', d') projected representations in it) -> (n', K) P of samples outside.
        refit: (the same rows with other bought labels) -> a fit of the candidate, going on from this one.
    """

    probs: torch.Tensor
    transition: torch.Tensor
    extend: Callable[[int, torch.Tensor], torch.Tensor]
    refit: "Callable[[Problem], Fit[Candidate]]"


def fit_plain(problem: Problem) -> Fit[Candidate]:
    """Heads on the given labels."""
    return _of_heads((yield from fit_heads(problem, problem.probs, _least_noise(problem))), _least_noise)


def fit_symmetric(problem: Problem) -> Fit[Candidate]:
    """Heads with symmetric noise of the rate among bought labels."""
    return _of_heads((yield from fit_heads(problem, problem.probs, _even_noise(problem))), _even_noise)


def fit_given(problem: Problem) -> Fit[Candidate]:
    """Heads and T, starting from the predictions of the given labels."""
    return _of_heads((yield from fit_heads(problem, problem.probs)))


def fit_bought(problem: Problem) -> Fit[Candidate]:
    """Heads and T, starting from heads on the bought labels alone."""
    return _of_heads((yield from fit_heads(problem, probs_of_answers(problem))))


def fit_spread(problem: Problem) -> Fit[Candidate]:
    """Label spreading from bought labels; then spreading and heads from those and the given labels that agree.

    The first scores are raised to the power under which bought labels predict each other best. Each round keeps the
    given labels that are a sample's most probable class. They and the bought ones are spread again, from each fold to
    the other, and the shares are multiplied with the probabilities of heads fitted to the same labels.
    """
    spaces = [SpreadSpace(space.hidden) for space in problem.spaces]
    probs, power = _spread_bought(problem, spaces)
    return (yield from _agreed(problem, spaces, probs, power, {}))


class SpreadSpace:
    """The graph of a space, and the nearest rows of the samples outside of it, which are looked for once."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.graph = rows, Graph(rows)
        self.outside: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def nearest(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n', neighbours) weights, and indices of rows; ``hidden`` is (n', d')."""
        if self.outside is None or not torch.equal(self.outside[0], hidden):
            similarity, index = nearest(hidden, self.rows, min(NEIGHBOURS, len(self.rows)), same=False)
            self.outside = (hidden, F.normalize(self.graph.edge(similarity) + 1e-6, p=1, dim=1), index)
        return self.outside[1:]


def _agreed(
    problem: Problem,
    spaces: Sequence[SpreadSpace],
    probs: torch.Tensor,
    power: float,
    heads: Heads,
) -> Fit[Candidate]:
    """The candidate that follows from (r, K) ``probs`` by bought labels alone, which are scores to a power.

    Heads begin with ``heads``.
    """
    graphs = [space.graph for space in spaces]
    for _ in range(AGREEMENT_ROUNDS):
        kept = probs.argmax(1) == problem.given
        labels = given_counts(problem.given, problem.classes) * kept[:, None]
        labels[problem.known] = ANSWER_WEIGHT * F.one_hot(problem.answers, problem.classes).float()
        spread = _spread_across(problem, graphs, labels)
        heads, log_probs = yield Wanted(problem, labels, heads)
        probs = (spread.log() + log_probs).softmax(1)
    start = counted_transition(probs, problem.given, problem.known, problem.answers)
    transition = estimate_transition(
        probs, problem.given, problem.known, problem.answers, start, steps=T_STEPS
    )

    def extend(number: int, hidden: torch.Tensor) -> torch.Tensor:
        weight, index = spaces[number].nearest(hidden)
        parts = zip(weight.split(BLOCK), index.split(BLOCK), strict=True)  # of rows x neighbours x K numbers
        return torch.cat([(shares[:, :, None] * probs[near]).sum(1) for shares, near in parts])

    def refit(other: Problem) -> Fit[Candidate]:
        counts = torch.zeros_like(probs)
        counts[other.known] = F.one_hot(other.answers, other.classes).float()
        scores = torch.empty_like(probs)
        for space, graph in zip(other.spaces, graphs, strict=True):
            # Spreading is linear: of all bought labels together as of one after the other.
            scores[space.members] = as_shares(graph.spread(counts))[space.members]
        return (yield from _agreed(other, spaces, (power * scores.log()).softmax(1), power, heads))

    return Candidate(probs, transition, extend, refit)


def _spread_bought(problem: Problem, spaces: Sequence[SpreadSpace]) -> tuple[torch.Tensor, float]:
    """(r, K) class probabilities from bought labels alone, and the power of the scores."""
    scores = torch.empty_like(problem.probs)
    alone = torch.empty(len(problem.known), problem.classes)
    for space, spread in zip(problem.spaces, spaces, strict=True):
        all_rows, left_out = spread_answers(spread.graph, problem.known, problem.answers, problem.classes)
        scores[space.members] = all_rows[space.members]
        of_space = torch.isin(problem.known, space.members)
        alone[of_space] = left_out[of_space]
    power = max(POWERS, key=lambda power: _log_prob(alone, power, problem.answers))
    return (power * scores.log()).softmax(1), power


def _spread_across(problem: Problem, graphs: Sequence[Graph], labels: torch.Tensor) -> torch.Tensor:
    """(r, K) shares of ``labels`` (r, K) spread from the other fold, and from bought rows, to each row."""
    shares = torch.empty_like(problem.probs)
    for number, _, sources, test in problem.splits():
        shares[test] = as_shares(graphs[number].spread(labels * sources[:, None]))[test]
    return shares


CANDIDATES: dict[str, Callable[[Problem], Fit[Candidate]]] = {
    PLAIN: fit_plain,
    "symmetric": fit_symmetric,
    "given": fit_given,
    "bought": fit_bought,
    "spread": fit_spread,
}
"""Name -> the function that makes its fit, the plainest first."""
OF_ANSWERS = ("bought", "spread")
"""Candidates that know a class by its bought labels alone."""


def _of_heads(model: HeadModel, noise: Callable[[Problem], torch.Tensor] | None = None) -> Candidate:
    """The candidate of heads; ``noise`` gives a T that is not estimated."""

    def extend(number: int, hidden: torch.Tensor) -> torch.Tensor:
        logs = [model.heads[number, fold].log_probs(hidden) for fold in (0, 1)]
        return (model.temperature * (logs[0] + logs[1]) / 2).softmax(1)

    def refit(problem: Problem) -> Fit[Candidate]:
        return _of_heads((yield from refit_heads(problem, model, noise and noise(problem))), noise)

    return Candidate(model.probs, model.transition, extend, refit)


def _least_noise(problem: Problem) -> torch.Tensor:
    """(K, K) T of labels of which nearly none is wrong."""
    return symmetric_transition(RATES[0], problem.classes)


def _even_noise(problem: Problem) -> torch.Tensor:
    """(K, K) T with the rate of wrong labels among the bought ones."""
    return symmetric_transition(wrong_rate(problem.given[problem.known], problem.answers), problem.classes)


def _log_prob(scores: torch.Tensor, power: float, answers: torch.Tensor) -> float:
    log_probs = (power * scores.log()).log_softmax(1)
    return float(log_probs.gather(1, answers[:, None]).clamp(min=-7).sum())
