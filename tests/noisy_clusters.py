"""Gaussian clusters, one a class, with given labels that went wrong in every way."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from metaselect.data.corruption import (
    asymmetric,
    background,
    flip2,
    mapped,
    next_class,
    random_derangement,
    transition_counts,
    uniform,
)
from metaselect.models.cross_fit import cross_fit
from metaselect.models.logistic_regression import fit_logistic_regression
from metaselect.reweighting.auto.label_model import FULL_SIZE, FitSize, LabelModel, fit_label_model
from metaselect.reweighting.auto.problem import Problem, make_problem
from metaselect.reweighting.evidence import Evidence, Space

NOISE: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "none": lambda y, k, draw: y.copy(),
    "uniform 10": lambda y, k, draw: uniform(y, k, 0.1, draw),
    "uniform 40": lambda y, k, draw: uniform(y, k, 0.4, draw),
    "flip2 40": lambda y, k, draw: flip2(y, k, 0.4, draw),
    "background 40": lambda y, k, draw: background(y, 1, 0.4, draw),
    "asymmetric 40": lambda y, k, draw: asymmetric(y, {0: 1, 2: 3, 3: 2}, 0.4, draw),
    "shift 60": lambda y, k, draw: mapped(y, next_class(k), 0.6, draw),
    "derangement 60": lambda y, k, draw: mapped(y, random_derangement(k, draw), 0.6, draw),
}


class Pool(NamedTuple):
    """(n,) true classes, what linear models say of the given labels, and (m,) sorted bought samples."""

    true: torch.Tensor
    evidence: Evidence
    bought: torch.Tensor
    classes: int

    @property
    def transition(self) -> torch.Tensor:
        """(K, K) shares of the given labels of each true class."""
        counts = transition_counts(self.true.numpy(), self.evidence.given.numpy(), self.classes)
        return F.normalize(torch.from_numpy(counts).float(), p=1, dim=1)

    def problem(self, answers: torch.Tensor | None = None, rows: int = 10_000) -> Problem:
        everyone = torch.arange(len(self.true))
        answers = self.true[self.bought] if answers is None else answers
        return make_problem(self.evidence, self.bought, answers, everyone, rows, stream())

    def model(
        self,
        answers: torch.Tensor | None = None,
        usable: torch.Tensor | None = None,
        size: FitSize = FULL_SIZE,
    ) -> LabelModel:
        usable = torch.arange(len(self.true)) if usable is None else usable
        answers = self.true[self.bought] if answers is None else answers
        return fit_label_model(self.evidence, self.bought, answers, usable, stream(), size)


def pool(
    noise: str = "uniform 40",
    n: int = 120,
    classes: int = 3,
    bought: int = 20,
    apart: float = 6.0,
    seed: int = 0,
) -> Pool:
    """Classes in turn; ``apart`` is each centre's distance from the origin, on an axis of its own."""
    draw = np.random.default_rng(seed)
    true = np.arange(n) % classes
    hidden = torch.from_numpy(
        (np.eye(classes)[true] * apart + draw.normal(size=(n, classes))).astype(np.float32)
    )
    given = torch.from_numpy(NOISE[noise](true, classes, draw))
    picked = torch.from_numpy(np.sort(draw.permutation(n)[:bought]))
    return Pool(torch.from_numpy(true), linear_evidence(given, hidden, classes), picked, classes)


def linear_evidence(given: torch.Tensor, hidden: torch.Tensor, classes: int) -> Evidence:
    """Of linear models of the given labels, (n,) int64, on representations, (n, d) float32."""
    targets, everyone = F.one_hot(given, classes).float(), torch.arange(len(given))
    held_out = cross_fit(hidden, targets, everyone // classes % 2, (0.01,)).log_probs.exp()
    fitted = fit_logistic_regression(hidden, targets, 0.01).log_probs(hidden).exp()
    return Evidence(given, held_out, fitted, (Space(hidden, everyone),), improving=True)


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(5)
