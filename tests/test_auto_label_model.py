"""The model of the labels: bought labels that are left out, candidates and their weights, and every kind of pool."""

import math
from functools import partial

import pytest
import torch
from noisy_clusters import NOISE, Pool, pool, stream
from torch.nn import functional as F

from metaselect.models.cross_fit import is_above
from metaselect.reweighting.auto import heads
from metaselect.reweighting.auto.candidates import CANDIDATES, PLAIN
from metaselect.reweighting.auto.fold_heads import fit_alone
from metaselect.reweighting.auto.heads import fit_heads
from metaselect.reweighting.auto.label_model import FULL_SIZE, FitSize, LabelModel, averaging_weights
from metaselect.reweighting.auto.left_out import (
    POWER_PRIOR,
    T_POWERS,
    LeftOut,
    answer_folds,
    left_out_fits,
)
from metaselect.reweighting.auto.transition import PRIOR_COUNT, symmetric_transition

ROUNDING = 1e-4  # of fits that are solved beside others: their products are of other shapes
assert_same = partial(torch.testing.assert_close, atol=ROUNDING, rtol=0.0)


def right_share(model: LabelModel, data: Pool) -> float:
    """Of the pool's samples, those whose most probable class is the true one."""
    return float((model.posterior.argmax(1) == data.true).float().mean())


@pytest.mark.parametrize("noise", NOISE)
def test_each_kind_of_noise_is_found_from_200_bought_labels(noise: str) -> None:
    data = pool(noise, n=1500, classes=5, bought=200)
    model = data.model()
    counts = torch.bincount(data.true)[:, None]
    deviation = (data.transition * (1 - data.transition) / counts).sqrt()
    prior = PRIOR_COUNT * 5 / (counts + PRIOR_COUNT * 5)  # no entry moves further towards the prior
    assert ((model.estimated - data.transition).abs() <= 3 * deviation + prior).all()
    wrong = float((data.evidence.given != data.true).float().mean())
    assert model.wrong_share == pytest.approx(wrong, abs=0.02)
    if wrong >= 0.2:
        assert model.chosen != PLAIN
        assert model.corrects
        assert right_share(model, data) > 0.99
    if noise == "none":
        assert not model.corrects
        assert model.posterior.gather(1, data.evidence.given[:, None]).min() > 0.99


@pytest.mark.parametrize("name", CANDIDATES)
def test_left_out_fits_are_fits_without_those_answers(name: str) -> None:
    """Those of all candidates are solved together; each comes out as it does alone, but for rounding."""
    data, fit = pool(), CANDIDATES[name]
    problem = data.problem()
    fold = answer_folds(problem.answers, FULL_SIZE.folds, stream())
    found = left_out_fits(problem, CANDIDATES, fold)[name]
    assert set(fold.tolist()) == set(range(FULL_SIZE.folds))
    for number in range(FULL_SIZE.folds):
        out = fold == number
        by_hand = fit_alone(fit(problem._replace(known=problem.known[~out], answers=problem.answers[~out])))
        assert_same(found.probs[out], by_hand.probs[problem.known[out]])
        assert_same(found.transitions[number], by_hand.transition)


def test_the_power_of_t_is_one_unless_bought_labels_say_otherwise() -> None:
    """Two samples whose given labels are wrong: the surer P is of it, the less T of power 1 costs."""
    transition = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    given, answers = torch.tensor([0, 0]), torch.tensor([1, 1])
    for sure, power in ((0.5, 0.0), (0.95, 1.0), (0.01, 0.0)):
        fold, probs = torch.tensor([0, 1]), torch.tensor([[1 - sure, sure]] * 2)
        found = LeftOut(fold, probs, {0: transition, 1: transition})

        def score(each: float, sure: float = sure) -> float:
            right, wrong = sure * 0.1**each, (1 - sure) * 0.9**each
            return 2 * math.log(max(right / (right + wrong), 1e-3)) + POWER_PRIOR * each

        assert found.best_power(given, answers) == max(T_POWERS, key=score) == power
        assert found.best_power(given, 1 - answers) == 1.0


@pytest.mark.parametrize("name", CANDIDATES)
def test_an_answer_that_is_left_out_has_no_influence_on_its_own_prediction(name: str) -> None:
    data = pool("uniform 40", apart=3)
    answers = data.true[data.bought]
    fold = answer_folds(answers, FULL_SIZE.folds, stream())
    changed = answers.clone()
    changed[4] = (answers[4] + 1) % 3
    before, after = (
        left_out_fits(data.problem(each), {name: CANDIDATES[name]}, fold)[name] for each in (answers, changed)
    )
    same = fold == fold[4]
    assert_same(before.probs[same], after.probs[same])
    assert_same(before.transitions[int(fold[4])], after.transitions[int(fold[4])])
    assert (before.probs[~same] - after.probs[~same]).abs().max() > 10 * ROUNDING


def test_terms_by_hand() -> None:
    data = pool()
    given, answers = data.evidence.given[data.bought], data.true[data.bought]
    fold = answer_folds(answers, FULL_SIZE.folds, stream())
    found = left_out_fits(data.problem(), CANDIDATES, fold)["symmetric"]
    for power in (1.0, 0.5):
        terms, joint = found.terms(power, given, answers), found.joint_terms(given, answers)
        for i, (p, g, y) in enumerate(zip(found.probs.tolist(), given, answers, strict=True)):
            t = found.transitions[int(fold[i])]
            powered = [t[k] ** power / (t[k] ** power).sum() for k in range(3)]
            products = [p[k] * float(powered[k][g]) for k in range(3)]
            assert float(terms[i]) == pytest.approx(
                math.log(max(products[y] / sum(products), 1e-3)), abs=1e-5
            )
            expected = math.log(max(p[y], 1e-3)) + math.log(max(float(t[y, g]), 1e-3))
            assert float(joint[i]) == pytest.approx(expected, abs=1e-5)


def test_folds_spread_the_classes_and_keep_the_only_label_of_a_class() -> None:
    answers = torch.tensor([0] * 20 + [1] * 13 + [2] * 8 + [3, 4])
    fold = answer_folds(answers, FULL_SIZE.folds, stream())
    assert fold[-2:].tolist() == [-1, -1]
    assert (fold[:-2] >= 0).all()
    for label, count in ((0, 20), (1, 13), (2, 8)):
        sizes = torch.bincount(fold[answers == label], minlength=FULL_SIZE.folds)
        assert sizes.min() >= count // FULL_SIZE.folds
        assert sizes.max() <= -(-count // FULL_SIZE.folds)
    assert (
        torch.bincount(fold[:-2]).max() - torch.bincount(fold[:-2]).min() <= 2
    )  # the two alone took a place each
    assert torch.equal(answer_folds(answers, FULL_SIZE.folds, stream()), fold)


@pytest.mark.parametrize(
    ("answers", "left_out"),
    [([], []), ([0], [0]), ([0, 0, 1], [0, 0, 0]), ([0, 0, 0, 1], [1] * 4), ([0, 0, 1, 1, 2], [1, 1, 1, 1, 0])],
)  # fmt: skip
def test_few_answers(answers: list[int], left_out: list[int]) -> None:
    """Fewer than four: none is left out. Fewer than four with another one of their class: all are."""
    fold = answer_folds(torch.tensor(answers, dtype=torch.int64), FULL_SIZE.folds, stream())
    assert (fold >= 0).int().tolist() == left_out
    assert len(set(fold[fold >= 0].tolist())) == sum(left_out)


def test_weights_of_candidates_in_closed_form() -> None:
    equal = torch.tensor([[-1.0, -2.0, -0.5]]).repeat(2, 1)
    assert averaging_weights(equal, stream()) == pytest.approx([0.5, 0.5])
    assert averaging_weights(torch.stack([equal[0], equal[0] - 5]), stream()) == [1, 0]
    # Of one sample every draw of the bootstrap is that sample.
    terms = torch.tensor([[-1.0], [-0.3], [-2.0]])
    assert averaging_weights(terms, stream()) == pytest.approx(terms[:, 0].softmax(0).tolist(), abs=1e-6)
    # Of two samples, the share of the first is uniform: the mean is an integral.
    terms = torch.tensor([[-1.0, -2.0], [-1.5, -0.8]])
    u = torch.linspace(0, 1, 10_001)[:, None]
    integral = (2 * (u * terms[:, 0] + (1 - u) * terms[:, 1])).softmax(1).mean(0)
    assert averaging_weights(terms, stream()) == pytest.approx(integral.tolist(), abs=0.03)
    assert averaging_weights(terms, stream()) == averaging_weights(terms, stream())


def test_above_means_by_more_than_a_standard_error() -> None:
    others, noise = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert not is_above(others + noise + 0.57, others)  # the standard error is sqrt(4/3) / 2 = .577
    assert is_above(others + noise + 0.58, others)
    assert not is_above(others, others)


def test_a_row_is_predicted_by_heads_that_did_not_see_its_given_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one round with a known T; the temperature, one number for all rows, is held fixed."""
    monkeypatch.setattr(heads, "ROUNDS", 1)
    monkeypatch.setattr(heads, "TEMPERATURES", (1.0,))
    problem = pool(apart=2).problem()
    fixed = symmetric_transition(0.4, 3)
    row = int((~torch.isin(torch.arange(120), problem.known)).nonzero()[7])
    given = problem.given.clone()
    given[row] = (given[row] + 1) % 3
    before, after = (
        fit_alone(fit_heads(each, problem.probs, fixed)) for each in (problem, problem._replace(given=given))
    )
    own, other = int(problem.fold[row]), 1 - int(problem.fold[row])
    assert torch.equal(before.probs[row], after.probs[row])
    assert torch.equal(before.heads[0, own].weight, after.heads[0, own].weight)
    assert not torch.equal(before.heads[0, other].weight, after.heads[0, other].weight)
    rows = (problem.fold == other).nonzero()[:, 0]
    expected = F.softmax(
        problem.spaces[0].hidden[rows] @ after.heads[0, other].weight.T + after.heads[0, other].bias, 1
    )
    torch.testing.assert_close(after.probs[rows], expected)


def check(model: LabelModel, n: int, classes: int) -> None:
    """Everything is a probability."""
    assert model.probs.shape == model.posterior.shape == (n, classes)
    for values in (model.probs, model.posterior, model.transition, model.estimated):
        assert torch.isfinite(values).all()
        assert values.min() >= 0
        torch.testing.assert_close(values.sum(1), torch.ones(len(values)), rtol=1e-4, atol=1e-4)
    assert sum(model.weights.values()) == pytest.approx(1)
    assert 0 <= model.wrong_share <= 1
    assert set(model.log_likelihood) in (set(), set(CANDIDATES))


@pytest.mark.parametrize("bought", [0, 1, 3, 4, 20, 119])
def test_every_budget(bought: int) -> None:
    data = pool(bought=bought)
    model = data.model()
    check(model, 120, 3)
    if bought < 4:
        assert (model.weights, model.corrects, model.log_likelihood) == ({PLAIN: 1.0}, False, {})
    if bought >= 20:
        assert right_share(model, data) > 0.95
        assert model.corrects


def test_the_same_stream_gives_the_same_model() -> None:
    data = pool()
    one, other = data.model(), data.model()
    assert one.weights == other.weights
    assert torch.equal(one.posterior, other.posterior)


@pytest.mark.parametrize("n", [2, 3, 5, 9])
@pytest.mark.parametrize("bought", [0, 1, 5])
def test_pools_of_a_few_samples(n: int, bought: int) -> None:
    check(pool(n=n, bought=min(bought, n - 1)).model(), n, 3)


@pytest.mark.parametrize("noise", ["none", "uniform 40", "shift 60"])
def test_two_classes(noise: str) -> None:
    data = pool(noise, classes=2)
    model = data.model()
    check(model, 120, 2)
    assert right_share(model, data) > 0.95


@pytest.mark.parametrize("empty", [0, 1])
def test_a_class_without_a_bought_label(empty: int) -> None:
    """Those of the others are found; with ``empty``, there is a class that no sample has, too."""
    data = pool("uniform 40", n=200, classes=4)
    pad = [F.pad(values, (0, empty)) for values in (data.evidence.probs, data.evidence.fitted)]
    bought = (data.true != 3).nonzero()[::5, 0]
    data = data._replace(evidence=data.evidence._replace(probs=pad[0], fitted=pad[1]), bought=bought)
    model = data.model()
    check(model, 200, 4 + empty)
    hits = model.posterior.argmax(1) == data.true
    assert hits[data.true != 3].float().mean() > 0.97
    assert hits[data.true == 3].float().mean() > 0.85  # by the candidates that know it from given labels


def test_bought_labels_of_one_class_alone() -> None:
    data = pool()
    data = data._replace(bought=(data.true == 1).nonzero()[:8, 0])
    model = data.model()
    check(model, 120, 3)


def test_features_that_say_nothing() -> None:
    data = pool("uniform 40")
    space = data.evidence.spaces[0]
    evidence = data.evidence._replace(spaces=(space._replace(hidden=torch.ones_like(space.hidden)),))
    model = data._replace(evidence=evidence).model()
    check(model, 120, 3)


@pytest.mark.parametrize("noise", ["none", "uniform 40", "shift 60"])
def test_some_wrong_bought_labels_cost_little(noise: str) -> None:
    """Two of 40."""
    data = pool(noise, n=300, bought=40)
    answers = data.true[data.bought]
    wrong = answers.clone()
    wrong[[3, 20]] = (wrong[[3, 20]] + 1) % 3
    model = data.model(wrong)
    assert right_share(model, data) > right_share(data.model(answers), data) - 0.02
    if noise == "none":
        assert not model.corrects
        assert model.posterior.gather(1, data.evidence.given[:, None]).mean() > 0.99


def test_given_labels_that_are_not_usable_are_not_used() -> None:
    data = pool()
    out = (~torch.isin(torch.arange(120), data.bought)).nonzero()[:5, 0]
    usable = torch.tensor(sorted(set(range(120)) - set(out.tolist())))
    given = data.evidence.given.clone()
    given[out] = (given[out] + 1) % 3
    changed = data._replace(evidence=data.evidence._replace(given=given))
    one, other = data.model(usable=usable), changed.model(usable=usable)
    assert torch.equal(one.probs, other.probs)
    assert torch.equal(one.transition, other.transition)
    assert torch.equal(one.posterior[usable], other.posterior[usable])
    assert not torch.equal(one.posterior[out], other.posterior[out])


def test_spaces_of_two_folds_and_a_sample_of_the_pool() -> None:
    """Networks of the warm-up's folds have representations of their own; most of the pool is not fitted on."""
    data = pool("uniform 40", n=300, bought=30)
    (space,) = data.evidence.spaces
    spaces = tuple(
        space._replace(hidden=sign * space.hidden, members=torch.arange(start, 300, 2))
        for start, sign in ((0, 1), (1, -1))
    )
    split = data._replace(evidence=data.evidence._replace(spaces=spaces))
    model = split.model(size=FitSize(rows=100, cross_rows=80))
    assert len(model.problem.rows) < 150
    check(model, 300, 3)
    assert right_share(model, split) > 0.95
