"""The reader of --features: representations of the pool by any encoder, and optionally class probabilities."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaselect.data.classes import suggest
from metaselect.data.readers.base import BadSample, UnusableContent, check_features
from metaselect.data.readers.columnar import id_text, is_list, is_number, read_batches, read_schema
from metaselect.data.readers.columns import FEATURE_LIST, check_distinct
from metaselect.errors import DataError
from metaselect.run.artefacts import CLASSES, SAMPLES
from metaselect.text import short

ID, PROBS = "sample_id", "probs"
TOLERANCE = 1e-3  # of a probability beyond [0, 1], and of the sum of a row: what float16 leaves of a softmax
SHOWN = 3  # ids that a message names
LENGTHS = {
    FEATURE_LIST: "Write the same number of features for every sample.",
    PROBS: f"Write one probability for each class, in the order of {CLASSES.path()}.",
}
"""The remedies where lists are too short or too long."""
COLUMNS = (
    f"Write the columns {ID} and {FEATURE_LIST} (a list of numbers), and {PROBS} (a list) if you have them."
)
SCALED = "Scale the features, for example to mean 0 and variance 1."
FINITE = "Compute the features anew; every one must be a finite number."


class ExternalFeatures(NamedTuple):
    """The contents of a file of features, in the pool's order.

    Attributes:
        features: (n, d) float32, finite.
        probs: (n, K) float32 in [0, 1], rows sum to 1 within ``TOLERANCE``; None where the file has none.
        ignored: rows of the file whose id is not in the pool.
    """

    features: np.ndarray
    probs: np.ndarray | None
    ignored: int


class _Row(NamedTuple):
    """A row of the file, for messages: its number, from 1, and its id."""

    number: int
    sample_id: str


def read_external_features(path: Path, sample_ids: Sequence[str], classes: int) -> ExternalFeatures:
    """Features, and probabilities if there are any, from a Parquet file.

    Rows for ids that are not in the pool are counted and otherwise ignored, whatever they hold. Only the two
    matrices and a few rows are held in memory.

    Args:
        path: a Parquet file with ``sample_id`` (text or integers, which are known by their text), ``features``
            (lists of integers or floats, all of one length), and perhaps ``probs`` (lists of K).
        sample_ids: n, of the pool.
        classes: K.

    Raises:
        DataError: no such file or columns, a sample that it lacks or names twice, or a row that cannot be used;
            the message names the row, from 1, and the id.
    """
    has_probs = _check_columns(path)
    places, ignored = _places(path, sample_ids)
    features = _matrix(path, places, sample_ids)
    if not has_probs:
        return ExternalFeatures(features, None, ignored)
    probs = np.empty((len(sample_ids), classes), dtype=np.float32)
    for rows, at, batch in _matched(path, places, sample_ids, PROBS):
        block = _block(path, rows, batch, PROBS, classes, "the number of classes is")
        probs[at] = _distributions(path, rows, block)
    return ExternalFeatures(features, probs, ignored)


def read_features(path: Path, sample_ids: Sequence[str], *, partial: bool = False) -> np.ndarray:
    """(n, d) float32 features from a Parquet file, as ``read_external_features`` reads them.

    Args:
        path: the file.
        sample_ids: n.
        partial: give NaN to samples that the file lacks, of which there must be fewer than n.

    Raises:
        DataError: as there.
    """
    _check_columns(path)
    places, _ = _places(path, sample_ids, partial=partial)
    return _matrix(path, places, sample_ids)


def _matrix(path: Path, places: np.ndarray, sample_ids: Sequence[str]) -> np.ndarray:
    """The (n, d) features; NaN for samples without a row."""
    features: np.ndarray | None = None
    first = _Row(0, "")
    for rows, at, batch in _matched(path, places, sample_ids, FEATURE_LIST):
        if features is None:
            first, width = rows[0], _first_width(path, rows[0], batch)
            features = np.full((len(sample_ids), width), np.nan, dtype=np.float32)
        block = _block(path, rows, batch, FEATURE_LIST, features.shape[1], f"row {first.number} has")
        features[at] = _finite(path, rows, block)
    assert features is not None  # at least one sample has a row
    return features


def _check_columns(path: Path) -> bool:
    """Check the file's columns; returns whether it has probabilities."""
    if not path.is_file():
        raise DataError(f"{path} is not a file.", "Check the path; the features are one Parquet file.")
    schema = read_schema(path)
    check_distinct(str(path), schema.names)
    for name in (ID, FEATURE_LIST):
        if name not in schema.names:
            raise DataError(f"{path} has no column {short(name)}: {suggest(name, schema.names)}", COLUMNS)
    for name in (FEATURE_LIST, PROBS):
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and not (is_list(kind) and is_number(kind.value_type)):
            raise DataError(f"{path}: column {name} is {kind}, not lists of numbers.", COLUMNS)
    return PROBS in schema.names


def _places(path: Path, sample_ids: Sequence[str], *, partial: bool = False) -> tuple[np.ndarray, int]:
    """(N,) int64: the place in the pool of each row of the file, -1 for none; and how many have none.

    With ``partial`` some samples, but not all, may have no row.
    """
    known = {sample_id: place for place, sample_id in enumerate(sample_ids)}
    row_of = np.zeros(
        len(sample_ids), dtype=np.int64
    )  # the row of each sample in the file, from 1; 0 for none
    places: list[int] = []
    for batch in read_batches(path, [ID]):
        for cell in batch.column(0).to_pylist():
            sample_id, row = id_text(cell), len(places) + 1
            if sample_id is None:
                raise _bad(path, _Row(row, ""), "it has no id", "Give every row the id of its sample.")
            place = known.get(sample_id, -1)
            if place >= 0 and row_of[place]:
                reason = f"its id also stands in row {row_of[place]}"
                raise _bad(path, _Row(row, sample_id), reason, "Write one row for each sample.")
            if place >= 0:
                row_of[place] = row
            places.append(place)
    lacking = [sample_ids[place] for place in np.flatnonzero(row_of == 0).tolist()]
    if lacking and not (partial and len(lacking) < len(sample_ids)):
        named = ", ".join(map(short, lacking[:SHOWN])) + (", ..." if len(lacking) > SHOWN else "")
        raise DataError(
            f"{path} has no features for {len(lacking)} of {len(sample_ids)} samples: {named}.",
            f"Write one row for each sample, with the {ID} of {SAMPLES.path()}.",
        )
    return np.array(places, dtype=np.int64), places.count(-1)


def _matched(
    path: Path, places: np.ndarray, sample_ids: Sequence[str], name: str
) -> Iterator[tuple[list[_Row], np.ndarray, Any]]:
    """(rows, their places in the pool, their cells) of one column, a few at a time, without ignored rows."""
    start = 0
    for batch in read_batches(path, [name]):
        at = places[start : start + len(batch)]
        taken = np.flatnonzero(at >= 0)
        at = at[taken]
        owners = zip(taken.tolist(), at.tolist(), strict=True)
        rows = [_Row(start + row + 1, sample_ids[place]) for row, place in owners]
        start += len(batch)
        if rows:
            yield rows, at, batch.column(0).take(pa.array(taken))


def _first_width(path: Path, row: _Row, cells: Any) -> int:
    """The width d of the first row, which all rows must have; 0 where it is null, which ``_block`` refuses."""
    width: int | None = pc.list_value_length(cells[:1]).to_pylist()[0]
    if width == 0:
        raise _bad(path, row, f"its list of {FEATURE_LIST} is empty", "Write at least one feature a sample.")
    return width or 0


def _block(path: Path, rows: list[_Row], cells: Any, name: str, width: int, limit: str) -> np.ndarray:
    """Lists of one column as a matrix of their own number type; what is null within a list is NaN.

    Args:
        path: for messages.
        rows: B, for messages.
        cells: B lists.
        name: of the column.
        width: that every list must have.
        limit: the words before ``width`` in the message of one that has not.
    """
    if cells.null_count:
        worst = int(np.argmax(np.asarray(cells.is_null().to_numpy(zero_copy_only=False))))
        raise _bad(path, rows[worst], f"it has no {name}", COLUMNS)
    lengths = pc.list_value_length(cells).to_numpy(zero_copy_only=False)
    if (lengths != width).any():
        worst = int(np.argmax(lengths != width))
        reason = f"its list of {name} has length {lengths[worst]}, {limit} {width}"
        raise _bad(path, rows[worst], reason, LENGTHS[name])
    values = np.asarray(cells.flatten().to_numpy(zero_copy_only=False))
    return values.reshape(len(rows), width)


def _finite(path: Path, rows: list[_Row], block: np.ndarray) -> np.ndarray:
    """The (B, d) features as float32."""
    with np.errstate(over="ignore"):
        narrow: np.ndarray = block.astype(np.float32)

    def reason(worst: int) -> str:
        unusable = check_features(block[worst].astype(np.float64), block.shape[1])
        assert isinstance(unusable, UnusableContent)
        return unusable.reason

    _require(path, rows, np.isfinite(narrow).all(axis=1), reason, FINITE)
    with np.errstate(over="ignore"):
        bounded = np.isfinite((narrow * narrow).sum(axis=1))  # selectors compute squared distances
    _require(path, rows, bounded, lambda _: "its features are too large to be squared in float32", SCALED)
    return narrow


def _distributions(path: Path, rows: list[_Row], block: np.ndarray) -> np.ndarray:
    """The (B, K) probabilities as float32.

    Rows are not normalised again; values that rounding put outside [0, 1] are clipped, for the logarithms to come.
    """
    probs = block.astype(np.float64)
    inside: np.ndarray = (probs >= -TOLERANCE) & (probs <= 1 + TOLERANCE)  # false for NaN

    def outside(worst: int) -> str:
        place = int(np.argmin(inside[worst]))
        return f"probability {place + 1} is {probs[worst, place]:g}, not within 0..1"

    hint = f"Write {PROBS} behind the softmax, in float16 or better."
    _require(path, rows, np.asarray(inside.all(axis=1)), outside, hint)
    sums = probs.sum(axis=1)
    near = np.asarray(np.abs(sums - 1) <= TOLERANCE)
    _require(path, rows, near, lambda worst: f"its {PROBS} sum to {sums[worst]:.6g}, not to 1", hint)
    return probs.clip(0, 1).astype(np.float32)


def _require(path: Path, rows: list[_Row], fine: np.ndarray, reason: Callable[[int], str], hint: str) -> None:
    """Raise DataError for the first row of which ``fine``, (B,) bool, is False."""
    if not fine.all():
        worst = int(np.argmin(fine))
        raise _bad(path, rows[worst], reason(worst), hint)


def _bad(path: Path, row: _Row, reason: str, hint: str) -> DataError:
    return DataError(BadSample(str(path), row.number, row.sample_id, reason).sentence(), hint)
