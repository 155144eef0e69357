"""Features from outside: every kind of list, the pool's order, and what is refused with which words."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaselect.data.readers.external_features import ExternalFeatures, read_external_features
from metaselect.errors import DataError

POOL = ("a", "b", "c")
ROWS = [[1.0, 2.0], [3.0, -4.0], [0.5, 6.0]]
PROBS = [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]


def written(
    path: Path, ids: Any = POOL, features: Any = ROWS, probs: Any = None, group: int | None = None
) -> Path:
    columns = {"sample_id": ids, "features": features, **({} if probs is None else {"probs": probs})}
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def read(path: Path, pool: tuple[str, ...] = POOL) -> ExternalFeatures:
    return read_external_features(path, pool, 2)


def refused(path: Path) -> str:
    """The sentence, without the file that it must name, and then the remedy."""
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.hint
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path)).lstrip(",: ")


@pytest.mark.parametrize("number", ["float16", "float32", "float64", "int8", "int64", "uint16"])
@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
def test_every_list_of_numbers_is_float32_in_the_order_of_the_pool(
    tmp_path: Path, kind: str, number: str
) -> None:
    inner = pa.from_numpy_dtype(number)
    lists = {"list": pa.list_(inner), "large_list": pa.large_list(inner), "fixed": pa.list_(inner, 3)}
    order = np.random.default_rng(3).permutation(700)  # several batches and row groups
    rows = np.random.default_rng(4).integers(0, 100, (700, 3)).astype(number)
    ids = [f"i{place:03d}" for place in range(700)]
    cells = pa.array([list(rows[place]) for place in order], lists[kind])
    path = written(tmp_path / "f.parquet", [ids[place] for place in order], cells, group=300)
    found = read_external_features(path, ids, 2)
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, rows.astype(np.float32))
    assert (found.probs, found.ignored) == (None, 0)


@pytest.mark.parametrize("number", ["float16", "float32", "float64"])
def test_probabilities_are_taken_as_they_are(tmp_path: Path, number: str) -> None:
    rows = np.array(PROBS, dtype=number)[[2, 0, 1]]
    probs = pa.array([list(row) for row in rows], pa.list_(pa.from_numpy_dtype(number)))
    found = read(written(tmp_path / "f.parquet", ["c", "a", "b"], [ROWS[2], ROWS[0], ROWS[1]], probs))
    np.testing.assert_array_equal(found.features, np.array(ROWS, np.float32))
    assert found.probs is not None
    assert found.probs.dtype == np.float32
    np.testing.assert_array_equal(found.probs, np.array(PROBS, np.float32))


def test_what_rounding_leaves_of_a_softmax_is_accepted(tmp_path: Path) -> None:
    probs = [[-0.0004, 1.0008], [0.5004, 0.5004], [1, 0]]
    found = read(written(tmp_path / "f.parquet", probs=probs)).probs
    assert found is not None
    np.testing.assert_array_equal(found, np.array([[0, 1], [0.5004, 0.5004], [1, 0]], np.float32))
    logits = np.random.default_rng(5).normal(0, 6, (3, 500))
    wide = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float16)
    cells = pa.array([list(row) for row in wide], pa.list_(pa.float16()))
    many = read_external_features(written(tmp_path / "g.parquet", probs=cells), POOL, 500).probs
    np.testing.assert_array_equal(many, wide.astype(np.float32))


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint64(), pa.string(), pa.large_string()])
def test_ids_match_by_their_text(tmp_path: Path, kind: Any) -> None:
    ids = pa.array([10, 9, 8]).cast(kind)
    found = read(written(tmp_path / "f.parquet", ids), ("10", "8", "9"))
    np.testing.assert_array_equal(found.features, np.array(ROWS, np.float32)[[0, 2, 1]])
    coded = pa.array(["b", "a", "c"]).dictionary_encode()
    found = read(written(tmp_path / "f.parquet", coded))
    np.testing.assert_array_equal(found.features, np.array(ROWS, np.float32)[[1, 0, 2]])


def test_rows_of_other_samples_are_counted_and_never_looked_at(tmp_path: Path) -> None:
    ids = ["x", "c", "b", "y", "a", "y"]
    features = [None, *ROWS[:2], [float("nan")], ROWS[2], []]
    probs = [[9.0], *PROBS[:2], None, PROBS[2], []]
    found = read(written(tmp_path / "f.parquet", ids, features, probs, group=2))
    assert found.ignored == 3
    np.testing.assert_array_equal(found.features, np.array(ROWS, np.float32)[[2, 1, 0]])
    np.testing.assert_array_equal(found.probs, np.array(PROBS, np.float32)[[2, 1, 0]])


# Refusals


def test_what_is_no_file_of_features_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.parquet") == "is not a file."
    (tmp_path / "folder.parquet").mkdir()
    assert refused(tmp_path / "folder.parquet") == "is not a file."
    (tmp_path / "f.csv").write_text("sample_id,features\na,1\n")
    assert refused(tmp_path / "f.csv").startswith("is not a readable Parquet file: ")


def test_columns_that_are_missing_or_of_no_use_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"

    def message(**columns: Any) -> str:
        pq.write_table(pa.table(columns), path)
        return refused(path)

    assert message(id=POOL, features=ROWS) == "has no column sample_id: there is id, features"
    assert message(sample_id=POOL, feature=ROWS) == "has no column features: did you mean 'feature'?"
    numbers = message(sample_id=POOL, features=[1.0, 2.0, 3.0])
    assert numbers == "column features is double, not lists of numbers."
    words = message(sample_id=POOL, features=[["x"], ["y"], ["z"]])
    assert words.startswith("column features is list<")
    flags = message(sample_id=POOL, features=ROWS, probs=[[True, False]] * 3)
    assert flags.startswith("column probs is list<")
    twice = pa.table([POOL, ROWS, ROWS], ["sample_id", "features", "features"])
    pq.write_table(twice, path)
    assert refused(path) == "has the column features twice."


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (("a", "b", "a"), "row 3, id a: its id also stands in row 1."),
        (("a", None, "c"), "row 2: it has no id."),
        (("a", "", "c"), "row 2: it has no id."),
        (("x", "b", "y"), "has no features for 2 of 3 samples: a, c."),
    ],
)
def test_ids_that_are_missing_or_stand_there_twice_are_refused(
    tmp_path: Path, ids: tuple[str | None, ...], said: str
) -> None:
    assert refused(written(tmp_path / "f.parquet", ids)) == said


def test_of_many_missing_samples_the_first_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "f.parquet", ["b"], [[1.0]])
    with pytest.raises(DataError, match=r"no features for 4 of 5 samples: a, c, d, \.\.\.\."):
        read_external_features(path, tuple("abcde"), 2)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (None, "it has no features."),
        ([1.0], "its list of features has length 1, row 1 has 2."),
        ([], "its list of features has length 0, row 1 has 2."),
        ([1.0, float("nan")], "feature 2 is nan, not a finite float32."),
        ([1.0, None], "feature 2 is nan, not a finite float32."),
        ([float("-inf"), 1.0], "feature 1 is -inf, not a finite float32."),
        ([1e40, 1.0], "feature 1 is 1e+40, not a finite float32."),
    ],
)
@pytest.mark.parametrize("start", [0, 600])
def test_a_bad_row_of_features_is_named(tmp_path: Path, second: object, said: str, start: int) -> None:
    """Also behind rows of other samples and in a later batch."""
    ids = [*(f"x{place}" for place in range(start)), *POOL]
    cells = [*[[0.0]] * start, ROWS[0], second, ROWS[2]]
    said = said.replace("row 1 ", f"row {start + 1} ")
    assert refused(written(tmp_path / "f.parquet", ids, cells)) == f"row {start + 2}, id b: {said}"


def test_empty_lists_are_refused(tmp_path: Path) -> None:
    cells = pa.array([[], [], []], pa.list_(pa.float32()))
    said = "row 1, id a: its list of features is empty."
    assert refused(written(tmp_path / "f.parquet", features=cells)) == said


def test_null_in_a_list_is_no_number_whatever_its_kind(tmp_path: Path) -> None:
    for kind in (pa.float16(), pa.int8(), pa.int64()):
        cells = pa.array([[1, 2], [3, None], [5, 6]], pa.list_(kind, 2))
        said = refused(written(tmp_path / "f.parquet", features=cells))
        assert said == "row 2, id b: feature 2 is nan, not a finite float32."
    cells = pa.array([[1, 2], None, [5, 6]], pa.list_(pa.int64(), 2))
    assert refused(written(tmp_path / "f.parquet", features=cells)) == "row 2, id b: it has no features."


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (None, "it has no probs."),
        ([1.0], "its list of probs has length 1, the number of classes is 2."),
        ([0.5, 0.25, 0.25], "its list of probs has length 3, the number of classes is 2."),
        ([1.2, -0.2], "probability 1 is 1.2, not within 0..1."),
        ([-0.002, 1.0], "probability 1 is -0.002, not within 0..1."),
        ([0.5, float("nan")], "probability 2 is nan, not within 0..1."),
        ([0.5, None], "probability 2 is nan, not within 0..1."),
        ([0.5, 0.52], "its probs sum to 1.02, not to 1."),
        ([0.0, 0.0], "its probs sum to 0, not to 1."),
    ],
)
def test_a_bad_row_of_probabilities_is_named(tmp_path: Path, second: object, said: str) -> None:
    path = written(tmp_path / "f.parquet", probs=[PROBS[0], second, PROBS[2]])
    assert refused(path) == f"row 2, id b: {said}"


def test_features_that_overflow_when_they_are_squared_are_refused(tmp_path: Path) -> None:
    said = refused(written(tmp_path / "f.parquet", features=[ROWS[0], [1e20, 0.0], ROWS[2]]))
    assert "row 2" in said
    assert "too large to be squared" in said
