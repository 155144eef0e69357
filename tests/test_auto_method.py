"""Training by `auto`: targets, class priors, weights and exact solution, by hand and against scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from data_makers import Listener, plan, predictions_of
from noisy_clusters import pool, stream
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from metaselect.data.stored.preprocess import Preprocess
from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.build import build_model
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.auto.label_model import LabelModel
from metaselect.reweighting.auto.method import (
    FIRST_QUARTER,
    LEAST_PROB,
    LR_RAMP,
    Auto,
    AutoRun,
    corrected_targets,
)
from metaselect.reweighting.auto.transition import answered, posterior
from metaselect.reweighting.base import Labels, Start
from metaselect.reweighting.evidence import Evidence
from metaselect.reweighting.linear_problem import LinearProblem
from metaselect.reweighting.uniform import Uniform
from metaselect.run.layout import FEATURES
from metaselect.training.batches import Batches
from metaselect.training.loop import start_training, train

N, CLASSES, BOUGHT = 12, 3, torch.tensor([1, 4, 9])
ANSWERS = torch.tensor([2, 0, 1])
NOT_FITTED: Any = (None, {}, {})
"""The last fields of a model of the labels that is made up."""


def label_model(*, corrects: bool = True, tail: bool = False) -> LabelModel:
    """A made-up one of 12 samples."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(N, CLASSES, generator=draw) + torch.tensor([6.0 * tail, 0, 0])
    transition = (2 * torch.eye(CLASSES) + torch.randn(CLASSES, CLASSES, generator=draw)).softmax(1)
    probs, known = logits.softmax(1), (2 * logits).softmax(1)
    return LabelModel(probs, known, transition, {"plain": 1.0}, {}, transition, corrects, *NOT_FITTED)


def run_of(model: LabelModel, **options: Any) -> AutoRun:
    given, probs = torch.arange(N) // 2 % CLASSES, torch.full((N, CLASSES), 1 / CLASSES)
    labels = with_bought(given)
    start = Start(Labels(labels, CLASSES, torch.arange(N), BOUGHT), 4, 0.1, stream(), torch.device("cpu"))
    return AutoRun(Auto(**options), start, Evidence(given, probs, probs, (), improving=True), model)


def with_bought(given: torch.Tensor) -> torch.Tensor:
    labels = given.clone()
    labels[BOUGHT] = ANSWERS
    return labels


def forward_of(run: AutoRun, ids: torch.Tensor, seed: int = 0) -> Forward:
    inputs = torch.randn(len(ids), 5, generator=torch.Generator().manual_seed(seed))
    model = build_model("mlp", (5,), CLASSES, seed=seed)
    return Forward(
        model, torch.optim.SGD(model.parameters(), lr=0.1), Batch(inputs, with_bought(run.given)[ids])
    )


def tensors(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Logits, R, T and given labels of 7 samples of 4 classes; float64, nothing near 0."""
    draw = torch.Generator().manual_seed(seed)
    logits, r, t = (torch.randn(n, 4, generator=draw, dtype=torch.float64) for n in (7, 7, 4))
    return logits, r.softmax(1), t.softmax(1), torch.randint(4, (7,), generator=draw)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_targets_are_the_normalised_product(share: float) -> None:
    logits, prior, transition, given = tensors()
    p = logits.softmax(1)
    found = corrected_targets(logits.log_softmax(1), prior, transition, given, share)
    for i in range(7):
        product = [
            float(prior[i, k] ** share * (p[i, k] * transition[k, given[i]]) ** (1 - share)) for k in range(4)
        ]
        assert found[i].tolist() == pytest.approx([value / sum(product) for value in product], rel=1e-10)


def test_without_a_prior_the_gradient_is_that_of_forward_correction() -> None:
    """Patrini et al. 2017, theorem 2: the loss -log sum_k p_k T_kg."""
    logits, prior, transition, given = tensors()
    logits.requires_grad_()
    log_probs = logits.log_softmax(1)
    targets = corrected_targets(log_probs, prior, transition, given, 0.0)
    (found,) = torch.autograd.grad(-(targets * log_probs).sum(), logits)
    forward = -(logits.softmax(1) @ transition)[torch.arange(7), given].log().sum()
    (expected,) = torch.autograd.grad(forward, logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tail", [False, True])
def test_a_step_takes_the_corrected_targets_and_those_of_answers_as_they_are(tail: bool) -> None:
    run = run_of(label_model(tail=tail), share=0.3)
    assert run.balanced == tail
    ids = torch.tensor([0, 1, 5, 9, 11])
    forward = forward_of(run, ids)
    step = run.step(forward, None, ids, 0.1)
    known = run.model.posterior.clone()
    known[BOUGHT] = answered(known[BOUGHT], ANSWERS)
    shares = known.mean(0).clamp(min=1 / N)
    log_probs = (forward.logits + (shares.log() if tail else 0)).log_softmax(1)
    targets = corrected_targets(log_probs, known[ids], run.model.transition, run.given[ids], 0.3)
    targets[[1, 3]] = known[[1, 9]]
    torch.testing.assert_close(step.losses, -(targets * log_probs).sum(1))
    assert step.weights.tolist() == pytest.approx([1 / 5] * 5)


def test_plain_training_is_cross_entropy_with_the_answers_in_place() -> None:
    run = run_of(label_model(corrects=False))
    ids = torch.tensor([0, 1, 5, 9, 11])
    forward = forward_of(run, ids)
    expected = F.cross_entropy(forward.logits, with_bought(run.given)[ids], reduction="none")
    torch.testing.assert_close(run.step(forward, None, ids, 0.1).losses, expected)


def test_plain_training_is_balanced_by_the_labels_that_it_trains_on() -> None:
    run = run_of(label_model(corrects=False, tail=True))
    assert run.balanced
    counts = torch.bincount(with_bought(run.given), minlength=CLASSES)
    torch.testing.assert_close(run.log_shares.exp(), counts / N)


def test_a_noisy_tail_that_is_trained_on_plainly_does_not_swallow_the_largest_class() -> None:
    """Wrong labels fill rare classes up: by the true shares, their samples of the largest class would be theirs."""
    draw = torch.Generator().manual_seed(3)
    sizes = (6000, 1500, 400)
    true = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(sizes))
    n = len(true)
    wrong = torch.rand(n, generator=draw) < 0.2
    given = torch.where(wrong, (true + torch.randint(1, CLASSES, (n,), generator=draw)) % CLASSES, true)
    inputs = 3 * F.one_hot(true, CLASSES) + 0.3 * torch.randn(n, CLASSES, generator=draw)
    everyone, none = torch.arange(n), BOUGHT[:0]
    problem = LinearProblem(inputs, given, CLASSES, everyone, everyone % 5, 0.002, 0.002)
    start = Start(Labels(given, CLASSES, everyone, none), 1, 0.1, stream(), torch.device("cpu"))
    known = F.one_hot(true, CLASSES).float()
    evidence = Evidence(given, known, known, (), improving=True)
    model = LabelModel(
        known, known, torch.eye(CLASSES), {"plain": 1.0}, {}, torch.eye(CLASSES), False, *NOT_FITTED
    )
    run = AutoRun(Auto(), start, evidence, model)
    assert run.balanced
    predicted = run.solve(problem).log_probs(inputs).argmax(1)
    recall = [float((predicted == true)[true == label].float().mean()) for label in range(CLASSES)]
    assert min(recall) > 0.95


@pytest.mark.parametrize(("priors", "tail", "balanced"), [
    ("auto", False, False), ("auto", True, True), ("given", True, False), ("balanced", False, True),
])  # fmt: skip
def test_classes_are_balanced_where_the_tail_is_long_or_it_is_asked_for(
    priors: str, tail: bool, balanced: bool
) -> None:
    run = run_of(label_model(tail=tail), priors=priors)
    assert run.balanced == balanced
    shares = run.targets.mean(0).clamp(min=1 / N) if balanced else torch.ones(CLASSES)
    torch.testing.assert_close(run.log_shares.exp(), shares)


def test_weights_are_posteriors_of_the_mean_prediction_after_the_first_quarter() -> None:
    run = run_of(label_model())
    ids = torch.arange(0, N, 2)
    # The network repeats no more given labels than models that did not see them.
    run.evidence = run.evidence._replace(probs=F.one_hot(run.given, CLASSES).float())
    seen = []
    for epoch in range(4):
        forward = forward_of(run, ids, seed=epoch)
        run.step(forward, None, ids, 0.1)
        run.epoch_end(epoch + 1)
        if epoch >= FIRST_QUARTER * 4:
            seen.append(forward.logits.detach().softmax(1))
    expected = run.model.posterior.clone()
    mean = torch.stack(seen).mean(0)
    expected[ids] = posterior(mean, run.model.transition, run.given[ids])
    found = run.pool_weights(predictions_of(torch.zeros(N)))
    torch.testing.assert_close(found, expected[torch.arange(N), run.given])
    # A network that repeats many more of them is not listened to.
    run.evidence = run.evidence._replace(probs=F.one_hot((run.given + 1) % CLASSES, CLASSES).float())
    assert (mean.argmax(1) == run.given[ids]).float().mean() > 0.1
    unheard = run.pool_weights(predictions_of(torch.zeros(N)))
    assert torch.equal(unheard, run.model.posterior[torch.arange(N), run.given])


def test_weights_of_plain_training_are_the_posteriors_of_the_label_model() -> None:
    run = run_of(label_model(corrects=False))
    run.epoch_end(3)
    run.step(forward_of(run, torch.arange(N)), None, torch.arange(N), 0.1)
    found = run.pool_weights(predictions_of(torch.zeros(N)))
    assert torch.equal(found, run.model.posterior[torch.arange(N), run.given])


def test_the_average_moves_in_larger_steps_at_first() -> None:
    run, ids = run_of(label_model(), ema=0.5), torch.arange(4)
    forward = forward_of(run, ids)
    run.step(forward, None, ids, 0.1)
    expected = {name: value.detach().clone() for name, value in forward.params.items()}
    for step in range(1, 20):
        with torch.no_grad():
            for value in forward.params.values():
                value += 0.1
        run.after_step(forward.params)
        share = min(0.5, (1 + step) / (10 + step))
        for name, value in forward.params.items():
            expected[name] = share * expected[name] + (1 - share) * value.detach()
    averaged = run.averaged()
    assert averaged is not None
    torch.testing.assert_close(dict(averaged), expected)
    without = run_of(label_model(), ema=0.0)
    without.step(forward, None, ids, 0.1)
    assert without.averaged() is None


def linear_problem(n: int = 90, given_decay: float | None = None) -> LinearProblem:
    draw = torch.Generator().manual_seed(4)
    labels = torch.arange(n) % CLASSES
    inputs = F.one_hot(labels, CLASSES) + torch.randn(n, CLASSES, generator=draw)
    trained = torch.arange(n)[torch.arange(n) % 10 > 0]
    return LinearProblem(inputs, labels, CLASSES, trained, trained % 5, 0.02, given_decay)


def sklearn_probs(problem: LinearProblem, targets: torch.Tensor, decay: float) -> np.ndarray:
    """(n, K) probabilities, of a fit on one weighed row for each trained sample and class."""
    rows = problem.inputs[problem.trained].numpy()
    n, classes = targets[problem.trained].shape
    oracle = LogisticRegression(C=1 / (n * decay), tol=1e-8, max_iter=10_000)
    oracle.fit(
        rows.repeat(classes, 0),
        np.tile(np.arange(classes), n),
        sample_weight=targets[problem.trained].reshape(-1).numpy(),
    )
    found: np.ndarray = oracle.predict_proba(problem.inputs.numpy())
    return found


@pytest.mark.parametrize("soft", [False, True])
def test_the_exact_solution_is_that_of_scikit_learn(soft: bool) -> None:
    problem = linear_problem(given_decay=0.05)
    hard = F.one_hot(problem.labels, CLASSES).float()
    targets = 0.7 * hard + 0.1 if soft else hard
    found = problem.fit(targets).log_probs(problem.inputs).exp().numpy()
    assert np.abs(found - sklearn_probs(problem, targets, 0.05)).max() < 1e-3
    start = Start(
        Labels(problem.labels, CLASSES, problem.trained, BOUGHT[:0]), 1, 0.1, stream(), torch.device("cpu")
    )
    plain = Uniform().begin(start).solve(problem).log_probs(problem.inputs).exp().numpy()
    assert np.abs(plain - sklearn_probs(problem, hard, problem.weight_decay)).max() < 1e-3


def test_the_exact_solution_of_auto_fits_posteriors_and_is_for_classes_of_equal_frequency() -> None:
    data = pool("uniform 40", n=90)
    given = data.evidence.given.clone()
    given[data.bought] = data.true[data.bought]
    everyone = torch.arange(90)
    problem = LinearProblem(
        data.evidence.spaces[0].hidden, given, CLASSES, everyone, everyone % 5, 0.02, 0.03
    )
    start = Start(
        Labels(given, CLASSES, everyone, data.bought), 1, 0.1, stream(), torch.device("cpu"), data.evidence
    )
    run, balanced = (
        Auto(priors=priors).begin(start._replace(generator=stream())) for priors in ("given", "balanced")
    )
    assert run.model.corrects
    found, shifted = run.solve(problem), balanced.solve(problem)
    assert (
        np.abs(
            found.log_probs(problem.inputs).exp().numpy() - sklearn_probs(problem, run.targets, 0.03)
        ).max()
        < 1e-3
    )
    torch.testing.assert_close(shifted.weight, found.weight)
    torch.testing.assert_close(shifted.bias, found.bias - run.targets.mean(0).log())
    plain = AutoRun(Auto(priors="given"), start, data.evidence, run.model._replace(corrects=False)).solve(
        problem
    )
    assert torch.equal(plain.weight, problem.fit_labels().weight)


def test_a_given_label_that_is_not_trained_on_changes_no_bit_of_the_model() -> None:
    data = pool("uniform 40", n=90)
    out = (~torch.isin(torch.arange(90), data.bought)).nonzero()[:5, 0]
    trained = torch.tensor(sorted(set(range(90)) - set(out.tolist())))
    method = configure(REWEIGHTERS["auto"], [])
    preprocess = Preprocess(FEATURES, (), "", (0.0,) * CLASSES, (1.0,) * CLASSES)
    states, weights = [], []
    for shift in (0, 1):
        given = data.evidence.given.clone()
        given[out] = (given[out] + shift) % CLASSES
        labels = given.clone()
        labels[data.bought] = data.true[data.bought]
        batches = Batches(
            data.evidence.spaces[0].hidden.numpy(),
            labels.numpy(),
            preprocess,
            device=torch.device("cpu"),
            channels=3,
        )
        run = method.begin(
            Start(
                Labels(labels, CLASSES, trained, data.bought),
                4,
                0.05,
                stream(),
                torch.device("cpu"),
                data.evidence._replace(given=given),
            )
        )
        state = start_training(build_model("mlp", (3,), CLASSES, seed=0), plan(augment="none"), run)
        for _ in train(
            state, batches, plan(augment="none"), ids=trained, bought=data.bought, meta_batch_size=0,
            report=Listener(), what="auto",
        ):  # fmt: skip
            pass
        states.append({**state.model.state_dict(), **run.state_dict()})
        weights.append(run.pool_weights(predictions_of(torch.zeros(90))))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(weights[0][trained], weights[1][trained])
    assert not torch.equal(weights[0][out], weights[1][out])


def test_a_warmup_that_learnt_other_classes_is_not_started_from() -> None:
    run = run_of(label_model())
    most, shifted = (torch.cat([run.model.probs[:m], run.model.probs.roll(1, 1)[m:]]) for m in (7, 5))
    for fitted, anew in ((most, False), (shifted, True)):
        run.evidence = run.evidence._replace(fitted=fitted)
        assert run.starts_anew == anew


def test_plain_training_has_the_options_of_the_control() -> None:
    assert run_of(label_model(corrects=False)).recipe is None
    run = run_of(label_model())
    # The warm-up's classes are those of the label model, so that training starts from it, or others.
    same, other = run.model.probs, run.model.probs.roll(1, 1)
    for improving in (True, False):
        run.evidence = run.evidence._replace(fitted=same, improving=improving)
        assert run.recipe == (Auto.recipe if improving else None)
        run.evidence = run.evidence._replace(fitted=other)
        assert run.recipe == Auto.recipe._replace(lr_ramp=LR_RAMP)


@pytest.mark.parametrize(
    ("likelihood", "corrects", "said"),
    [
        ({}, False, "Too few classes have two bought labels, which show how given ones go wrong: training is plain"),
        ({"plain": -0.1}, False, "The bought labels do not favour a correction of the given ones: training is plain"),
        ({"plain": -0.1}, True, "(mostly its candidate plain): training uses corrected labels."),
    ],
)  # fmt: skip
def test_the_sentence_says_whether_labels_are_corrected_and_why_not(
    likelihood: dict[str, float], corrects: bool, said: str
) -> None:
    run = run_of(label_model(corrects=corrects)._replace(log_likelihood=likelihood))
    run.bought[:] = True
    assert said in run.sentence()
    for bought in (9, 0):  # too few, whatever they say
        run.bought[:] = torch.arange(len(run.bought)) < bought
        assert run.sentence().startswith(
            "Given labels are corrected from 10 bought labels on: training is plain"
        )
        assert ("in place" in run.sentence()) is (bought > 0)


@pytest.mark.parametrize("word", ["share=1.5", "share=nan", "ema=1", "ema=-0.1", "priors=equal"])
def test_a_wrong_option_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=word.partition("=")[0]):
        configure(REWEIGHTERS["auto"], [word])


def test_small_entries_of_the_matrix_count_as_the_least_probability() -> None:
    logits, prior, _, given = tensors()
    found = corrected_targets(logits.log_softmax(1), prior, torch.eye(4, dtype=torch.float64), given, 0.0)
    own = logits.softmax(1) * torch.eye(4, dtype=torch.float64)[:, given].T.clamp(min=LEAST_PROB)
    torch.testing.assert_close(found, own / own.sum(1, keepdim=True))
