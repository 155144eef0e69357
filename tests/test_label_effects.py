"""The effect of each bought label on the model of the labels, against fits in float64 by other code."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from noisy_clusters import Pool, pool
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import spearmanr

from metaselect.reweighting.auto.candidates import CANDIDATES
from metaselect.reweighting.auto.fold_heads import WEIGHT_DECAY, fit_alone
from metaselect.reweighting.auto.heads import ANSWER_WEIGHT
from metaselect.reweighting.auto.label_effects import label_effects
from metaselect.reweighting.auto.label_model import FitSize, LabelModel, OutsideRows, mixed, part_of
from metaselect.reweighting.auto.problem import Problem
from metaselect.reweighting.auto.transition import ANSWER_RIGHT, PRIOR_COUNT, RATES

State = tuple[np.ndarray, np.ndarray]
"""(n, K) P and (K, K) T."""


def effects_of(data: Pool, model: LabelModel) -> np.ndarray:
    """(m, n)."""
    return torch.stack([*label_effects(model, data.evidence)]).numpy()


def normalised(rows: np.ndarray) -> np.ndarray:
    shares: np.ndarray = rows / rows.sum(1, keepdims=True)
    return shares


class Refit:
    """Rounds of expectation-maximisation on bought labels, in NumPy and SciPy.

    ``kind`` is the candidate, whose T is fixed or estimated; ``temperature`` the factor of its logits.
    """

    def __init__(self, kind: str, problem: Problem, temperature: float) -> None:
        self.kind, self.temperature = kind, temperature
        self.hidden = problem.spaces[0].hidden.double().numpy()
        self.given, self.fold = problem.given.numpy(), problem.fold.numpy()
        self.known, self.answers = problem.known.numpy(), problem.answers.numpy()
        self.classes = problem.classes
        self.labels = np.eye(self.classes)[self.given]
        wrong = (self.given[self.known] != self.answers).sum()
        self.rate = min(max((wrong + 0.5) / (len(self.known) + 1), RATES[0]), RATES[1])

    def symmetric(self, rate: float) -> np.ndarray:
        off = rate / (self.classes - 1)
        return np.full((self.classes, self.classes), off) + (1 - rate - off) * np.eye(self.classes)

    def responsibility(self, state: State) -> np.ndarray:
        probs, transition = state
        rows = normalised(probs * transition[:, self.given].T)
        heard = self.symmetric(1 - ANSWER_RIGHT)[:, self.answers].T
        rows[self.known] = normalised(rows[self.known] * heard)
        return rows

    def transition(self, state: State) -> np.ndarray:
        if self.kind == "plain":
            return self.symmetric(RATES[0])
        if self.kind == "symmetric":
            return self.symmetric(self.rate)
        probs, transition = state
        for _ in range(5):
            counts = self.responsibility((probs, transition)).T @ self.labels
            transition = normalised(counts + PRIOR_COUNT * self.classes * self.symmetric(self.rate))
        return transition

    def head(self, rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """(n, K) log probabilities by the logistic regression of some rows."""
        x, width = self.hidden[rows], self.hidden.shape[1]
        share = targets[rows] / targets[rows].sum()

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            params = flat.reshape(self.classes, width + 1)
            logs = log_softmax(x @ params[:, :-1].T + params[:, -1], 1)
            residual = np.exp(logs) * share.sum(1, keepdims=True) - share
            gradient = np.c_[residual.T @ x + WEIGHT_DECAY * params[:, :-1], residual.sum(0)]
            value = WEIGHT_DECAY / 2 * (params[:, :-1] ** 2).sum() - (share * logs).sum()
            return value, gradient.ravel()

        start = np.zeros(self.classes * (width + 1))
        options = {"ftol": 0, "gtol": 1e-9, "maxiter": 5000, "maxfun": 10_000, "maxcor": 30}
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        params = found.x.reshape(self.classes, width + 1)
        logs: np.ndarray = log_softmax(self.hidden @ params[:, :-1].T + params[:, -1], 1)
        return logs

    def rounds(self, state: State) -> State:
        """Two rounds, and the T that follows."""
        probs, transition = state
        is_known = np.isin(np.arange(len(self.given)), self.known)
        for _ in range(2):
            transition = self.transition((probs, transition))
            targets = self.responsibility((probs, transition))
            targets[self.known] *= ANSWER_WEIGHT
            logs = np.empty_like(probs)
            for fold in (0, 1):
                inside = self.fold == fold
                logs[inside] = self.head(~inside | is_known, targets)[inside]
            probs = softmax(self.temperature * logs, 1)
        return probs, self.transition((probs, transition))


def posterior(state: State, power: float, given: np.ndarray) -> np.ndarray:
    """(n,) R_i(g_i)."""
    probs, transition = state
    rows = normalised(probs * normalised(transition**power)[:, given].T)
    own: np.ndarray = rows[np.arange(len(given)), given]
    return own


def test_they_are_the_differences_of_explicit_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CANDIDATES, "spread")  # which has a test of its own
    data = pool("uniform 40", n=60, bought=9, apart=3.0)
    model = data.model()
    assert len(model.candidates) > 1
    given, bought = data.evidence.given.numpy(), data.bought.numpy()
    found, expected = effects_of(data, model), np.zeros((len(bought), len(given)))
    for name, candidate in model.candidates.items():
        temperature = temperature_of(candidate.refit)
        start = (candidate.probs.double().numpy(), candidate.transition.double().numpy())
        closer = Refit(name, model.problem, temperature).rounds(start)
        base = posterior(Refit(name, model.problem, temperature).rounds(closer), model.powers[name], given)
        for place in range(len(bought)):
            problem = model.problem.without(torch.arange(len(bought)) == place)
            other = Refit(name, problem, temperature).rounds(closer)
            expected[place] += model.weights[name] * (base - posterior(other, model.powers[name], given))
    expected[:, bought] = 0
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=2e-3)


def temperature_of(refit: Callable[..., object]) -> float:
    """Of the fit that a candidate goes on from."""
    cells = dict(zip(refit.__code__.co_freevars, refit.__closure__ or (), strict=True))
    return float(cells["model"].cell_contents.temperature)


def test_spreading_again_is_the_fit_without_that_label_at_the_same_power() -> None:
    data = pool("uniform 40", n=90, apart=3.0)
    problem = data.problem()
    fitted = fit_alone(CANDIDATES["spread"](problem))
    same = 0
    for place in range(len(problem.known)):
        other = problem.without(torch.arange(len(problem.known)) == place)
        again, anew = fit_alone(fitted.refit(other)), fit_alone(CANDIDATES["spread"](other))
        # The power is chosen by the bought labels; where it stays, nothing else is left to differ.
        same += bool((again.probs - anew.probs).abs().max() < 5e-3)
    assert same > len(problem.known) / 2


def test_they_point_the_same_way_as_whole_fits() -> None:
    """Whole fits from their own start, which end in other rounds and at other temperatures: 0.77 was measured."""
    data = pool("shift 60", n=100, classes=4, bought=10, apart=3.0)
    model = data.model()
    outside, given = OutsideRows(model.problem, data.evidence), data.evidence.given

    def whole(problem: Problem) -> torch.Tensor:
        parts = {}
        for name in model.candidates:
            fitted = fit_alone(CANDIDATES[name](problem))
            parts[name] = part_of(fitted, outside.whole_pool(fitted), model.powers[name], given)
        has_answer = torch.bincount(problem.answers, minlength=4) > 0
        return mixed(parts, model.weights, has_answer).posterior.gather(1, given[:, None])[:, 0]

    known = model.problem.known
    changes = [
        whole(model.problem) - whole(model.problem.without(torch.arange(len(known)) == place))
        for place in range(len(known))
    ]
    free = np.setdiff1d(np.arange(len(given)), data.bought)
    actual, found = torch.stack(changes).numpy()[:, free], effects_of(data, model)[:, free]
    assert spearmanr(found.ravel(), actual.ravel()).statistic > 0.6


def test_bought_samples_and_samples_without_a_label_have_none() -> None:
    data = pool("uniform 40", n=60, bought=12, apart=3.0)
    given = data.evidence.given.clone()
    blank = int(np.setdiff1d(np.arange(60), data.bought)[0])
    given[blank] = -1
    data = data._replace(evidence=data.evidence._replace(given=given))
    found = effects_of(data, data.model(usable=torch.from_numpy(np.setdiff1d(np.arange(60), [blank]))))
    assert (found[:, data.bought] == 0).all()
    assert (found[:, blank] == 0).all()
    assert np.isfinite(found).all()
    assert (np.abs(found).max(1) > 0).all()


def test_samples_that_the_model_was_not_fitted_on_have_effects() -> None:
    data = pool("uniform 40", n=90, bought=12, apart=3.0)
    model = data.model(size=FitSize(rows=50))
    outside = np.setdiff1d(np.arange(90), model.problem.rows)
    assert len(outside) > 20
    assert (np.abs(effects_of(data, model)[:, outside]).max(0) > 0).all()


def test_few_labels_have_effects_on_the_plain_model_too() -> None:
    data = pool("uniform 10", n=60, bought=3, apart=3.0)
    model = data.model()
    assert [*model.candidates] == ["plain"]
    found = effects_of(data, model)
    assert found.shape == (3, 60)
    assert np.abs(found).max() > 0
