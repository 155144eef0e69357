"""Forms of input: what is recognised, ids, classes, columns, and what is refused with which words."""

import hashlib
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_makers import CLASSES, Picture, listed, pictures, refused, write_images, write_rows, write_struct
from hypothesis import given
from hypothesis import strategies as st

from metaselect.data.classes import class_metadata, declared_classes, order_classes
from metaselect.data.listing import open_source
from metaselect.data.readers.base import label_name
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError


def path_hash(path: str) -> str:
    return "s" + hashlib.sha256(path.encode()).hexdigest()[:16]


# Classes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "2", "1"], ("1", "2", "10")),
        (["3", "-1", "0"], ("-1", "0", "3")),
        (["b", "a", "10", "2"], ("10", "2", "a", "b")),
        (["é", "z", "Z"], ("Z", "z", "é")),
    ],
)
def test_classes_sort_as_integers_or_by_code_point(names: Any, expected: tuple[str, ...]) -> None:
    assert order_classes(names) == expected


def test_one_number_written_twice_is_refused() -> None:
    with pytest.raises(DataError, match="'01' and '1' are the same number"):
        order_classes(["1", "01", "2"])


@given(st.lists(st.integers(-50, 50), min_size=1, unique=True))
def test_integer_classes_are_ordered_by_value(values: Any) -> None:
    assert [int(name) for name in order_classes(map(str, values))] == sorted(values)


def test_class_label_metadata_round_trip() -> None:
    assert declared_classes(class_metadata("label", ["b", "a"], {}), "label") == ("b", "a")
    assert declared_classes(class_metadata("label", ["b", "a"], {}), "other") == ()
    assert declared_classes({b"huggingface": b"{"}, "label") == ()
    assert declared_classes(None, "label") == ()


@pytest.mark.parametrize(
    ("value", "name"),
    [("x", "x"), (3, "3"), (3.0, "3"), (2.5, "2.5"), (True, "true"), (b"x", "x"), ("", None), (" ", None),
     (None, None), (float("nan"), None)],
)  # fmt: skip
def test_label_cells(value: Any, name: str | None) -> None:
    assert label_name(value) == name


# Forms and ids


def test_an_image_folder_gives_hashes_of_paths_and_folder_names(tmp_path: Path) -> None:
    write_images(tmp_path / "d", pictures(6))
    (tmp_path / "d/cat/notes.txt").write_text("no image")
    (tmp_path / "d/cat/.hidden.png").write_text("no image")
    listing = listed(tmp_path / "d")
    assert listing.classes == ("cat", "dog", "owl")
    assert listing.sample_ids == [path_hash(path) for path in listing.paths]
    assert [listing.classes[label] for label in listing.labels] == [path[:3] for path in listing.paths]
    assert listing.source.remarks == (
        f"{tmp_path / 'd'}: files that are no readable images were left out: 1 .txt.",
    )


def test_the_same_paths_give_the_same_ids_in_every_form(tmp_path: Path) -> None:
    samples = pictures(9)
    folder = write_images(tmp_path / "d", samples)
    manifest = write_rows(
        folder / "m.csv", ["image", "label"], [(f"./{sample.path}", sample.label) for sample in samples]
    )
    struct = write_struct(tmp_path / "s.parquet", samples)
    expected = {path_hash(sample.path): sample.label for sample in samples}
    for path in (folder, manifest, struct):
        listing = listed(path)
        names = [listing.classes[label] for label in listing.labels]
        assert dict(zip(listing.sample_ids, names, strict=True)) == expected


def test_ids_come_from_sample_id_then_id_then_the_option(tmp_path: Path) -> None:
    rows = [("a", "b", "c", "x.png", "0"), ("d", "e", "f", "x.png", "1")]
    header = ["sample_id", "id", "key", "image", "label"]
    path = write_rows(tmp_path / "m.csv", header, rows)
    assert listed(path).sample_ids == ["a", "d"]
    assert listed(path, id_column="key").sample_ids == ["c", "f"]
    second = write_rows(tmp_path / "n.csv", header[1:], [row[1:] for row in rows])
    assert listed(second).sample_ids == ["b", "e"]


def test_contents_without_ids_and_paths_are_hashed_and_repeats_numbered(tmp_path: Path) -> None:
    one, two = pictures(2)
    samples = [two, Picture("", "owl", one.raw), one, one]
    expected = "s" + hashlib.sha256(one.raw).hexdigest()[:16]
    found = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        path = write_struct(tmp_path / f"{order[0]}.parquet", [samples[p] for p in order], with_path=False)
        listing = listed(path)
        names = [listing.classes[label] for label in listing.labels]
        found.append(dict(zip(listing.sample_ids, names, strict=True)))
    assert found[0] == found[1]
    assert {name: found[0][name] for name in (expected, f"{expected}-2", f"{expected}-3")} == {
        expected: "cat",
        f"{expected}-2": "cat",
        f"{expected}-3": "owl",
    }


def test_shards_are_one_data_set_and_must_agree(tmp_path: Path) -> None:
    samples = pictures(8)
    ids = [f"s{number}" for number in range(8)]
    for start in (0, 4):
        write_struct(tmp_path / f"d/{start}.parquet", samples[start:][:4], ids=ids[start:][:4], names=CLASSES)
    listing = listed(tmp_path / "d")
    assert listing.sample_ids == ids
    assert listing.rows.tolist() == [1, 2, 3, 4] * 2
    assert listing.bad(5, "").source == str(tmp_path / "d/4.parquet")
    contents = dict(listing.source.contents(listing.keep))
    assert [contents[place] for place in range(8)] == [sample.raw for sample in samples]
    write_struct(tmp_path / "d/9.parquet", samples[:1], ids=["z"], names=("owl", "dog", "cat"))
    assert "9.parquet has other ClassLabel names" in refused(tmp_path / "d")
    write_struct(tmp_path / "d/9.parquet", samples[:1])
    assert "9.parquet: column sample_id is missing" in refused(tmp_path / "d")


@pytest.mark.parametrize("start", range(10))
def test_contents_go_on_from_any_position(tmp_path: Path, start: Any) -> None:
    samples = pictures(9)
    path = write_struct(tmp_path / "d.parquet", samples, group=4)
    source = open_source(path, ReadOptions())
    keep = np.array([number % 3 != 1 for number in range(9)])
    expected = [(number, samples[number].raw) for number in range(start, 9) if keep[number]]
    assert list(source.contents(keep, start)) == expected


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_and_class_label_positions(tmp_path: Path, kind: Any) -> None:
    samples = pictures(4)
    images = pa.array([sample.raw for sample in samples], kind)
    table = pa.table({"id": list("abcd"), "image": images, "label": [2, 0, 1, 0]})
    table = table.replace_schema_metadata(class_metadata("label", CLASSES, {}))
    pq.write_table(table, tmp_path / "d.parquet")
    listing = listed(tmp_path / "d.parquet")
    assert listing.classes == CLASSES
    assert listing.labels.tolist() == [2, 0, 1, 0]
    assert [content for _, content in listing.source.contents(listing.keep)] == [s.raw for s in samples]


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2), pa.list_(pa.int16())],
)
def test_feature_lists(tmp_path: Path, kind: Any) -> None:
    rows = [[1, 2], [3, 4], [5, 6]]
    pq.write_table(
        pa.table({"id": list("abc"), "features": pa.array(rows, kind), "label": list("xyx")}),
        tmp_path / "d.parquet",
    )
    listing = listed(tmp_path / "d.parquet")
    found = [content for _, content in listing.source.contents(listing.keep)]
    np.testing.assert_array_equal(found, np.array(rows, dtype=np.float32))
    assert found[0].dtype == np.float32


def test_feature_columns_take_the_same_numbers_from_csv_and_parquet(tmp_path: Path) -> None:
    numbers = np.random.default_rng(3).normal(size=(5, 3))
    rows = [(f"i{n}", *map(repr, row.tolist()), "ab"[n % 2]) for n, row in enumerate(numbers)]
    csv_path = write_rows(tmp_path / "d.csv", ["id", "x1", "x2", "x3", "label"], rows)
    columns = {f"x{n + 1}": numbers[:, n] for n in range(3)}
    table = pa.table({"id": [row[0] for row in rows], **columns, "label": [row[-1] for row in rows]})
    pq.write_table(table, tmp_path / "d.parquet")
    for path in (csv_path, tmp_path / "d.parquet"):
        listing = listed(path, feature_columns="x*")
        found = [content for _, content in listing.source.contents(listing.keep)]
        np.testing.assert_array_equal(found, numbers.astype(np.float32))


def test_a_pattern_never_takes_the_label(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.csv", ["id", "u", "label"], [("1", "0.5", "0"), ("2", "1.5", "1")])
    source = open_source(path, ReadOptions(feature_columns="*"))
    assert source.width() == 1


EMPTY_LISTS = {
    "list": pa.array([[]] * 4, pa.list_(pa.float32())),
    "large list": pa.array([[]] * 4, pa.large_list(pa.float64())),
    "list of a fixed size": pa.array([[]] * 4, pa.list_(pa.float32(), 0)),
    "null": pa.array([None] * 4, pa.list_(pa.float32())),
    "mostly empty": pa.array([[], [1.0], [], []], pa.list_(pa.float32())),
}


@pytest.mark.parametrize("kind", EMPTY_LISTS)
@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("words", [("ingest",), ("warmup",), ("corrupt", "-o", "OUT")])
def test_features_without_a_number_are_refused(
    tmp_path: Path, kind: str, with_ids: bool, words: tuple[str, ...]
) -> None:
    columns = {"features": EMPTY_LISTS[kind], "label": [0, 1, 0, 1]}
    pq.write_table(pa.table(columns | ({"id": list("abcd")} if with_ids else {})), tmp_path / "m.parquet")
    command, *more = [str(tmp_path / word) if word == "OUT" else word for word in words]
    run = None if command == "corrupt" else tmp_path / "run"
    done = command_line.metaselect(
        command, tmp_path / "m.parquet", *more, "--on-bad-sample", "skip", run=run, code=3
    )
    assert "column features holds no numbers" in " ".join(done.err.split())
