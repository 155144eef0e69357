"""Cross-fitting over the bought labels: each is predicted by models that were trained without that sample.

Source: Chernozhukov et al. 2018, "Double/debiased machine learning", The Econometrics Journal 21 (1), C1-C68: fit on
the other folds, evaluate on this one.
Differs: the samples that were not bought are in every fold, but for a random part of each fold that is kept out too, so
that there are predictions of samples without a bought label that are made in the same way.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from metaselect.annotation.meta_set import MetaSet
from metaselect.errors import ConditionUnmet
from metaselect.models.cross_fit import stratified_folds
from metaselect.random import generator
from metaselect.records import Reporter
from metaselect.registry import BASELINE, REWEIGHTERS, configure
from metaselect.reweighting.base import Method
from metaselect.run.files import read_json, write_json
from metaselect.run.unfinished import RESUME
from metaselect.stages.reweight.setup import ReweightSetup, trained_ids
from metaselect.stages.reweight.training import Trained, preferred_config, train_method
from metaselect.training.pool_predictions import PoolPredictions, pool_predictions
from metaselect.training.predict import predict
from metaselect.training.saved_models import LINEAR

FEWEST = 4  # bought labels; with fewer, a fold would hold one
KEPT_OUT_SHARE, KEPT_OUT = 0.1, 500  # of the samples that were not bought, in each fold, at most


class ArmPrediction(NamedTuple):
    """A model's prediction of one sample.

    Attributes:
        predicted: the most probable class.
        prob: the probability of its bought label; without one, of the given label.
        given_prob: the probability of its given label.
        weight: of its given label, by the method; 1 for the warm-up, which has no weights.
    """

    predicted: int
    prob: float
    given_prob: float
    weight: float = 1.0


class CrossFitRow(NamedTuple):
    """One row of ``cross_fit.csv``; ``clean_label`` and each ``prob`` are empty for a sample that was not bought.

    The columns of the warm-up are empty where the run did not start from it.
    """

    sample_id: str
    given_label: str
    clean_label: str
    fold: int
    warmup_predicted: str
    warmup_prob: float | str
    warmup_given_prob: float | str
    baseline_predicted: str
    baseline_prob: float | str
    baseline_given_prob: float | str
    method_predicted: str
    method_prob: float | str
    method_given_prob: float | str


class CrossFitted(NamedTuple):
    """What cross-fitting gave: the rows of ``cross_fit.csv``, and the method's weight of each row's given label."""

    rows: list[CrossFitRow]
    weights: list[float]


class Fold(NamedTuple):
    """Samples of one fold, (m',) and (r,) int64 pool indices: bought ones, and others that are kept out with them."""

    number: int
    bought: np.ndarray
    others: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        """All of them, the bought ones first."""
        return np.concatenate([self.bought, self.others])


def reason_without(setup: ReweightSetup, folds: int) -> str:
    """Why there is no comparison, as a sentence; empty where there is one."""
    bought = len(setup.meta_set.bought)
    if setup.other:
        return f"No comparison with plain training: the model of {setup.other} has learnt every bought label."
    if not folds:
        return "No comparison with plain training, because of --folds 0."
    if bought < FEWEST:
        return f"No comparison with plain training: it takes {FEWEST} bought labels, and there are {bought}."
    trainings = [
        without(setup, method, fold) for fold in split(setup, folds) for method in arms(setup).values()
    ]
    left = min(len(trained_ids(each.pool, each.meta_set, each.method)) for each in trainings)
    if left < max(setup.resolved.config.accumulate, 1):
        return f"No comparison with plain training: without a fold there are {left} samples to train on."
    return ""


def fold_epochs(setup: ReweightSetup) -> int:
    """Epochs of each training: the run's over the number of folds, so that all folds cost as much as the run.

    Before the method's recipe, which may raise both.
    """
    return max(setup.resolved.config.epochs // max(setup.options.folds, 1), 1)


def most_epochs(setup: ReweightSetup, method: Method, *, in_fold: bool) -> int:
    """Epochs of one training, in a fold or of the run itself, with the recipe that the method may prefer."""
    config = setup.resolved.config
    if in_fold:
        config = replace(config, epochs=fold_epochs(setup))
    fitted = setup._replace(resolved=replace(setup.resolved, config=config))
    return preferred_config(fitted, method.recipe).epochs


def arms(setup: ReweightSetup) -> dict[str, Method]:
    """The methods that are trained on each fold; the baseline alone where the method is the baseline."""
    baseline: Method = configure(REWEIGHTERS[BASELINE], [])
    return (
        {"baseline": baseline} if setup.method == baseline else {"baseline": baseline, "method": setup.method}
    )


def is_solved(setup: ReweightSetup, method: Method) -> bool:
    """Whether its model is found exactly, without epochs."""
    return setup.resolved.model == LINEAR and method.solves_linear


def comparison_epochs(setup: ReweightSetup, folds: int) -> int:
    """Epochs of all trainings of the comparison together, at most."""
    trained = [method for method in arms(setup).values() if not is_solved(setup, method)]
    epochs = sum(most_epochs(setup, method, in_fold=True) for method in trained)
    return min(folds, len(setup.meta_set.bought)) * epochs


def cost(setup: ReweightSetup, folds: int) -> str:
    """What the comparison costs, as a sentence."""
    count = min(folds, len(setup.meta_set.bought))
    names = {"baseline": BASELINE, "method": "the method"}
    parts = [
        f"{count} exact solutions of {names[arm]}"
        if is_solved(setup, method)
        else f"{count} trainings of {_epochs(setup, method, in_fold=True)} of {names[arm]}"
        for arm, method in arms(setup).items()
    ]
    solved = is_solved(setup, setup.method)
    run = "run" if solved else f"{_epochs(setup, setup.method, in_fold=False)} of the run"
    return (
        f"For the comparison with plain training, {' and '.join(parts)} follow the {run} (--folds 0: none)."
    )


def _epochs(setup: ReweightSetup, method: Method, *, in_fold: bool) -> str:
    """How many epochs a training takes, in words."""
    most = most_epochs(setup, method, in_fold=in_fold)
    usual = fold_epochs(setup) if in_fold else setup.resolved.config.epochs
    count = f"{usual}" if most == usual else f"{usual} to {most}"
    return f"{count} epoch{'' if count == '1' else 's'}"


def cross_fit(
    setup: ReweightSetup, folds: int, work: Path, name: str, report: Reporter
) -> CrossFitted | None:
    """The predictions by fold; None where a training diverged, which is said.

    Args:
        setup: of the run that is compared.
        folds: how many, at least 2; each has a bought sample.
        work: a folder for what an interrupted command has done; finished trainings are not repeated.
        name: of the run.
        report: shows progress.
    """
    parts = split(setup, folds)
    warm = None if setup.start is None else pool_predictions(setup.run)
    rows: list[CrossFitRow] = []
    weights: list[float] = []
    for part in parts:
        found: dict[str, list[ArmPrediction] | None] = {"warmup": _warmup_predictions(setup, warm, part)}
        for arm, method in arms(setup).items():
            what = f"comparison of {name}, {arm} {part.number} of {len(parts)}"
            try:
                found[arm] = _predictions(setup, method, part, work / f"{arm}-{part.number}", what, report)
            except ConditionUnmet as error:
                report.warn(f"No comparison with plain training: {what}: {error}")
                return None
        found.setdefault("method", found["baseline"])
        rows += _rows(setup, part, found)
        weights += [each.weight for each in found["method"] or ()]
    return CrossFitted(rows, weights)


def split(setup: ReweightSetup, folds: int) -> list[Fold]:
    """The folds: bought samples stratified by class, and disjoint random others that have a given label."""
    meta_set, seed = setup.meta_set, setup.resolved.config.seed
    draw = generator(seed, "reweight", "folds")
    number = stratified_folds(torch.from_numpy(meta_set.labels), folds, draw).numpy()
    rest = setup.pool.labelled.copy()
    rest[meta_set.bought] = rest[meta_set.unusable] = False
    others = torch.from_numpy(rest.nonzero()[0])
    order = torch.randperm(len(others), generator=generator(seed, "reweight", "kept out"))
    count = min(int(KEPT_OUT_SHARE * len(others)), KEPT_OUT, len(others) // (folds + 1))
    kept_out = others[order[: count * folds]].numpy().reshape(folds, count)
    return [
        Fold(place + 1, meta_set.bought[number == place], np.sort(kept_out[place]))
        for place in range(folds)
        if (number == place).any()
    ]


def without(setup: ReweightSetup, method: Method, fold: Fold) -> ReweightSetup:
    """The setup of a training that never sees the samples of a fold: neither as bought ones nor in the pool."""
    meta_set, config = setup.meta_set, setup.resolved.config
    stays = ~np.isin(meta_set.bought, fold.bought)
    # As unusable ones, which no training sees.
    left_out = np.union1d(meta_set.unusable, fold.ids)
    size = method.meta_batch_size(setup.meta_batch_size or None, config.batch_size, int(stays.sum()))
    return setup._replace(
        method=method,
        meta_set=MetaSet(meta_set.bought[stays], meta_set.labels[stays], left_out),
        resolved=replace(setup.resolved, config=replace(config, epochs=fold_epochs(setup))),
        meta_batch_size=size,
    )


def _predictions(
    setup: ReweightSetup, method: Method, fold: Fold, work: Path, what: str, report: Reporter
) -> list[ArmPrediction]:
    """Of a model that is trained without the fold, for its samples; from ``work`` where they are there already."""
    done = work / "predictions.json"
    if not done.is_file():
        work.mkdir(parents=True, exist_ok=True)
        trained = train_method(without(setup, method, fold), work / RESUME, what, report)
        write_json(done, [list(each) for each in _predict(setup, trained, fold)])
        (work / RESUME).unlink(missing_ok=True)
    return [ArmPrediction(*each) for each in read_json(done, "Run the same command again with --force.")]


def _warmup_predictions(
    setup: ReweightSetup, predictions: PoolPredictions | None, fold: Fold
) -> list[ArmPrediction] | None:
    """Of the warm-up, which saw no bought label; None where the run did not start from it."""
    if predictions is None:
        return None
    columns = (
        predictions.held_out.argmax(1)[fold.ids].tolist(),
        predictions.label_probs(setup.labels)[fold.ids].tolist(),
        predictions.label_probs(setup.pool.labels)[fold.ids].tolist(),
    )
    return [ArmPrediction(*each) for each in zip(*columns, strict=True)]


def _predict(setup: ReweightSetup, trained: Trained, fold: Fold) -> list[ArmPrediction]:
    """A training's predictions of a fold's samples, and its weights."""
    model, batches, ids = trained.model, trained.batches, torch.from_numpy(fold.ids)
    given, labelled = predict(model, batches, ids), predict(model, batches.relabelled(setup.labels), ids)
    weights = torch.from_numpy(trained.weights)[ids]
    columns = (given.predicted, labelled.label_prob, given.label_prob, weights)
    return [ArmPrediction(*each) for each in zip(*(column.cpu().tolist() for column in columns), strict=True)]


def _rows(
    setup: ReweightSetup, fold: Fold, found: Mapping[str, list[ArmPrediction] | None]
) -> list[CrossFitRow]:
    pool, rows = setup.pool, []
    given_names = pool.label_names()
    for place, index in enumerate(fold.ids.tolist()):
        bought = place < len(fold.bought)
        cells: list[str | float] = []
        for predictions in found.values():
            if predictions is None:
                cells += ["", "", ""]
            else:
                predicted, prob, given_prob, _ = predictions[place]
                cells += [pool.classes[predicted], prob if bought else "", given_prob]
        clean = pool.classes[setup.labels[index]] if bought else ""
        names = (pool.sample_ids[index], given_names[index] or "", clean)
        rows.append(CrossFitRow(*names, fold.number, *cells))  # type: ignore[arg-type]
    return rows
