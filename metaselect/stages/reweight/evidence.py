"""Predictions and representations of the pool by the warm-up's models, for methods that need them."""

import torch

from metaselect.features.extract import last_layer_factors
from metaselect.models.build import build_model, input_channels
from metaselect.records import Reporter
from metaselect.reweighting.evidence import Evidence, Space
from metaselect.run.artefacts import CHECKPOINT
from metaselect.stages.reweight.setup import ReweightSetup
from metaselect.training.batches import Batches
from metaselect.training.pool_predictions import fold_model_inputs, pool_predictions
from metaselect.training.predict import EVALUATION_BATCH
from metaselect.training.saved_models import LINEAR, load_weights, warmup_model


def label_evidence(setup: ReweightSetup, report: Reporter) -> Evidence:
    """The warm-up's predictions, and representations of the pool by models that did not see its labels.

    The features themselves for the model ``linear``; the networks of the warm-up's folds, each for its fold; without
    folds the warm-up's own network, which did see most labels.
    """
    run, pool = setup.run, setup.pool
    start = warmup_model(run)
    given, all_ids = torch.from_numpy(pool.labels), torch.arange(len(pool))
    predictions = pool_predictions(run)
    if predictions is not None and start.architecture == LINEAR:
        spaces: tuple[Space, ...] = (Space(normalised_features(setup).cpu(), all_ids),)
    elif predictions is not None and predictions.fold is not None:
        fold = predictions.fold
        spaces = tuple(
            Space(_factors(setup, path, report)[1], (fold == number).nonzero()[:, 0])
            for number, path in enumerate(fold_model_inputs(run))
        )
    else:
        probs, hidden = _factors(setup, CHECKPOINT.path(epoch=start.start_epoch), report)
        spaces = (Space(hidden, all_ids),)
        if predictions is None:  # of a warm-up that made no table
            return Evidence(given, probs, probs, spaces)
    return Evidence(given, predictions.held_out, predictions.probs, spaces)


def normalised_features(setup: ReweightSetup) -> torch.Tensor:
    """(n, d) float32 on the device, the features as a model gets them."""
    pool = setup.pool
    batches = Batches(pool.inputs, pool.labels, pool.preprocess, device=setup.device, channels=1)
    chunks = torch.split(torch.arange(len(pool)), EVALUATION_BATCH)
    return torch.cat([batch.inputs.flatten(1) for _, batch in batches.stream(chunks)])


def _factors(setup: ReweightSetup, weights: str, report: Reporter) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, K) probabilities and (n, d) representations by the network of a file below the run, on the CPU."""
    run, pool = setup.run, setup.pool
    name, shape = warmup_model(run).architecture, pool.inputs.shape[1:]
    model = build_model(name, shape, len(pool.classes), seed=0)
    load_weights(model, run.path(weights))
    channels = input_channels(name, shape)
    batches = Batches(pool.inputs, pool.labels, pool.preprocess, device=setup.device, channels=channels)
    factors = last_layer_factors(model.to(setup.device), batches, report, "representations")
    return factors.probs.float().cpu(), factors.hidden.float().cpu()
