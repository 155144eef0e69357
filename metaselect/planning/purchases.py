"""Simulated purchases: what a re-weighting would make of labels that were not bought yet.

The true classes are drawn from a hypothesis, the next labels of a selector's ranking are revealed, and the model of the
labels of ``reweight --method auto`` is fitted to them. Its corrected labels, and the predictions of heads that are
fitted to these, are compared with the drawn classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from metaselect.planning.hypotheses import Hypothesis
from metaselect.reweighting.auto.fold_heads import Wanted, fit_folds
from metaselect.reweighting.auto.heads import weighted
from metaselect.reweighting.auto.label_model import LEAST_BOUGHT, FitSize, fit_label_model
from metaselect.reweighting.auto.problem import make_problem
from metaselect.reweighting.auto.transition import with_answers
from metaselect.reweighting.evidence import Evidence


class Known(NamedTuple):
    """What is bought already, and in which order the next labels would be.

    Attributes:
        bought: (m,) int64 sorted positions.
        answers: (m,) int64.
        order: (b,) int64, positions of the next labels, b the largest budget.
    """

    bought: torch.Tensor
    answers: torch.Tensor
    order: torch.Tensor


class Scores(NamedTuple):
    """Shares among samples whose label no budget buys, one for each number of further labels.

    Attributes:
        accuracy: of predictions for samples whose label the model was not trained on.
        right: labels that are right.
        corrects: whether given labels are corrected.
    """

    accuracy: list[float]
    right: list[float]
    corrects: list[bool]


class Learnt(NamedTuple):
    """What a re-weighting makes of bought labels.

    Attributes:
        predicted: (r,) int64, classes by heads that were not fitted to the sample.
        labels: (r,) int64, the labels that come out.
        corrects: whether given labels are corrected; else they are as given.
    """

    predicted: torch.Tensor
    labels: torch.Tensor
    corrects: bool


def simulate(
    evidence: Evidence,
    hypothesis: Hypothesis,
    known: Known,
    counts: Sequence[int],
    size: FitSize,
    generator: torch.Generator,
) -> Scores:
    """The scores of one draw of the true classes.

    Args:
        evidence: of r samples.
        hypothesis: that the classes are drawn from.
        known: the bought labels, which the draw keeps.
        counts: numbers of further labels, each at most b.
        size: of the model of the labels.
        generator: of the draw and the fits.
    """
    truth = torch.multinomial(hypothesis.classes(evidence.given), 1, generator=generator)[:, 0]
    truth[known.bought] = known.answers
    judged = torch.ones(len(truth), dtype=torch.bool)
    judged[known.bought] = judged[known.order] = False
    accuracy, right, corrects = [], [], []
    for count in counts:
        labelled = torch.cat([known.bought, known.order[:count]]).sort().values
        learnt = learn(evidence, labelled, truth[labelled], size, generator)
        accuracy.append(float((learnt.predicted == truth)[judged].float().mean()))
        right.append(float((learnt.labels == truth)[judged].float().mean()))
        corrects.append(learnt.corrects)
    return Scores(accuracy, right, corrects)


def learn(
    evidence: Evidence,
    labelled: torch.Tensor,
    answers: torch.Tensor,
    size: FitSize,
    generator: torch.Generator,
) -> Learnt:
    """The outcome of ``reweight --method auto``, whose network is replaced by linear heads.

    Args:
        evidence: of r samples.
        labelled: (m,) int64 sorted positions.
        answers: (m,) int64.
        size: of the model of the labels.
        generator: of the fits.
    """
    everything = torch.arange(len(evidence.given))
    as_given = evidence.given.clone()
    as_given[labelled] = answers
    plain = Learnt(evidence.probs.argmax(1), as_given, corrects=False)
    if len(labelled) < LEAST_BOUGHT:
        return plain
    model = fit_label_model(evidence, labelled, answers, everything, generator, size)
    if not model.corrects:
        return plain
    problem = make_problem(evidence, labelled, answers, everything, len(everything), generator)
    targets = with_answers(model.posterior, labelled, answers)
    [(_, log_probs)] = fit_folds([Wanted(problem, weighted(problem, targets), {})])
    corrected = model.posterior.argmax(1)
    corrected[labelled] = answers
    return Learnt(log_probs.argmax(1), corrected, corrects=True)
