"""The warm-up of the model ``linear``: logistic regression on the whole pool, its weight decay by cross-validation."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F

from metaselect.models.build import build_model
from metaselect.models.cross_fit import WEIGHT_DECAYS, CrossFit, cross_fit, stratified_folds
from metaselect.models.head import head_of
from metaselect.models.logistic_regression import LinearParams, fit_logistic_regression
from metaselect.models.neighbours import neighbour_count, neighbour_votes
from metaselect.random import generator
from metaselect.ranks import by_first
from metaselect.run.artefacts import CHECKPOINT
from metaselect.stages.warmup.fitted import Fitted, WarmupRow
from metaselect.stages.warmup.plan import WarmupPlan
from metaselect.training.batches import Batches
from metaselect.training.pool_predictions import PoolPredictions
from metaselect.training.predict import pool_inputs
from metaselect.training.saved_models import LINEAR, save_model

ONLY_EPOCH = 1  # under which the solution is kept


class LinearFit(NamedTuple):
    """The solution of a pool.

    Attributes:
        inputs: (n, d) float32, normalised.
        labels: (n,) int64, -1 where a sample has none.
        targets: (n, K) float32, 1 at the given label; rows of 0 are not fitted.
        params: of the whole pool.
        crossed: the chosen weight decay, and out-of-fold predictions.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    params: LinearParams
    crossed: CrossFit

    def fitted(self) -> Fitted:
        """Its name, history and weight decay; the wrong events are those of the out-of-fold predictions."""
        log_probs = self.params.log_probs(self.inputs)
        labelled = self.labels >= 0
        loss = float(-(self.targets * log_probs).sum(1)[labelled].double().mean())
        row = WarmupRow(
            ONLY_EPOCH,
            0.0,
            loss,
            self._accuracy(log_probs),
            self.crossed.loss,
            self._accuracy(self.crossed.log_probs),
        )
        wrong = (self.crossed.log_probs.argmax(1) != self.labels) & labelled
        return Fitted(LINEAR, [row], [ONLY_EPOCH], wrong.float().cpu(), self.crossed.weight_decay)

    def pool_predictions(self, plan: WarmupPlan) -> PoolPredictions:
        """What it says about the pool; neighbours are those by the normalised features, in the whole pool."""
        probs, wrong_events = self.params.log_probs(self.inputs).exp().cpu(), self.fitted().wrong_events
        if not plan.crossed:
            return PoolPredictions(probs, None, None, wrong_events)
        draw, count = generator(plan.options.seed, "warmup", "neighbours"), int((self.labels >= 0).sum())
        votes = neighbour_votes(self.inputs, self.labels, self.targets.shape[1], neighbour_count(count), draw)
        return PoolPredictions(probs, self.crossed.log_probs.exp().cpu(), votes.cpu(), wrong_events)

    def held_out_losses(self, plan: WarmupPlan) -> torch.Tensor:
        """Cross-entropy of each held-out sample by a fit to the others, with the chosen weight decay."""
        inputs, targets = self.inputs[plan.train_ids], self.targets[plan.train_ids]
        params = fit_logistic_regression(inputs, targets, self.crossed.weight_decay)
        log_probs = params.log_probs(self.inputs[plan.held_out])
        return -(self.targets[plan.held_out] * log_probs).sum(1)

    def _accuracy(self, log_probs: torch.Tensor) -> float:
        return float((log_probs.argmax(1) == self.labels)[self.labels >= 0].double().mean())


def solve(plan: WarmupPlan) -> LinearFit:
    """Fit ``linear`` to the whole pool; its held-out values are those of cross-validation."""
    pool = plan.pool
    batches = Batches(
        pool.inputs, pool.labels, pool.preprocess, device=plan.device, channels=pool.inputs.shape[1]
    )
    inputs = pool_inputs(batches)
    labels = batches.labels
    targets = F.one_hot(labels.clamp(min=0), len(pool.classes)).to(inputs.dtype) * (labels >= 0)[:, None]
    draw = generator(plan.options.seed, "warmup", "folds")
    fold = stratified_folds(torch.from_numpy(pool.labels), plan.linear_folds, draw)
    given = plan.options.weight_decay
    crossed = cross_fit(inputs, targets, fold, WEIGHT_DECAYS if given is None else (given,))
    params = fit_logistic_regression(inputs, targets, crossed.weight_decay)
    return LinearFit(inputs, labels, targets, params, crossed)


def save_solution(linear: LinearFit, plan: WarmupPlan, folder: Path) -> None:
    """Make the solution the only checkpoint in ``folder``."""
    pool = plan.pool
    model = build_model(LINEAR, pool.inputs.shape[1:], len(pool.classes), seed=0)
    linear.params.copy_to(head_of(model))
    by_first(partial(_remove_checkpoints, folder))  # of the model that it was compared with
    save_model(model, folder / CHECKPOINT.within(epoch=ONLY_EPOCH))


def _remove_checkpoints(folder: Path) -> None:
    for path in folder.glob(CHECKPOINT.within(epoch="*")):
        path.unlink()
