"""One training by a method, from its start to the model, its predictions and the weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from metaselect.encoders.classifier import load_body
from metaselect.models.build import input_channels
from metaselect.models.cross_fit import stratified_folds
from metaselect.models.head import head_of
from metaselect.models.predictions import Predictions
from metaselect.random import generator
from metaselect.records import Reporter
from metaselect.reweighting.base import Labels, MethodRun, Recipe, Start
from metaselect.reweighting.linear_problem import LinearProblem
from metaselect.run.artefacts import CHECKPOINT, PRETRAINED, ROBUST_MODEL
from metaselect.stages.reweight.failure_check import (
    BoughtScore,
    ModelScore,
    is_constant,
    mean_recall,
    score_on_bought,
    score_start,
)
from metaselect.stages.reweight.setup import ReweightSetup, trained_ids
from metaselect.training.batches import Batches
from metaselect.training.checkpoint import load_state, save_state
from metaselect.training.loop import TrainingConfig, final_model, start_training, train
from metaselect.training.predict import pool_inputs, predict
from metaselect.training.saved_models import LINEAR, load_weights, recorded_model
from metaselect.training.threads import limit_threads

SOLVE_FOLDS = 5  # that an exact solution's weight decay is chosen by


class ReweightRow(NamedTuple):
    """One row of ``reweight/<name>/history.csv``; the last two are on the bought samples, NaN without any."""

    epoch: int
    lr: float
    loss: float
    accuracy: float
    mean_weight: float
    zero_batches: float
    bought_loss: float
    bought_accuracy: float


class Trained(NamedTuple):
    """What a training ended in.

    Attributes:
        model: the final model.
        batches: the pool with its given labels.
        predictions: of the model for the whole pool, with its given labels.
        weights: (n,) float32 in [0, 1].
        run: the method's state at the end.
        history: one row an epoch.
        before: the score of the model that it started from.
        after: that of ``model``.
        config: with what the method's run preferred.
    """

    model: nn.Module
    batches: Batches
    predictions: Predictions
    weights: np.ndarray
    run: MethodRun
    history: list[ReweightRow]
    before: ModelScore
    after: ModelScore
    config: TrainingConfig


def train_method(
    setup: ReweightSetup,
    resume: Path,
    what: str,
    report: Reporter,
    after_epoch: Callable[[nn.Module, Batches, int, int], None] | None = None,
) -> Trained:
    """Train by the method of ``setup``, on its pool and bought labels.

    Args:
        setup: what to train, and on what.
        resume: holds the state after the last whole epoch; a training that finds it goes on from there.
        what: a word for the progress line.
        report: shows progress.
        after_epoch: called with the model, the pool, the epoch and the number of epochs, before that epoch is saved.

    Raises:
        ConditionUnmet: the training diverged.
    """
    pool, config = setup.pool, setup.resolved.config
    bought, ids = torch.from_numpy(setup.meta_set.bought), trained_ids(pool, setup.meta_set, setup.method)
    model = start_model(setup).to(setup.device)
    batches = labelled_batches(setup)
    limit_threads(model, batches, config.batch_size)
    # After a restart too: the model is not yet the one that was saved.
    before = score_start(model, batches, bought)
    draw = generator(config.seed, "reweight", "method")
    method = setup.method.begin(method_start(setup, config.epochs, draw))
    config = preferred_config(setup, method.recipe)
    method.set_epochs(config.epochs)
    if method.starts_anew and (setup.start is not None or setup.other):
        model.load_state_dict(start_model(setup._replace(start=None, other="")).state_dict())
    if setup.resolved.model == LINEAR:
        solved = _solve(setup, model, method, batches, ids, bought)
        if solved is not None:
            return _trained(setup, model, method, batches, [solved], before, config)
    state = start_training(model, config, method)
    history = [ReweightRow(**row) for row in load_state(state, resume)]
    if 0 < state.epoch < config.epochs:
        report.note(f"Going on with epoch {state.epoch + 1} of {config.epochs}.")
    epochs = train(
        state,
        batches,
        config,
        ids=ids,
        bought=bought,
        meta_batch_size=setup.meta_batch_size,
        report=report,
        what=what,
    )
    for log in epochs:
        history.append(ReweightRow(*log, *score_on_bought(final_model(state), batches, bought)))
        if after_epoch is not None:
            after_epoch(state.model, batches, log.epoch, config.epochs)
        save_state(state, history, resume)
    return _trained(setup, final_model(state), method, batches, history, before, config)


def _trained(
    setup: ReweightSetup,
    model: nn.Module,
    method: MethodRun,
    batches: Batches,
    history: list[ReweightRow],
    before: ModelScore,
    config: TrainingConfig,
) -> Trained:
    # Weights are of the given labels, so bought ones are taken out again.
    given = batches.relabelled(setup.pool.labels)
    predictions = predict(model, given, torch.arange(len(setup.pool)))
    weights = method.pool_weights(predictions).float().cpu().numpy().clip(0, 1)
    bought, labels = torch.from_numpy(setup.meta_set.bought), torch.from_numpy(setup.meta_set.labels)
    predicted = predictions.predicted.cpu()
    last = BoughtScore(history[-1].bought_loss, history[-1].bought_accuracy)
    after = ModelScore(last, mean_recall(predicted[bought], labels), is_constant(predicted))
    return Trained(model, given, predictions, weights, method, history, before, after, config)


def _solve(
    setup: ReweightSetup,
    model: nn.Module,
    method: MethodRun,
    batches: Batches,
    ids: torch.Tensor,
    bought: torch.Tensor,
) -> ReweightRow | None:
    """Put the method's exact solution into the model; None where the method has none."""
    config, classes = setup.resolved.config, len(setup.pool.classes)
    inputs = pool_inputs(batches)
    fold = stratified_folds(
        batches.labels.cpu()[ids], min(SOLVE_FOLDS, len(ids)), generator(config.seed, "reweight", "solve")
    )
    given_decay = setup.options.weight_decay
    params = method.solve(
        LinearProblem(inputs, batches.labels, classes, ids, fold, config.weight_decay, given_decay)
    )
    if params is None:
        return None
    params.copy_to(head_of(model))
    predictions = predict(model, batches, ids)
    return ReweightRow(
        1,
        0.0,
        predictions.mean_loss,
        predictions.accuracy,
        1.0,
        0.0,
        *score_on_bought(model, batches, bought),
    )


def labelled_batches(setup: ReweightSetup) -> Batches:
    """The pool with its bought labels in place, as the model takes it."""
    pool = setup.pool
    channels = input_channels(setup.resolved.model, pool.inputs.shape[1:])
    return Batches(pool.inputs, setup.labels, pool.preprocess, device=setup.device, channels=channels)


def method_start(setup: ReweightSetup, epochs: int, draw: torch.Generator) -> Start:
    """What the method of ``setup`` knows before its first step; ``draw`` is for its initial values."""
    pool, ids = setup.pool, trained_ids(setup.pool, setup.meta_set, setup.method)
    bought = torch.from_numpy(setup.meta_set.bought)
    labels = Labels(torch.from_numpy(setup.labels), len(pool.classes), ids, bought)
    truth = None if setup.truth is None else torch.from_numpy(setup.truth)
    return Start(labels, epochs, setup.resolved.config.lr, draw, setup.device, setup.evidence, truth)


def preferred_config(setup: ReweightSetup, recipe: Recipe | None) -> TrainingConfig:
    """The configuration, with what a recipe prefers where the user gave nothing."""
    config, options = setup.resolved.config, setup.options
    if recipe is None:
        return config
    config = replace(config, lr_ramp=recipe.lr_ramp)
    if options.momentum is None and options.optimiser == "sgd":
        config = replace(config, momentum=recipe.momentum)
    # With a given number of epochs, larger batches would be fewer steps.
    if options.batch_size is None and options.epochs is None and recipe.batch_size > config.batch_size:
        trained = len(trained_ids(setup.pool, setup.meta_set, setup.method))
        # A batch of the whole pool is one step an epoch, whatever its size.
        factor = min(recipe.batch_size, trained) / min(config.batch_size, trained)
        config = replace(config, batch_size=recipe.batch_size, epochs=round(config.epochs * factor))
    return config


def start_model(setup: ReweightSetup) -> nn.Module:
    """The model before its first step: of a re-weighting or of the warm-up, newly initialised, or pre-trained."""
    pool, config = setup.pool, setup.resolved.config
    model = recorded_model(
        setup.run, setup.resolved.model, pool.inputs.shape[1:], len(pool.classes), seed=config.seed
    )
    if setup.other:
        load_weights(model, setup.run.path(ROBUST_MODEL.path(name=setup.other)))
    elif setup.start is not None:
        load_weights(model, setup.run.path(CHECKPOINT.path(epoch=setup.start.start_epoch)))
    elif config.fine_tuning is not None:
        load_body(model, load_file(setup.run.path(PRETRAINED.path())))
    return model
