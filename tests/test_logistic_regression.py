"""Logistic regression: against scikit-learn, by its gradient, as weighted rows, and its choice of a weight decay."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from metaselect.models import cross_fit as cross_fit_module
from metaselect.models import logistic_regression as logistic_regression_module
from metaselect.models.cross_fit import WEIGHT_DECAYS, cross_fit, stratified_folds
from metaselect.models.logistic_regression import (
    LinearParams,
    fit_logistic_regression,
    fit_logistic_regressions,
)


def blobs(
    n: int, d: int, classes: int, *, seed: int = 0, wrong: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, d) float64 points around a centre for each class, and labels of which some are drawn at random."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=draw, dtype=torch.float64)
    labels = torch.arange(n) % classes
    points = centres[labels] + torch.randn(n, d, generator=draw, dtype=torch.float64)
    other = torch.rand(n, generator=draw) < wrong
    return points, torch.where(other, torch.randint(classes, (n,), generator=draw), labels)


def loss_of(params: LinearParams, inputs: torch.Tensor, targets: torch.Tensor, decay: float) -> torch.Tensor:
    """The function that is minimised, as its docstring writes it."""
    log_probs = F.log_softmax(inputs @ params.weight.T + params.bias, 1)
    return -(targets * log_probs).sum() / targets.sum() + decay / 2 * params.weight.square().sum()


def largest_gradient(
    params: LinearParams, inputs: torch.Tensor, targets: torch.Tensor, decay: float
) -> float:
    leaves = LinearParams(*(part.clone().requires_grad_() for part in params))
    gradients = torch.autograd.grad(loss_of(leaves, inputs, targets, decay), [*leaves])
    return max(float(each.abs().max()) for each in gradients)


@pytest.mark.parametrize("decay", [10.0, 0.1, 1e-3])
@pytest.mark.parametrize(("n", "d", "classes"), [(200, 7, 4), (60, 100, 3), (80, 1, 2)])
def test_it_is_the_logistic_regression_of_scikit_learn(n: int, d: int, classes: int, decay: float) -> None:
    inputs, labels = blobs(n, d, classes)
    targets = F.one_hot(labels, classes).double()
    params = fit_logistic_regression(inputs, targets, decay, tolerance=1e-10)
    # Two classes too: a softmax of two logits is a sigmoid of their difference, with half the penalty.
    strength = 1 / (n * decay) if classes > 2 else 2 / (n * decay)
    oracle = LogisticRegression(C=strength, tol=1e-9, max_iter=10_000).fit(inputs.numpy(), labels.numpy())
    expected = oracle.predict_proba(inputs.numpy())
    assert np.abs(params.log_probs(inputs).exp().numpy() - expected).max() < 1e-5


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(1, 12), st.integers(2, 5), st.floats(1e-4, 10), st.integers(0, 100))
def test_the_gradient_is_zero_at_the_solution(n: int, d: int, classes: int, decay: float, seed: int) -> None:
    inputs, _ = blobs(n, d, classes, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    targets = torch.rand(n, classes, generator=draw, dtype=torch.float64) ** 3  # soft labels times weights
    params = fit_logistic_regression(inputs, targets, decay, tolerance=1e-10)
    assert largest_gradient(params, inputs, targets, decay) <= 1.1e-10


def test_single_precision_reaches_its_tolerance_on_many_features() -> None:
    inputs, labels = blobs(500, 300, 10)
    inputs, targets = inputs.float(), F.one_hot(labels, 10).float()
    for decay in (1.0, 1e-2, 1e-4):
        params = fit_logistic_regression(inputs, targets, decay)
        assert params.weight.dtype == torch.float32
        exact = LinearParams(*(part.double() for part in params))
        assert largest_gradient(exact, inputs.double(), targets.double(), decay) < 2e-5


def test_soft_labels_are_weighted_rows() -> None:
    inputs, _ = blobs(30, 4, 3)
    counts = torch.randint(0, 4, (30, 3), generator=torch.Generator().manual_seed(1))
    soft = fit_logistic_regression(inputs, counts.double(), 0.01, tolerance=1e-11)
    rows = [(row, label) for row in range(30) for label in range(3) for _ in range(int(counts[row, label]))]
    where, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    hard = fit_logistic_regression(inputs[where], F.one_hot(labels, 3).double(), 0.01, tolerance=1e-11)
    assert torch.allclose(soft.weight, hard.weight, atol=1e-8)
    assert torch.allclose(soft.bias - soft.bias.mean(), hard.bias - hard.bias.mean(), atol=1e-8)


def test_the_solution_does_not_depend_on_where_it_starts() -> None:
    inputs, labels = blobs(100, 6, 3)
    targets = F.one_hot(labels, 3).double()
    cold = fit_logistic_regression(inputs, targets, 1e-3, tolerance=1e-11)
    far = LinearParams(torch.full((3, 6), 2.0).double(), torch.tensor([3.0, -1.0, 0.0]).double())
    kept = LinearParams(*(part.clone() for part in far))
    warm = fit_logistic_regression(inputs, targets, 1e-3, far, tolerance=1e-11)
    assert torch.allclose(cold.weight, warm.weight, atol=1e-7)
    assert torch.equal(far.weight, kept.weight)
    assert torch.equal(far.bias, kept.bias)


@pytest.mark.parametrize("most_scores", [1, 1000, 10**9])
def test_problems_that_are_solved_together_are_solved_as_alone(
    most_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other rows, weights, starts and difficulty; one starts at its solution, and all come in their order."""
    monkeypatch.setattr(logistic_regression_module, "MOST_SCORES", most_scores)
    inputs, labels = blobs(90, 5, 3)
    draw = torch.Generator().manual_seed(3)
    hard = F.one_hot(labels, 3).double()
    few = hard * (torch.rand(90, 1, generator=draw) < 0.2)
    soft = torch.rand(90, 3, generator=draw, dtype=torch.float64) ** 3
    solved = fit_logistic_regression(inputs, soft, 1e-3, tolerance=1e-11)
    far = LinearParams(torch.full((3, 5), 2.0).double(), torch.tensor([3.0, -1.0, 0.0]).double())
    problems = [(hard, None), (few, far), (soft, solved), (5 * hard + soft, far), (few, None)]
    found = [*fit_logistic_regressions(inputs, problems, 1e-3, tolerance=1e-11)]
    for params, (targets, _) in zip(found, problems, strict=True):
        assert largest_gradient(params, inputs, targets, 1e-3) <= 1.1e-11
        alone = fit_logistic_regression(inputs, targets, 1e-3, tolerance=1e-11)
        assert torch.allclose(params.log_probs(inputs), alone.log_probs(inputs), atol=1e-6)
    assert torch.equal(found[2].weight, solved.weight)
    assert not [*fit_logistic_regressions(inputs, [], 1e-3)]


def test_a_class_without_samples_gets_almost_no_probability() -> None:
    inputs, labels = blobs(50, 3, 2)
    targets = F.one_hot(labels, 3).float()
    probs = fit_logistic_regression(inputs.float(), targets, 1e-2).log_probs(inputs.float()).exp()
    assert probs[:, 2].mean() <= 2e-5
    assert torch.isfinite(probs).all()


@settings(max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 7))
def test_folds_divide_each_class_and_the_pool_evenly(labels: list[int], folds: int) -> None:
    given_labels = torch.tensor(labels)
    fold = stratified_folds(given_labels, folds, torch.Generator().manual_seed(0))
    for members in (fold, *(fold[given_labels == label] for label in set(labels))):
        sizes = torch.bincount(members, minlength=folds)
        assert len(sizes) == folds
        assert sizes.max() - sizes.min() <= 1


def test_folds_are_drawn() -> None:
    labels = torch.arange(40) % 2
    first, again, other = (stratified_folds(labels, 4, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_cross_fitting_is_a_fit_without_each_fold() -> None:
    inputs, labels = blobs(90, 5, 3, wrong=0.4)
    targets = F.one_hot(labels, 3).double()
    fold = stratified_folds(labels, 3, torch.Generator().manual_seed(0))
    losses = {}
    for decay in WEIGHT_DECAYS:
        log_probs = torch.empty_like(targets)
        for number in range(3):
            params = fit_logistic_regression(
                inputs[fold != number], targets[fold != number], decay, tolerance=1e-9
            )
            log_probs[fold == number] = params.log_probs(inputs[fold == number])
        losses[decay] = (float(-(targets * log_probs).sum() / 90), log_probs)
    crossed = cross_fit(inputs, targets, fold)
    best = min(losses, key=lambda decay: losses[decay][0])
    assert 1e-5 < best < 10  # within the grid, so that the choice can be wrong on both sides
    assert crossed.weight_decay == best
    assert crossed.loss == pytest.approx(losses[best][0], abs=1e-4)
    assert torch.allclose(crossed.log_probs, losses[best][1], atol=1e-2)
    alone = cross_fit(inputs, targets, fold, (0.5,))
    assert alone.weight_decay == 0.5
    assert alone.loss > crossed.loss


def test_a_large_pool_chooses_by_its_first_fold_and_predicts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = blobs(120, 5, 3, wrong=0.4)
    targets = F.one_hot(labels, 3).double()
    fold = stratified_folds(labels, 4, torch.Generator().manual_seed(0))
    monkeypatch.setattr(cross_fit_module, "ALL_FOLDS_UP_TO", 100)
    crossed = cross_fit(inputs, targets, fold)
    first = {}
    for decay in WEIGHT_DECAYS:
        params = fit_logistic_regression(inputs[fold != 0], targets[fold != 0], decay)
        first[decay] = float(-(targets * params.log_probs(inputs))[fold == 0].sum())
    assert crossed.weight_decay == min(first, key=first.__getitem__)
    same = cross_fit(inputs, targets, fold, (crossed.weight_decay,))
    assert torch.allclose(crossed.log_probs, same.log_probs, atol=1e-2)
    assert crossed.loss == pytest.approx(same.loss, abs=1e-3)
