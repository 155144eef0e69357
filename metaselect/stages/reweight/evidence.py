"""Predictions and representations of the pool by the warm-up's models, for methods that need them."""

import torch

from metaselect.features.extract import last_layer_factors
from metaselect.features.files import LastLayerFactors
from metaselect.models.build import input_channels
from metaselect.records import Reporter
from metaselect.reweighting.evidence import Evidence, Space
from metaselect.run.artefacts import CHECKPOINT
from metaselect.stages.reweight.setup import ReweightSetup
from metaselect.training.batches import Batches
from metaselect.training.pool_predictions import fold_model_inputs, pool_predictions
from metaselect.training.predict import pool_inputs
from metaselect.training.saved_models import LINEAR, load_weights, recorded_model, warmup_model


def label_evidence(setup: ReweightSetup, report: Reporter, ids: torch.Tensor | None = None) -> Evidence:
    """The warm-up's predictions, and representations of the pool by models that did not see its labels.

    The features themselves for the model ``linear``; the networks of the warm-up's folds, each for its fold; without
    folds the warm-up's own network, which did see most labels.

    Args:
        setup: of the run.
        report: shows progress.
        ids: (n',) int64, for these samples alone, in their order.
    """
    run, pool = setup.run, setup.pool
    start = warmup_model(run)
    ids = torch.arange(len(pool)) if ids is None else ids
    given, all_ids = torch.from_numpy(pool.labels)[ids], torch.arange(len(ids))
    improving = start.start_epoch == start.checkpoints[-1]
    predictions = pool_predictions(run)
    if predictions is not None and start.architecture == LINEAR:
        spaces: tuple[Space, ...] = (Space(pool_inputs(_batches(setup, LINEAR)).cpu()[ids], all_ids),)
    elif predictions is not None and predictions.fold is not None:
        fold = predictions.fold[ids]
        spaces = tuple(
            Space(pool_factors(setup, path, report, ids).hidden, (fold == number).nonzero()[:, 0])
            for number, path in enumerate(fold_model_inputs(run))
        )
    else:
        probs, hidden = pool_factors(setup, CHECKPOINT.path(epoch=start.start_epoch), report, ids)
        spaces = (Space(hidden, all_ids),)
        if predictions is None:  # of a warm-up that made no table
            return Evidence(given, probs, probs, spaces, improving)
    return Evidence(given, predictions.held_out[ids], predictions.probs[ids], spaces, improving)


def pool_factors(
    setup: ReweightSetup, weights: str, report: Reporter, ids: torch.Tensor | None = None
) -> LastLayerFactors:
    """(n, K) probabilities and (n, d) representations by the network of a file below the run, on the CPU.

    Args:
        setup: of the run.
        weights: path of the file below the run.
        report: shows progress.
        ids: (n',) int64, for these samples alone, in their order.
    """
    run, pool = setup.run, setup.pool
    name, shape = warmup_model(run).architecture, pool.inputs.shape[1:]
    model = recorded_model(run, name, shape, len(pool.classes))
    load_weights(model, run.path(weights))
    model, batches = model.to(setup.device), _batches(setup, name)
    factors = last_layer_factors(model, batches, report, "representations", ids)
    return LastLayerFactors(factors.probs.float().cpu(), factors.hidden.float().cpu())


def _batches(setup: ReweightSetup, model: str) -> Batches:
    """The pool with its given labels, as a model takes it."""
    pool = setup.pool
    channels = input_channels(model, pool.inputs.shape[1:])
    return Batches(pool.inputs, pool.labels, pool.preprocess, device=setup.device, channels=channels)
