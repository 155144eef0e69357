"""How well each model's ranking of label issues finds the wrong labels that a truth file knows."""

import numpy as np

from metaselect.data.store import Dataset
from metaselect.metrics.auc_interval import auc_interval
from metaselect.metrics.ranking import clean_label_auc, mean_of_lowest, ranking
from metaselect.records import Json
from metaselect.run.artefacts import WEIGHTS
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet
from metaselect.stages.evaluate.truth import Truth
from metaselect.training.pool_predictions import PoolPredictions, pool_predictions


def weight_scores(run: Run, name: str, pool: Dataset, truth: Truth | None, k: int | None) -> dict[str, Json]:
    """How well the weights and the ranking of a re-weighting separate wrong labels from right ones.

    Bought and unusable samples are left out: they got their weight from people, and have no rank. So are those whose
    true class is not known.
    """
    if truth is None:
        return {"weight_auc": None, "rank_auc": None}
    columns = ["weight", "label_issue_rank", "predicted_label"]
    table = read_parquet(run, WEIGHTS, columns, name=name)
    judged = np.array(table["label_issue_rank"].is_valid()) & truth.known
    weights = table["weight"].to_numpy()[judged].astype(np.float64)
    ranks = np.array(table["label_issue_rank"].fill_null(0), np.int64)
    place = {label: number for number, label in enumerate(pool.classes)}
    predicted = np.array([place[label] for label in table["predicted_label"].to_pylist()])
    scores = _ranking_scores(ranks, predicted, judged, truth, k)
    return {"weight_auc": clean_label_auc(weights, truth.clean[judged]), **scores}


def warmup_scores(
    run: Run, names: list[str], pool: Dataset, truth: Truth | None, k: int | None
) -> dict[str, Json]:
    """The same of the warm-up, which ranks by the probability of the given label, out of fold where it has folds.

    Args:
        run: the run.
        names: of the re-weightings; samples that one of them gives no rank are left out.
        pool: the pool.
        truth: None: there is no truth file.
        k: for the precision at k.
    """
    predictions = None if truth is None else pool_predictions(run)
    if truth is None or predictions is None:
        return {"rank_auc": None}
    judged = truth.known & pool.labelled
    for name in names:
        table = read_parquet(run, WEIGHTS, ["label_issue_rank"], name=name)
        judged &= np.array(table["label_issue_rank"].is_valid())
    predicted = predictions.held_out.argmax(1).numpy()
    others: dict[str, Json] = {
        name: ranking(ranks[judged], truth.clean[judged], k)._asdict()
        for name, ranks in _rankings(predictions, pool.labels).items()
    }
    ranks = predictions.label_probs(pool.labels)
    return {**_ranking_scores(ranks, predicted, judged, truth, k), "rankings": others}


def _rankings(predictions: PoolPredictions, labels: np.ndarray) -> dict[str, np.ndarray]:
    """(n,) for every ranking of the warm-up by its column's name, the lowest for a label that is likely wrong."""
    rows = np.arange(len(labels))
    found = {
        name: values.numpy()[rows, labels]
        for name in ("probs", "out_of_fold", "neighbours")
        if (values := getattr(predictions, name)) is not None
    }
    return {**found, "wrong_events": -predictions.wrong_events.numpy()}


def _ranking_scores(
    ranks: np.ndarray, predicted: np.ndarray, judged: np.ndarray, truth: Truth, k: int | None
) -> dict[str, Json]:
    """The metrics of a ranking, and how many labels are right once the first k suggestions are followed.

    Args:
        ranks: (n,) as of ``metrics.ranking.ranking``.
        predicted: (n,) int64, the classes that the model suggests.
        judged: (n,) bool, the samples to judge by.
        truth: of the pool.
        k: how many suggestions.
    """
    found = ranking(ranks[judged], truth.clean[judged], k)
    correct = None
    if found.precision_at_k is not None:
        # A bought label stays, although a ranking that is older than it may suggest another.
        gained = np.where(truth.bought, 0, truth.right(predicted).astype(int) - truth.right(truth.current))
        gain = mean_of_lowest(ranks[judged], gained[judged], found.k)
        correct = int(truth.right(truth.current).sum()) + found.k * (gain or 0.0)
    values = found._asdict()
    auc, right = values.pop("auc"), int(truth.clean[judged].sum())
    low, high = (None, None) if auc is None else auc_interval(auc, int(judged.sum()) - right, right)
    interval = {"rank_auc_low": low, "rank_auc_high": high}
    return {"rank_auc": auc, **interval, **values, "correct_labels": correct}
