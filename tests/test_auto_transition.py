"""The transition matrix of `auto` against Bayes' rule by hand, counting, and the likelihood that it maximises."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from metaselect.reweighting.auto.left_out import to_power
from metaselect.reweighting.auto.transition import (
    ANSWER_RIGHT,
    PRIOR_COUNT,
    RATES,
    answered,
    counted_transition,
    estimate_transition,
    posterior,
    symmetric_transition,
    with_answers,
    wrong_rate,
)


def draws(n: int, classes: int, known: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Random P, T, given labels, rows with a bought label, and those labels; float64."""
    draw = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(n, classes, generator=draw, dtype=torch.float64)).softmax(1)
    transition = torch.randn(classes, classes, generator=draw, dtype=torch.float64).softmax(1)
    given, answers = (torch.randint(classes, (count,), generator=draw) for count in (n, known))
    return probs, transition, given, torch.randperm(n, generator=draw)[:known], answers


def prior_of(given: torch.Tensor, answers: torch.Tensor, classes: int) -> torch.Tensor:
    return PRIOR_COUNT * classes * symmetric_transition(wrong_rate(given, answers), classes)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_posterior_is_bayes_rule(classes: int) -> None:
    probs, transition, given, _, _ = draws(6, classes, 1)
    found = posterior(probs, transition, given)
    for i, label in enumerate(given):
        joint = [float(probs[i, k] * transition[k, label]) for k in range(classes)]
        assert found[i].tolist() == pytest.approx([value / sum(joint) for value in joint], rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_an_answer_is_one_more_label_of_an_annotator_who_errs_evenly(classes: int) -> None:
    probs, _, _, known, answers = draws(6, classes, 4)
    before = probs.clone()
    found = with_answers(probs, known, answers)
    for row, answer in zip(known, answers, strict=True):
        joint = [
            float(before[row, k]) * (ANSWER_RIGHT if k == answer else (1 - ANSWER_RIGHT) / (classes - 1))
            for k in range(classes)
        ]
        assert found[row].tolist() == pytest.approx([value / sum(joint) for value in joint], rel=1e-6)
    others = torch.ones(6, dtype=torch.bool)
    others[known] = False
    assert torch.equal(found[others], before[others])
    assert torch.equal(probs, before)
    assert torch.equal(found[known], answered(before[known], answers))


def test_the_rate_of_wrong_labels_stays_within_limits() -> None:
    zeros, ones = torch.zeros(200, dtype=torch.int64), torch.ones(200, dtype=torch.int64)
    assert wrong_rate(zeros, zeros) == RATES[0]
    assert wrong_rate(zeros, ones) == RATES[1]
    assert wrong_rate(zeros[:0], zeros[:0]) == 0.5
    assert wrong_rate(zeros[:4], torch.tensor([0, 0, 1, 0])) == pytest.approx(1.5 / 5)


def test_powers_of_a_transition_matrix() -> None:
    _, transition, *_ = draws(1, 4, 1)
    torch.testing.assert_close(to_power(transition, 1.0), transition)
    torch.testing.assert_close(to_power(torch.eye(4), 0.0), torch.full((4, 4), 0.25))
    squared = transition.square()
    torch.testing.assert_close(to_power(transition, 2.0), squared / squared.sum(1, keepdim=True))


@pytest.mark.parametrize("known", [0, 3, 30])
def test_no_step_of_expectation_maximisation_lowers_the_penalised_likelihood(known: int) -> None:
    classes = 4
    probs, transition, given, rows, answers = draws(60, classes, known)
    prior = prior_of(given[rows], answers, classes).double()
    answer_probs = torch.ones(60, classes, dtype=torch.float64)
    answer_probs[rows] = symmetric_transition(1 - ANSWER_RIGHT, classes)[:, answers].T.double()

    def objective(t: torch.Tensor) -> float:
        of_labels = (probs * answer_probs * t[:, given].T).sum(1).log().sum()
        return float(of_labels + (prior * t.log()).sum())

    values = [objective(transition)]
    for _ in range(60):
        transition = estimate_transition(probs, given, rows, answers, transition, steps=1)
        values.append(objective(transition))
    assert np.diff(values).min() > -1e-8
    assert values[1] > values[0] + 1
    # Nothing near the limit is better.
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        moved = (transition.log() + 0.05 * torch.randn(classes, classes, generator=draw)).softmax(1)
        assert objective(moved) < values[-1]


def test_with_known_classes_it_is_counting() -> None:
    """P that is certain: T are the shares of the given labels of each class, with the prior's counts."""
    classes = 3
    _, start, given, rows, answers = draws(50, classes, 10)
    true = torch.randint(classes, (50,), generator=torch.Generator().manual_seed(2))
    counts = prior_of(given[rows], answers, classes).double()
    for k, j in zip(true, given, strict=True):
        counts[k, j] += 1
    expected = counts / counts.sum(1, keepdim=True)
    certain = F.one_hot(true, classes).double()
    torch.testing.assert_close(estimate_transition(certain, given, rows, answers, start), expected)
    torch.testing.assert_close(counted_transition(certain, given, rows, answers), expected)
