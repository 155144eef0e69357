"""What a truth file says of the labels of a pool: how noisy they were given, and how many are right by now."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaselect.annotation.formats.csv import read_truth
from metaselect.annotation.meta_set import MetaSet
from metaselect.annotation.rounds import Round
from metaselect.data.store import Dataset
from metaselect.errors import DataError
from metaselect.metrics.classification import count_pairs
from metaselect.records import Json, matrix_rows
from metaselect.run.files import sha256_file
from metaselect.text import examples, quoted


class Truth(NamedTuple):
    """The labels of a pool and the true ones; -1 where there is none.

    Attributes:
        labels: (n,) int64, true classes by the file.
        given: (n,) int64, given labels.
        current: (n,) int64, the given labels with the bought ones in place.
        bought: (n,) bool, samples with a bought label.
        unusable: how many samples the file calls unusable.
        absent: how many samples it does not name.
    """

    labels: np.ndarray
    given: np.ndarray
    current: np.ndarray
    bought: np.ndarray
    unusable: int
    absent: int

    @property
    def known(self) -> np.ndarray:
        """(n,) bool: samples with a true class."""
        return self.labels >= 0

    @property
    def clean(self) -> np.ndarray:
        """(n,) bool: samples whose given label is the true one."""
        return self.right(self.given)

    def right(self, labels: np.ndarray) -> np.ndarray:
        """(n,) bool: where (n,) labels are the true classes; False where these are not known."""
        found: np.ndarray = (labels == self.labels) & self.known
        return found

    def noise(self, classes: int) -> dict[str, Json]:
        """The share of wrong labels among the given ones, the samples that it is of, and which is given for which."""
        judged = self.known & (self.given >= 0)
        count = int(judged.sum())
        return {
            "measured_rate": (count - int(self.clean.sum())) / count if count else None,
            "samples": count,
            "unusable": self.unusable,
            "not_in_truth": self.absent,
            "matrix": matrix_rows(count_pairs(self.given[judged], self.labels[judged], classes)),
        }

    def correct_labels(self, rounds: Iterable[np.ndarray]) -> dict[str, Json]:
        """How many labels are right, against how many were bought.

        Args:
            rounds: of each round with bought labels, (n,) bool, the samples that were bought until its end.
        """
        return {
            "samples": int(self.known.sum()),
            "given": int(self.clean.sum()),
            **self._bought(self.bought),
            "rounds": [self._bought(each & self.bought) for each in rounds],
        }

    def _bought(self, bought: np.ndarray) -> dict[str, Json]:
        """Right labels with those of (n,) bool ``bought`` in place, and with as many others that are all right."""
        samples, given = int(self.known.sum()), int(self.clean.sum())
        count = int((bought & self.known).sum())
        return {
            "bought": count,
            "right": int(self.right(np.where(bought, self.current, self.given)).sum()),
            "random": given + count * (samples - given) / max(samples, 1),
            "oracle": min(given + count, samples),
        }


def truth_digest(path: Path) -> str:
    """The sha256 of a truth file.

    Raises:
        DataError: there is no such file.
    """
    _require(path)
    return sha256_file(path)


def read_pool_truth(path: Path, pool: Dataset, meta_set: MetaSet) -> Truth:
    """What a truth file says of a pool; it may lack samples.

    Raises:
        DataError: there is no such file, it names no sample of the pool, or a label is no class.
    """
    _require(path)
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
    current, bought = pool.labels.copy(), np.zeros(len(pool), bool)
    current[meta_set.bought], bought[meta_set.bought] = meta_set.labels, True
    return Truth(labels, pool.labels, current, bought, said.count(""), absent)


def bought_until(pool: Dataset, rounds: Iterable[Round], bought: np.ndarray) -> list[np.ndarray]:
    """Of each round with samples of (n,) bool ``bought``, (n,) bool: those of them in it or in an earlier round."""
    found: list[np.ndarray] = []
    chosen = np.zeros(len(pool), bool)
    for each in rounds:
        of_round = np.array([sample_id in each.samples for sample_id in pool.sample_ids]) & bought
        if of_round.any():
            chosen = chosen | of_round
            found.append(chosen)
    return found


def _require(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} does not exist.", "Name a CSV with sample_id and clean_label.")
