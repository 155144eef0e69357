"""How long a re-weighting will take with its comparison, what would be quicker, and what it holds in memory."""

import torch

from metaselect import ranks
from metaselect.data.store import preprocess_of
from metaselect.models.head import head_of
from metaselect.random import generator
from metaselect.reweighting.base import Method, MethodRun
from metaselect.reweighting.uniform import Uniform
from metaselect.run.layout import FEATURES
from metaselect.stages.reweight.cross_fit import arms, is_solved, most_epochs
from metaselect.stages.reweight.setup import ReweightSetup, trained_ids
from metaselect.stages.reweight.training import labelled_batches, method_start, start_model
from metaselect.training import duration
from metaselect.training.duration import Pace, duration_note, has_large_images, measured_pace
from metaselect.training.pool_predictions import fold_model_inputs

SAMPLE_BYTES = 250  # of memory for a sample: its id and label, the tables
PROB_COPIES = 8  # of (n, K) probabilities that are held
HIDDEN_COPIES = 4  # of (n, d) inputs of the last layer, where a model is solved


def may_be_long(setup: ReweightSetup, folds: int) -> bool:
    """Whether the training and its comparison are worth a probe; ``folds`` 0: there is no comparison."""
    epochs = sum(count for _, count in _trainings(setup, folds))
    trained = len(trained_ids(setup.pool, setup.meta_set, setup.method))
    shape = setup.pool.inputs.shape[1:]
    return epochs > 0 and duration.may_be_long(shape, epochs * trained, setup.device)


def estimated_seconds(setup: ReweightSetup, folds: int) -> float | None:
    """The seconds that training, comparison and predictions will take; None where everything is solved exactly.

    Args:
        setup: of the run.
        folds: of the comparison; 0: there is none.
    """
    trainings = _trainings(setup, folds)
    if not trainings:
        return None
    paces = {method: _pace(setup, method) for method in {_probed(method) for method, _ in trainings}}
    n, seconds = len(setup.pool), 0.0
    for method, epochs in trainings:
        pace = paces[_probed(method)]
        seconds += epochs * len(trained_ids(setup.pool, setup.meta_set, method)) * pace.training
        seconds += (n + epochs * len(setup.meta_set.bought)) * pace.prediction
    if setup.method.needs_evidence:
        networks = max(len(fold_model_inputs(setup.run)), 1)
        seconds += networks * n * paces[_probed(setup.method)].prediction
    return seconds / ranks.size()


def held_bytes(setup: ReweightSetup) -> int:
    """Bytes of arrays of all samples, as measured; more where the model of the labels or of the weights is solved."""
    n, solved = len(setup.pool), setup.method.needs_evidence or is_solved(setup, setup.method)
    hidden = head_of(start_model(setup)).in_features if solved else 0
    return n * (SAMPLE_BYTES + 4 * PROB_COPIES * len(setup.pool.classes) + 4 * HIDDEN_COPIES * hidden)


def advice(setup: ReweightSetup, folds: int, seconds: float) -> str:
    """What to say before it starts: how long it takes, and where that is long, what would be quicker."""
    shape, run, ways = setup.pool.inputs.shape[1:], setup.run, []
    if has_large_images(shape):
        has_features = FEATURES in preprocess_of(run).kinds
        ways.append(
            "a warm-up on the features that the run has (--on features)"
            if has_features
            else f"a warm-up on features of a frozen encoder (metaselect embed {run.flag})"
        )
    if folds:
        ways.append("--folds 0")
    if setup.device.type == "cpu":
        ways.append("a GPU")
    trained = len(trained_ids(setup.pool, setup.meta_set, setup.method))
    compared = " with its comparison" if folds else ""
    what = f"The training of {setup.resolved.model} by {setup.options.method}{compared} on {trained:,}"
    return duration_note(what, shape, seconds, ways)


def _trainings(setup: ReweightSetup, folds: int) -> list[tuple[Method, int]]:
    """The method and the epochs, at most, of the run and of each training in its comparison that is not solved."""
    found = [(setup.method, most_epochs(setup, setup.method, in_fold=False))]
    for _ in range(min(folds, len(setup.meta_set.bought))):
        found += [(method, most_epochs(setup, method, in_fold=True)) for method in arms(setup).values()]
    return [(method, epochs) for method, epochs in found if not is_solved(setup, method)]


def _probed(method: Method) -> Method:
    """The method whose steps are timed: plain training for one that fits other models first, and then trains so."""
    return Uniform() if method.needs_evidence else method


def _pace(setup: ReweightSetup, method: Method) -> Pace:
    """The pace of a method's steps."""
    config = setup.resolved.config
    bought = torch.from_numpy(setup.meta_set.bought)
    given = setup.meta_batch_size or None

    def begin() -> MethodRun:
        return method.begin(method_start(probed, 1, generator(config.seed, "probe")))

    probed = setup._replace(method=method)
    return measured_pace(
        start_model(setup).to(setup.device),
        labelled_batches(setup),
        config,
        begin,
        ids=trained_ids(setup.pool, setup.meta_set, method),
        bought=bought,
        meta_batch_size=method.meta_batch_size(given, config.batch_size, len(bought)),
    )
