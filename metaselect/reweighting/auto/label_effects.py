"""The effect of each bought label on the posteriors of the model of the labels: what they would be without it.

The model is refitted without the label, with the candidates' weights and the powers of T as they are: every candidate
goes on from a closer fit to all labels, which two rounds of expectation-maximisation move to the other labels. The
effect is the difference to as many rounds with all labels, so that what a fit is short of convergence is in neither.
"""

from collections.abc import Iterator

import torch

from metaselect.reweighting.auto.candidates import Candidate
from metaselect.reweighting.auto.fold_heads import REFIT_TOLERANCE, fit_together
from metaselect.reweighting.auto.label_model import LabelModel, OutsideRows, mixed, part_of
from metaselect.reweighting.auto.problem import Problem
from metaselect.reweighting.evidence import Evidence


def label_effects(model: LabelModel, evidence: Evidence) -> Iterator[torch.Tensor]:
    """For each of the m bought labels (n,): the posterior of each given label less what it would be without that one.

    It is 0 for bought samples, whose labels are known, and for samples without a given label.

    Args:
        model: of the labels.
        evidence: that it was fitted to.
    """
    problem, outside = model.problem, OutsideRows(model.problem, evidence)
    counts = evidence.given >= 0
    counts[problem.rows[problem.known]] = False
    model = model._replace(candidates=_refits(model, problem))
    with_all = _refitted(model, problem, outside, evidence.given)
    for place in range(len(problem.known)):
        left_out = torch.zeros(len(problem.known), dtype=torch.bool)
        left_out[place] = True
        without = _refitted(model, problem.without(left_out), outside, evidence.given)
        yield torch.where(counts, with_all - without, 0.0)


def _refitted(model: LabelModel, problem: Problem, outside: OutsideRows, given: torch.Tensor) -> torch.Tensor:
    """(n,) posterior of each given label by the model, refitted to a problem with other bought labels."""
    parts = {}
    for name, refit in _refits(model, problem).items():
        parts[name] = part_of(refit, outside.whole_pool(refit), model.powers[name], given)
    has_answer = torch.bincount(problem.answers, minlength=problem.classes) > 0
    known = mixed(parts, model.weights, has_answer).posterior
    return known.gather(1, given.clamp(min=0)[:, None])[:, 0]


def _refits(model: LabelModel, problem: Problem) -> dict[str, Candidate]:
    fits = fit_together([each.refit(problem) for each in model.candidates.values()], REFIT_TOLERANCE)
    return dict(zip(model.candidates, fits, strict=True))
