"""Hypotheses on how given labels go wrong: class probabilities and a transition matrix, each with its probability.

Features and given labels alone tell which samples belong together, and which labels their group has. They do not tell
which of a group's labels is the right one. So there are up to two hypotheses of the same likelihood:

* "as given": in every group the most frequent label is right;
* "swapped": in some groups another label is right, which is at least ``PLAUSIBLE`` times as frequent. There is this
  hypothesis only where such labels make a permutation of the classes, as a group has one class and a class one group.

Before any label is bought, their odds are as the frequencies of the labels that would be right. Bought labels change
them by Bayes' rule, and soon decide. From ``LEAST_BOUGHT`` of them there is a third, "bought", the model of the labels
of ``reweight --method auto``. It may give the groups any classes, so that its prior is 1 / K!, and stands alone where
given and bought labels are more probable under it.

P and T are fitted by expectation-maximisation (``reweighting.auto.heads``), from several starts: the out-of-fold
probabilities, and the most frequent given label in each cluster of the representations, for several clusterings. Those
find groups in which no label has a large majority.

Source: several starts of expectation-maximisation, of which the most likely is kept: McLachlan, Peel 2000, section
2.12; the assignment of classes is that of Kuhn 1955, by scipy.
"""

from math import exp, lgamma, log
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from metaselect.reweighting.auto.fold_heads import fit_alone, fit_together
from metaselect.reweighting.auto.heads import HeadModel, fit_heads
from metaselect.reweighting.auto.label_model import LEAST_BOUGHT, FitSize, fit_label_model
from metaselect.reweighting.auto.left_out import LEAST_PROB
from metaselect.reweighting.auto.problem import Problem, make_problem
from metaselect.reweighting.auto.transition import given_counts, given_likelihood, posterior
from metaselect.reweighting.evidence import Evidence
from metaselect.selection.clustering.euclidean import kmeans_clusters

AS_GIVEN, SWAPPED, BOUGHT = "as given", "swapped", "bought"
PLAUSIBLE = 1 / 3  # of the most frequent label's count, from which on another one may be right
CLUSTERS_PER_CLASS = (2, 5, 10)
CLUSTER_ROWS = 10  # of a cluster on average, at least
STARTS = 2  # clusterings of each size; with one, groups were mixed up now and then
CLUSTER_TRUST = 0.9  # probability of the most frequent label of a cluster, at the start
LEAST_WEIGHT = 0.02  # hypotheses of a smaller probability are left out


class Hypothesis(NamedTuple):
    """A hypothesis.

    Attributes:
        name: "as given", "swapped" or "bought".
        weight: its probability; those of all hypotheses sum to 1.
        probs: (r, K) P, class probabilities that do not depend on the sample's given label.
        transition: (K, K) T.
    """

    name: str
    weight: float
    probs: torch.Tensor
    transition: torch.Tensor

    def classes(self, given: torch.Tensor) -> torch.Tensor:
        """(r, K) R, class probabilities after the given labels ((r,) int64) are seen."""
        return posterior(self.probs, self.transition, given)


def hypotheses(
    evidence: Evidence,
    bought: torch.Tensor,
    answers: torch.Tensor,
    size: FitSize,
    generator: torch.Generator,
) -> list[Hypothesis]:
    """The hypotheses, the most probable first.

    Args:
        evidence: of r samples.
        bought: (m,) int64 sorted positions among them.
        answers: (m,) int64, the bought labels.
        size: of the model of the labels.
        generator: of the folds and the clusters.
    """
    everything = torch.arange(len(evidence.given))
    problem = make_problem(evidence, bought, answers, everything, len(everything), generator)
    blind = problem.without(torch.ones(len(bought), dtype=torch.bool))
    starts = [blind.probs, *cluster_starts(blind, generator)]
    fits = fit_together([fit_heads(blind, start) for start in starts])
    base = max(fits, key=lambda fit: _log_likelihood(fit, blind))
    readings = _readings(base)
    scores = [
        log(reading.weight) + _answers_log_likelihood(reading.probs, reading.transition, problem)
        for reading in readings
    ]
    total = float(torch.tensor(scores, dtype=torch.float64).logsumexp(0))
    if len(bought) >= LEAST_BOUGHT:
        model = fit_label_model(evidence, bought, answers, everything, generator, size)
        learnt = fit_alone(fit_heads(problem, model.posterior))
        by_bought = _log_likelihood(learnt, problem) - lgamma(problem.classes + 1)
        by_bought += _answers_log_likelihood(learnt.probs, learnt.transition, problem)
        if by_bought > _log_likelihood(base, blind) + total:
            return [Hypothesis(BOUGHT, 1.0, learnt.probs, learnt.transition)]
    weights = [exp(score - total) for score in scores]
    weights = [weight if weight >= LEAST_WEIGHT else 0.0 for weight in weights]
    found = []
    for reading, weight in zip(readings, weights, strict=True):
        if weight:
            fit = fit_alone(fit_heads(problem, reading.probs)) if len(bought) else reading
            found.append(Hypothesis(reading.name, weight / sum(weights), fit.probs, fit.transition))
    return sorted(found, key=lambda each: -each.weight)


def _readings(base: HeadModel) -> list[Hypothesis]:
    """The hypotheses before any label is bought, all of the same likelihood."""
    order, odds = swapped_classes(base.transition)
    as_given = Hypothesis(AS_GIVEN, 1 / (1 + odds), base.probs, base.transition)
    if not odds:
        return [as_given]
    probs, transition = torch.empty_like(base.probs), torch.empty_like(base.transition)
    probs[:, order], transition[order] = base.probs, base.transition
    return [as_given, Hypothesis(SWAPPED, odds / (1 + odds), probs, transition)]


def cluster_starts(problem: Problem, generator: torch.Generator) -> list[torch.Tensor]:
    """(r, K) probabilities by the most frequent given label of each row's cluster in its space, for each clustering."""
    least = min(len(space.members) for space in problem.spaces)
    counts = {max(min(each * problem.classes, least // CLUSTER_ROWS), 1) for each in CLUSTERS_PER_CLASS}
    return [_cluster_start(problem, count, generator) for count in sorted(counts) for _ in range(STARTS)]


def _cluster_start(problem: Problem, count: int, generator: torch.Generator) -> torch.Tensor:
    probs = torch.full_like(problem.probs, 1 / problem.classes)
    labels = given_counts(problem.given, problem.classes)
    for space in problem.spaces:
        unit = F.normalize(space.hidden[space.members])
        if len(unit) < count:
            continue
        cluster = kmeans_clusters(unit, count, 1, generator, full_batch=True)
        of_cluster = torch.zeros(count, problem.classes).index_add_(0, cluster, labels[space.members])
        frequent = F.one_hot(of_cluster.argmax(1), problem.classes).float()[cluster]
        probs[space.members] = CLUSTER_TRUST * frequent + (1 - CLUSTER_TRUST) / problem.classes
    return probs


def swapped_classes(transition: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The permutation of the classes under which groups have their most frequent other labels, and its odds.

    Args:
        transition: (K, K) T, in which the diagonal is the most frequent label.

    Returns:
        (K,) int64, the class of each row of T, and the odds against the order as it is: the geometric mean over the
        classes that differ of T at the new class to T at the old one; 0 where no class differs.
    """
    shares = transition.double().clamp(min=1e-12)
    own = shares.diag()
    costs = -shares.log()
    costs.fill_diagonal_(0)
    costs -= torch.diag((PLAUSIBLE * own).log())
    rows, columns = linear_sum_assignment(costs.numpy())
    order = torch.from_numpy(columns)
    moved = order != torch.from_numpy(rows)
    if not moved.any():
        return order, 0.0
    ratio = shares[moved.nonzero()[:, 0], order[moved]].log() - own[moved].log()
    return order, min(float(ratio.mean().exp()), 1.0)


def _log_likelihood(fit: HeadModel, problem: Problem) -> float:
    """Of the given labels of all rows."""
    likelihood = (fit.probs * given_likelihood(fit.transition, problem.given)).sum(1)
    return float(likelihood.clamp(min=1e-9).log().sum())


def _answers_log_likelihood(probs: torch.Tensor, transition: torch.Tensor, problem: Problem) -> float:
    """Of the bought labels, after the given ones are seen; 0 where there are none."""
    known = posterior(probs, transition, problem.given)[problem.known]
    return float(known.gather(1, problem.answers[:, None]).clamp(min=LEAST_PROB).log().sum())
