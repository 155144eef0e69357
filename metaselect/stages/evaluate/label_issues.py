"""How well each model's ranking of label issues finds the wrong labels that a truth file knows."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from metaselect.annotation.formats.csv import read_truth
from metaselect.data.classes import class_form
from metaselect.data.store import Dataset
from metaselect.errors import DataError
from metaselect.metrics import clean_label_auc, ranking
from metaselect.records import Json
from metaselect.run.artefacts import WEIGHTS
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet
from metaselect.training.pool_predictions import pool_predictions


def weight_scores(
    run: Run, name: str, pool: Dataset, truth: np.ndarray | None, k: int | None
) -> dict[str, Json]:
    """How well the weights and the ranking of a re-weighting separate wrong labels from right ones.

    Bought and unusable samples are left out: they got their weight from people, and have no rank.
    """
    if truth is None:
        return {"weight_auc": None, "rank_auc": None}
    table = read_parquet(run, WEIGHTS, ["weight", "label_issue_rank"], name=name)
    ranked = np.array(table["label_issue_rank"].is_valid())
    clean = (pool.labels == truth)[ranked]
    weights = table["weight"].to_numpy()[ranked].astype(np.float64)
    ranks = np.array(table["label_issue_rank"].drop_null(), np.int64)
    return {"weight_auc": clean_label_auc(weights, clean), **ranking_scores(ranks, clean, k)}


def warmup_scores(
    run: Run, names: list[str], pool: Dataset, truth: np.ndarray | None, k: int | None
) -> dict[str, Json]:
    """The same of the warm-up, which ranks by the probability of the given label, out of fold where it has folds.

    Args:
        run: the run.
        names: of the re-weightings; samples that one of them gives no rank are left out.
        pool: the pool.
        truth: (n,) int64 true classes; None: they are not known.
        k: for the precision at k.
    """
    predictions = None if truth is None else pool_predictions(run)
    if truth is None or predictions is None:
        return {"rank_auc": None}
    ranked = np.ones(len(pool), bool)
    for name in names:
        table = read_parquet(run, WEIGHTS, ["label_issue_rank"], name=name)
        ranked &= np.array(table["label_issue_rank"].is_valid())
    label_prob = predictions.label_probs(pool.labels)
    return ranking_scores(label_prob[ranked], (pool.labels == truth)[ranked], k)


def ranking_scores(ranks: np.ndarray, clean: np.ndarray, k: int | None) -> dict[str, Json]:
    """The metrics of a ranking as JSON values; arguments of ``metrics.ranking``."""
    found = ranking(ranks, clean, k)._asdict()
    return {"rank_auc": found.pop("auc"), **found}


def true_labels(path: Path, pool: Dataset) -> np.ndarray:
    """(n,) int64 true classes of the pool.

    Raises:
        DataError: a sample is not in the truth file, or its label is no class.
    """
    truth: Mapping[str, str] = {
        name: class_form(label) for name, label in read_truth(path.read_bytes(), str(path)).items()
    }
    missing = [sample_id for sample_id in pool.sample_ids if sample_id not in truth]
    if missing:
        raise DataError(
            f"{path} has no clean_label for {len(missing)} of {len(pool)} samples, e.g. {missing[0]}.",
            "Use the truth file of the data set that was ingested.",
        )
    position = {name: index for index, name in enumerate(pool.classes)}
    strange = sorted({truth[sample_id] for sample_id in pool.sample_ids} - set(position))
    if strange:
        raise DataError(
            f"{path} holds the label {strange[0]!r}, which is no class of the run.",
            f"The classes are {', '.join(pool.classes[:20])}.",
        )
    return np.array([position[truth[sample_id]] for sample_id in pool.sample_ids], np.int64)
