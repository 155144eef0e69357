"""Predictions for the whole pool by networks: of the checkpoint to start from, and of a model for each fold."""

from dataclasses import replace
from pathlib import Path

import torch

from metaselect.features.extract import last_layer_factors
from metaselect.features.files import LastLayerFactors
from metaselect.models.cross_fit import stratified_folds
from metaselect.models.neighbours import neighbour_count, neighbour_votes
from metaselect.random import derive_seed, generator
from metaselect.records import Reporter
from metaselect.run.artefacts import CHECKPOINT
from metaselect.run.unfinished import BEST, FOLD
from metaselect.stages.warmup.descent import Descent, saved_model
from metaselect.stages.warmup.fitted import Fitted
from metaselect.stages.warmup.plan import WarmupPlan
from metaselect.training.config import Resolved
from metaselect.training.pool_predictions import PoolPredictions
from metaselect.training.saved_models import save_model


def pool_predictions_by_descent(
    plan: WarmupPlan, resolved: Resolved, fitted: Fitted, folder: Path, report: Reporter
) -> PoolPredictions:
    """What the finished training, and one model for each fold, say about the pool.

    A fold's model has the same configuration as the main one and about as many steps. It is taken after its epoch of
    lowest cross-entropy with the fold's given labels, which choose nothing else.
    """
    pool = plan.pool
    start = folder / CHECKPOINT.within(epoch=fitted.start.epoch)
    probs = _factors(plan, resolved.model, start, torch.arange(len(pool)), report).probs
    if not plan.folds:
        return PoolPredictions(probs, None, None, fitted.wrong_events)
    labels, classes = torch.from_numpy(pool.labels), len(pool.classes)
    seed = plan.options.seed
    fold = stratified_folds(labels, plan.folds, generator(seed, "warmup", "folds"))
    out_of_fold, neighbours = torch.empty_like(probs), torch.empty_like(probs)
    for number in range(plan.folds):
        held_out = (fold == number).nonzero()[:, 0]
        best = _train_without(plan, resolved, fold, number, folder, report)
        factors = _factors(plan, resolved.model, best, held_out, report)
        out_of_fold[held_out] = factors.probs
        draw = generator(seed, "warmup", "neighbours", number)
        hidden = factors.hidden.to(plan.device)
        given = labels[held_out].to(plan.device)
        votes = neighbour_votes(hidden, given, classes, neighbour_count(int(pool.labelled.sum())), draw)
        neighbours[held_out] = votes.cpu()
    return PoolPredictions(probs, out_of_fold, neighbours, fitted.wrong_events, fold)


def _train_without(
    plan: WarmupPlan, resolved: Resolved, fold: torch.Tensor, number: int, folder: Path, report: Reporter
) -> Path:
    """Train a model without a fold; returns the file of its best epoch."""
    labelled = torch.from_numpy(plan.pool.labelled)
    ids, held_out = (
        part.nonzero()[:, 0] for part in ((fold != number) & labelled, (fold == number) & labelled)
    )
    config = resolved.config
    steps = config.epochs * config.batches_in(len(plan.train_ids))
    config = replace(
        config,
        epochs=max(round(steps / config.batches_in(len(ids))), 1),
        seed=derive_seed(plan.options.seed, "fold", number),
    )
    place = folder / FOLD.format(number=number + 1)
    descent = Descent.begin(plan, resolved.model, config, place)
    lowest = min((row.held_out_loss for row in descent.history), default=float("inf"))
    for row, _ in descent.epochs(ids, held_out, report, f"warmup without fold {number + 1} of {plan.folds}"):
        if row.held_out_loss < lowest:
            lowest = row.held_out_loss
            save_model(descent.state.model, place / BEST)  # before the state, as a checkpoint is
    return place / BEST


def _factors(
    plan: WarmupPlan, name: str, weights: Path, ids: torch.Tensor, report: Reporter
) -> LastLayerFactors:
    model, batches = saved_model(plan, name, weights)
    return last_layer_factors(model, batches, report, "warmup predictions", ids)
