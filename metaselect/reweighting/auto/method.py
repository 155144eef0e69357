"""`auto`, the default: training with posteriors by a model of the labels, or plain where nothing favours a correction.

The model of the labels (``label_model``) gives the posterior R_i of every sample's class. The target of sample i is

    t_ik ~ R_ik^s (p_ik T_k,g_i)^(1 - s),

with p the network's softmax of this step. The second factor alone is the forward correction of Patrini et al. 2017
(arXiv:1609.03683), whose gradient it gives; the first is a prior that training does not change.
Where no candidate predicts bought labels and their given ones better than plain by more than a standard error, training
is plain, with the bought labels in place and the options of ``uniform``.

Where the smallest class has less than a tenth of the largest one's share, logits are trained with the logarithm of the
class shares added (balanced softmax: Ren et al. 2020, arXiv:2007.10740; logit adjustment: Menon et al. 2021,
arXiv:2007.07314), so that the model is for classes of equal frequency. The shares are those of the labels that are
trained on: corrected ones, or the labels as they are where training is plain.

The weight is the posterior probability that the given label is right, from the mean of the network's predictions in the
last three quarters of the epochs. It is from the model of the labels alone where training was plain, or where the
network predicts given labels more often, by a tenth of the samples, than models that were not trained on them.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.logistic_regression import LinearParams
from metaselect.models.parameters import Params
from metaselect.models.predictions import Predictions
from metaselect.records import MOST_ROWS, Json, matrix_rows
from metaselect.reweighting.auto.label_effects import label_effects
from metaselect.reweighting.auto.label_model import LEAST_BOUGHT, LabelModel, fit_label_model
from metaselect.reweighting.auto.transition import answered, given_likelihood, posterior
from metaselect.reweighting.base import (
    REFITS,
    Method,
    MethodRun,
    Recipe,
    Start,
    State,
    StepObjective,
    equal_weights,
    require_option,
    strip_prefix,
)
from metaselect.reweighting.evidence import Evidence
from metaselect.reweighting.label_effects import LabelEffects
from metaselect.reweighting.linear_problem import LinearProblem

PRIORS = ("auto", "given", "balanced")
TAIL = 10  # the largest class to the smallest, above which classes are balanced
LEAST_PROB = 1e-4  # of T and R in logarithms
LEAST_SHARE = 0.01  # of a class's samples, for a cell of T to be listed where there are many classes
FIRST_QUARTER = 0.25  # of the epochs, whose predictions are not averaged
MEMORISED = 0.1  # share of samples whose given label is predicted, above that of models not trained on it
LR_RAMP = (
    0.05  # of the steps of a training that starts anew, which without it could end at once in a constant
)
RELEARNT = 0.5  # of the samples have another class by the warm-up, which learnt the wrong ones


@dataclass(frozen=True)
class Auto(Method):
    """Hyper-parameters.

    Attributes:
        share: s, how much of a target comes from the model of the labels, and not from the network; in [0, 1].
        ema: judge and save an average of the parameters that keeps this share a step; 0: none.
        priors: frequencies of the classes that the model is for: "given" (those of the pool), "balanced" (equal ones),
            or "auto": balanced where the largest class has more than ten times the share of the smallest.
    """

    share: float = 0.5
    ema: float = 0.99
    priors: str = "auto"
    weight_kind: ClassVar[str] = "posterior"
    needs_evidence: ClassVar[bool] = True
    solves_linear: ClassVar[bool] = True
    trace: ClassVar[str] = REFITS
    recipe: ClassVar[Recipe] = Recipe(momentum=0.9, batch_size=64)  # of some corrected trainings

    def __post_init__(self) -> None:
        require_option(self, "share", "from 0 to 1", holds=0 <= self.share <= 1)
        require_option(self, "ema", "at least 0 and below 1", holds=0 <= self.ema < 1)
        if self.priors not in PRIORS:
            raise UsageError(f"--option priors={self.priors} is not known.", f"One of {', '.join(PRIORS)}.")

    def begin(self, start: Start) -> "AutoRun":
        """The model of the labels, and no step yet."""
        evidence, labels = start.evidence, start.labels
        assert evidence is not None  # it is needed
        answers = labels.given[labels.bought]
        model = fit_label_model(evidence, labels.bought, answers, labels.trained, start.generator)
        return AutoRun(self, start, evidence, model)


def corrected_targets(
    log_probs: torch.Tensor, prior: torch.Tensor, transition: torch.Tensor, given: torch.Tensor, share: float
) -> torch.Tensor:
    """(B, K) targets t_ik ~ R_ik^s (p_ik T_k,g_i)^(1 - s), without a graph.

    Args:
        log_probs: (B, K) log p.
        prior: (B, K) R.
        transition: (K, K) T.
        given: (B,) int64; -1: none.
        share: s.
    """
    own = log_probs.detach() + given_likelihood(transition, given).clamp(min=LEAST_PROB).log()
    return (share * prior.clamp(min=LEAST_PROB).log() + (1 - share) * own).softmax(1)


class AutoRun(MethodRun):
    """The posterior of every sample, the network's mean predictions, and averaged parameters."""

    def __init__(self, method: Auto, start: Start, evidence: Evidence, model: LabelModel) -> None:
        self.method, self.model, self.epochs, self.evidence = method, model, start.epochs, evidence
        labels = start.labels
        targets = model.posterior.clone()
        targets[labels.bought] = answered(targets[labels.bought], labels.given[labels.bought])
        shares = targets[labels.trained].mean(0).clamp(min=1 / start.n)
        # A class without a sample is no tail: nothing holds its probability, which must not be raised.
        counts = torch.bincount(labels.given[labels.trained], minlength=len(shares))
        occurs = counts > 0
        tail = float(shares[occurs].max() / shares[occurs].min()) > TAIL
        self.balanced = method.priors == "balanced" or (method.priors == "auto" and tail)
        # Of the labels that are trained on: wrong ones make rare classes more frequent, and plain training keeps them.
        trained_on = shares if model.corrects else counts / counts.sum()
        log_shares = torch.where(occurs, trained_on.log(), 0.0) if self.balanced else torch.zeros_like(shares)
        self.log_shares = log_shares.to(start.device)
        self.trained = labels.trained
        self.bought = torch.zeros(start.n, dtype=torch.bool)
        self.bought[labels.bought] = True
        self.is_bought = self.bought.to(start.device)
        self.targets = targets.to(start.device)
        self.transition = model.transition.to(start.device)
        self.given = evidence.given.to(start.device)
        self.summed = torch.zeros_like(self.targets)
        self.visits = torch.zeros(start.n, device=start.device)
        self.average: Params = {}
        self.updates = self.epoch = 0

    @property
    def starts_anew(self) -> bool:
        """Whether the warm-up learnt other classes than the true ones, so that training must not start from it."""
        other = self.model.probs.argmax(1) != self.evidence.fitted.argmax(1)
        return self.model.corrects and float(other[self.trained].float().mean()) > RELEARNT

    @property
    def recipe(self) -> Recipe | None:
        """Momentum and larger batches for a corrected training that starts anew, or where the warm-up still improved.

        Where the warm-up's held-out loss rose before its end, momentum would learn wrong labels that no correction
        reaches by heart. Plain training is always that of ``uniform``.
        """
        if self.starts_anew:
            return self.method.recipe._replace(lr_ramp=LR_RAMP)
        return self.method.recipe if self.model.corrects and self.evidence.improving else None

    def set_epochs(self, epochs: int) -> None:
        """Keep the number, for the quarter of the epochs whose predictions are not averaged."""
        self.epochs = epochs

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights, and cross-entropy with the corrected targets, or with the labels as they are."""
        if self.method.ema and self.model.corrects and not self.average:
            self.average = {name: value.detach().clone() for name, value in forward.params.items()}
        log_probs = F.log_softmax(forward.logits + self.log_shares, 1)
        if self.epoch >= FIRST_QUARTER * self.epochs:
            self.summed.index_add_(0, ids, log_probs.detach().exp().to(self.summed.dtype))
            self.visits.index_add_(0, ids, torch.ones_like(self.visits[ids]))
        if not self.model.corrects:
            losses = F.nll_loss(log_probs, forward.batch.labels, reduction="none")
            return StepObjective(equal_weights(ids), losses=losses)
        targets = corrected_targets(
            log_probs, self.targets[ids], self.transition, self.given[ids], self.method.share
        )
        # The target of a bought sample does not depend on the network, which could else undo a bought label.
        targets = torch.where(self.is_bought[ids, None], self.targets[ids], targets)
        return StepObjective(equal_weights(ids), losses=-(targets * log_probs).sum(1))

    def after_step(self, params: Params) -> None:
        """Move the average, in larger steps at first."""
        self.updates += 1
        share = min(self.method.ema, (1 + self.updates) / (10 + self.updates))
        for name, value in self.average.items():
            value.lerp_(params[name].detach(), 1 - share)

    def epoch_end(self, epoch: int) -> None:
        """Count the epochs."""
        self.epoch = epoch

    def averaged(self) -> Params | None:
        """The average, if there is one."""
        return self.average or None

    def solve(self, problem: LinearProblem) -> LinearParams:
        """Logistic regression on the posteriors, or on the labels as they are."""
        params = problem.fit(self.targets) if self.model.corrects else problem.fit_labels()
        return LinearParams(params.weight, params.bias - self.log_shares)

    def pool_weights(self, predictions: Predictions) -> torch.Tensor:
        """The posterior probability of the given label."""
        return self.pool_posterior(predictions).gather(1, self.given.clamp(min=0)[:, None])[:, 0]

    def pool_posterior(self, predictions: Predictions) -> torch.Tensor:
        """The posterior, from the network's mean predictions or from the model of the labels alone."""
        prior = self.model.posterior.to(self.targets.device)
        seen = self.visits > 0
        mean = torch.where(seen[:, None], self.summed / self.visits.clamp(min=1)[:, None], prior)
        use = seen & self.model.corrects & (self._memorised(mean, seen) <= MEMORISED)
        return torch.where(use[:, None], posterior(mean, self.transition, self.given), prior)

    def label_effects(self) -> LabelEffects:
        """On the posterior of the given label by the model of the labels alone."""
        given = self.evidence.given
        weights = self.model.posterior.gather(1, given.clamp(min=0)[:, None])[:, 0]
        return LabelEffects(torch.where(given >= 0, weights, 0.0), label_effects(self.model, self.evidence))

    def _memorised(self, mean: torch.Tensor, seen: torch.Tensor) -> float:
        """The share of given labels that the network predicts, less that of models not trained on them."""
        if not seen.any():
            return 0.0
        hits = (mean.argmax(1) == self.given)[seen].float().mean()
        held_out = (self.evidence.probs.argmax(1) == self.evidence.given)[seen.cpu()].float().mean()
        return float(hits) - float(held_out)

    def describe(self) -> dict[str, Json]:
        """The candidates' weights, the estimated T and share of wrong labels, and what they decide."""
        weights: dict[str, Json] = dict(self.model.weights)
        likelihood: dict[str, Json] = dict(self.model.log_likelihood)
        estimated = self.model.estimated.cpu()
        if len(estimated) > MOST_ROWS:  # the prior leaves no cell empty
            estimated = F.threshold(estimated, LEAST_SHARE, 0)
        return {
            "corrects": self.model.corrects,
            "candidates": weights,
            "log_likelihood": likelihood,
            "wrong_share": self.model.wrong_share,
            "transition": matrix_rows(estimated.numpy()),
            "starts_anew": self.starts_anew,
            "balanced": self.balanced,
        }

    def sentence(self) -> str:
        """The same in words."""
        plain = f"training is plain{', with the bought labels in place' if self.bought.any() else ''}"
        if self.balanced:
            plain += ", for classes of equal frequency (--option priors=given: of the pool's)"
        if self.bought.sum() < LEAST_BOUGHT:
            return f"Given labels are corrected from {LEAST_BOUGHT} bought labels on: {plain}."
        if not self.model.log_likelihood:
            return f"Too few classes have two bought labels, which show how given ones go wrong: {plain}."
        if not self.model.corrects:
            return f"The bought labels do not favour a correction of the given ones: {plain}."
        return (
            f"{self.model.wrong_share:.0%} of the given labels are wrong by the model of the labels "
            f"(mostly its candidate {self.model.chosen}): training uses corrected labels."
        )

    def state_dict(self) -> State:
        """Mean predictions and averaged parameters; the model of the labels is fitted anew."""
        return {
            "summed": self.summed,
            "visits": self.visits,
            "counts": torch.tensor([self.updates, self.epoch]),
            **{f"average.{name}": value for name, value in self.average.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from a saved state."""
        device = self.targets.device
        self.summed, self.visits = state["summed"].to(device), state["visits"].to(device)
        self.updates, self.epoch = (int(value) for value in state["counts"])
        self.average = {
            name: value.to(device).clone() for name, value in strip_prefix(state, "average.").items()
        }
