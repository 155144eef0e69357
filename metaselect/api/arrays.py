"""Arrays and labels as a caller gives them, turned into the pool, class numbers and bought labels of the methods.

Every function raises ValueError for an argument that cannot be used.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch

from metaselect.data.classes import order_classes
from metaselect.data.readers.external_features import TOLERANCE
from metaselect.errors import DataError, UsageError

Bought: TypeAlias = "Mapping[Any, Any] | pd.Series | None"
"""From samples to their bought labels; None or NA: a sample that was chosen before and has none."""


@contextmanager
def as_value_errors() -> Iterator[None]:
    """A context in which what the command line refuses as an option or as data is a ValueError."""
    try:
        yield
    except (UsageError, DataError) as error:
        raise ValueError(f"{error} {error.hint}".rstrip()) from None


@dataclass(frozen=True)
class Rows:
    """The samples of the arrays of one call.

    Attributes:
        index: (n,) their names, in the order of the caller's rows; None: they are known by position.
        order: (n,) int64, the caller's position of each sample of the pool.
    """

    index: "pd.Index | None"
    order: np.ndarray

    @classmethod
    def of(cls, first: Any, count: int) -> "Rows":
        """The samples of the array that names them.

        Those of a DataFrame or Series with ids come in the order of the ids as text, as in a run, so that the order of
        its rows changes nothing. A default index (``RangeIndex``) holds no ids.
        """
        index = first.index if isinstance(first, (pd.DataFrame, pd.Series)) else None
        if index is None or isinstance(index, pd.RangeIndex):
            return cls(index, np.arange(count))
        texts = [str(name) for name in index]
        if len(set(texts)) < count:
            raise ValueError("The index names a sample twice.")
        return cls(index, np.array(sorted(range(count), key=texts.__getitem__), dtype=np.int64))

    def take(self, values: Any, what: str) -> Any:
        """The values in the order of the pool; those of pandas are matched by their index."""
        if self.index is not None and isinstance(values, (pd.DataFrame, pd.Series)):
            if set(values.index) != set(self.index) or len(values) != len(self.index):
                raise ValueError(f"The index of {what} is not that of the samples.")
            values = values.reindex(self.index)
        elif len(values) != len(self.order):
            raise ValueError(f"{what} has {len(values)} rows for {len(self.order)} samples.")
        if isinstance(values, (pd.DataFrame, pd.Series)):
            return values.iloc[self.order]
        return [values[place] for place in self.order] if isinstance(values, list) else values[self.order]

    def places(self, bought: Bought) -> dict[int, Any]:
        """The bought label, or None, by sample of the pool, sorted."""
        if bought is None:
            return {}
        if not isinstance(bought, (Mapping, pd.Series)):
            raise ValueError(
                "bought is no mapping from samples to labels; without labels: dict.fromkeys(samples)."
            )
        names = range(len(self.order)) if self.index is None else self.index
        position_of = {name: position for position, name in enumerate(names)}
        place_of = np.argsort(self.order)
        found = {}
        for name, label in bought.items():
            if name not in position_of:
                raise ValueError(f"bought names {name!r}, which is no sample.")
            found[int(place_of[position_of[name]])] = None if pd.isna(label) else label
        return dict(sorted(found.items()))

    def names(self, places: np.ndarray) -> Any:
        """Positions, or index labels, of samples of the pool."""
        positions = self.order[places]
        return positions if self.index is None else self.index[positions]


class Labels(NamedTuple):
    """Labels as class numbers.

    Attributes:
        given: (n,) int64; -1: none.
        bought: (m,) int64, pool indices, sorted.
        answers: (m,) int64, their bought labels; -1: none.
        classes: K, as the caller names them.
    """

    given: np.ndarray
    bought: np.ndarray
    answers: np.ndarray
    classes: tuple[Any, ...]


def features_of(values: Any, what: str = "features") -> np.ndarray:
    """(n, d) float32, finite, and small enough to be squared."""
    array = _numbers(values, what)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{what} has the shape {array.shape}; it must have a row of numbers for each sample."
        )
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(array, dtype=np.float32)
        fine = np.isfinite(np.square(narrow).sum(1))
    if not fine.all():
        raise ValueError(
            f"Row {int(np.argmin(fine))} of {what} has NaN, infinity, or numbers too large to square."
        )
    return narrow


def probs_of(values: Any) -> np.ndarray:
    """(n, K) float32, rows of class probabilities."""
    array = _numbers(values, "probs").astype(np.float64)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(
            f"probs has the shape {array.shape}; it must have a column for each of two classes or more."
        )
    inside = (array >= -TOLERANCE) & (array <= 1 + TOLERANCE)  # False for NaN
    fine = inside.all(1) & (np.abs(array.sum(1) - 1) <= TOLERANCE)
    if not fine.all():
        raise ValueError(
            f"Row {int(np.argmin(fine))} of probs is no distribution: numbers in [0, 1] that sum to 1."
        )
    return np.ascontiguousarray(array.clip(0, 1), dtype=np.float32)


def labels_of(given: Any, bought: Mapping[int, Any], count: int, probs: Any = None) -> Labels:
    """Class numbers of given and bought labels.

    The classes are the columns of ``probs``. Names that are no columns of a DataFrame are counted off: integers from 0
    on, and texts in their order (as integers where all are). Without ``probs`` they are those that occur.

    Args:
        given: n labels, integers or texts, None or NA where there is none; None: no labels.
        bought: as ``Rows.places`` returns them.
        count: n.
        probs: (n, K), for its columns.
    """
    named = [None] * count if given is None else _names(given)
    answers = _names([*bought.values()])
    occurring = {name for name in (*named, *answers) if name is not None}
    kinds = {type(name) for name in occurring}
    if not kinds <= {int} and not kinds <= {str}:
        raise ValueError(
            f"Labels must be integers or texts, not {', '.join(sorted(k.__name__ for k in kinds))}."
        )
    classes = _classes(occurring, probs)
    number_of = {name: number for number, name in enumerate(classes)}
    if strange := sorted(occurring - number_of.keys()):
        raise ValueError(f"The label {strange[0]!r} is none of the {len(classes)} columns of probs.")
    number_of[None] = -1
    return Labels(
        np.array([number_of[name] for name in named], dtype=np.int64),
        np.array([*bought], dtype=np.int64),
        np.array([number_of[name] for name in answers], dtype=np.int64),
        classes,
    )


def _classes(occurring: set[Any], probs: Any) -> tuple[Any, ...]:
    if isinstance(probs, pd.DataFrame):
        return tuple(_names(probs.columns))
    columns = None if probs is None else np.shape(probs)[1]
    if columns is not None and all(isinstance(name, int) for name in occurring):
        return tuple(range(columns))
    with as_value_errors():
        classes = order_classes(occurring) if occurring and isinstance(next(iter(occurring)), str) else ()
    classes = classes or tuple(sorted(occurring))
    if columns not in (None, len(classes)):
        raise ValueError(
            f"probs has {columns} columns, and {len(classes)} classes occur among the labels. Give probs as a "
            "DataFrame whose columns are the classes."
        )
    return classes


def _numbers(values: Any, what: str) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    elif isinstance(values, pd.DataFrame):
        values = values.to_numpy(dtype=np.float64, na_value=np.nan)
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} is no array of numbers, but of {array.dtype}.")
    return array


def _names(labels: Any) -> list[Any]:
    """Labels as int or str, None where there is none; whole floats, which a column of integers and NaN has, are int."""
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu().numpy()
    if np.ndim(labels) != 1:
        raise ValueError("Labels must be one-dimensional.")
    values: Sequence[Any] = pd.Series(labels, dtype=None if len(labels) else object).convert_dtypes().tolist()
    return [None if value is pd.NA or value is None else value for value in values]
