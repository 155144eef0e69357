"""How well each model's ranking of label issues finds the wrong labels that a truth file knows."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaselect.annotation.formats.csv import read_truth
from metaselect.data.store import Dataset
from metaselect.errors import DataError
from metaselect.metrics.ranking import clean_label_auc, ranking
from metaselect.records import Json
from metaselect.run.artefacts import WEIGHTS
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet
from metaselect.text import examples, quoted
from metaselect.training.pool_predictions import pool_predictions


class Truth(NamedTuple):
    """What a truth file says of a pool.

    Attributes:
        labels: (n,) int64, true classes; -1 where the file has none.
        unusable: how many samples it calls unusable.
        absent: how many samples it does not name.
    """

    labels: np.ndarray
    unusable: int
    absent: int

    @property
    def known(self) -> np.ndarray:
        """(n,) bool: samples with a true class."""
        return self.labels >= 0

    def noise(self, given: np.ndarray) -> dict[str, Json]:
        """The share of wrong labels among the (n,) given ones (-1: none), and the samples that it is of."""
        wrong = (self.labels != given)[self.known & (given >= 0)]
        return {
            "measured_rate": float(wrong.mean()) if len(wrong) else None,
            "samples": len(wrong),
            "unusable": self.unusable,
            "not_in_truth": self.absent,
        }


def weight_scores(run: Run, name: str, pool: Dataset, truth: Truth | None, k: int | None) -> dict[str, Json]:
    """How well the weights and the ranking of a re-weighting separate wrong labels from right ones.

    Bought and unusable samples are left out: they got their weight from people, and have no rank. So are those whose
    true class is not known.
    """
    if truth is None:
        return {"weight_auc": None, "rank_auc": None}
    table = read_parquet(run, WEIGHTS, ["weight", "label_issue_rank"], name=name)
    judged = np.array(table["label_issue_rank"].is_valid()) & truth.known
    clean = (pool.labels == truth.labels)[judged]
    weights = table["weight"].to_numpy()[judged].astype(np.float64)
    ranks = np.array(table["label_issue_rank"].fill_null(0), np.int64)[judged]
    return {"weight_auc": clean_label_auc(weights, clean), **ranking_scores(ranks, clean, k)}


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
    label_prob = predictions.label_probs(pool.labels)
    return ranking_scores(label_prob[judged], (pool.labels == truth.labels)[judged], k)


def ranking_scores(ranks: np.ndarray, clean: np.ndarray, k: int | None) -> dict[str, Json]:
    """The metrics of a ranking as JSON values; arguments of ``metrics.ranking``."""
    found = ranking(ranks, clean, k)._asdict()
    return {"rank_auc": found.pop("auc"), **found}


def read_pool_truth(path: Path, pool: Dataset) -> Truth:
    """What a truth file says of the pool; it may lack samples.

    Raises:
        DataError: it names no sample of the pool, or a label is no class.
    """
    named = read_truth(path.read_bytes(), str(path))
    said = [named.get(sample_id) for sample_id in pool.sample_ids]
    absent = said.count(None)
    if absent == len(pool):
        raise DataError(
            f"{path} has none of the {len(pool)} samples of the run, e.g. {pool.sample_ids[0]}.",
            "Use the truth file of the data set that was ingested.",
        )
    position = {name: index for index, name in enumerate(pool.classes)}
    strange = sorted({label for label in said if label} - set(position))
    if strange:
        raise DataError(
            f"{path} holds the label {quoted(strange[0])}, which is no class of the run.",
            f"The classes are {examples(pool.classes, 20)}.",
        )
    labels = np.array([position[label] if label else -1 for label in said], np.int64)
    return Truth(labels, said.count(""), absent)
