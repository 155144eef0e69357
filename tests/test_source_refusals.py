"""Rows, columns and paths that are refused, and with which words."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_makers import Picture, pictures, refused, write_images, write_rows

from metaselect.data.classes import class_metadata
from metaselect.data.listing import list_samples, open_source
from metaselect.data.readers.base import BadSamples, UnusableContent
from metaselect.data.readers.paths import ImageFiles, escapes
from metaselect.data_options import ReadOptions


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("a")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "x.csv").write_bytes("image,label\né,1\n".encode("latin-1"))
    (tmp_path / "none.csv").write_text("")
    write_rows(tmp_path / "header.csv", ["id", "image", "label"], [])
    write_images(tmp_path / "deep", [Picture("photos/cat/a.png", "cat", b"")])
    write_images(tmp_path / "splits", [Picture("train/cat/a.png", "cat", b"")])
    assert "does not exist" in refused(tmp_path / "missing.csv")
    assert "neither Parquet files nor folders of images" in refused(tmp_path / "empty")
    assert "is no .csv, .tsv, .jsonl or .parquet file" in refused(tmp_path / "x.txt")
    assert "not a readable Parquet file" in refused(tmp_path / "x.parquet")
    assert "not a CSV file in UTF-8" in refused(tmp_path / "x.csv")
    assert "is empty" in refused(tmp_path / "none.csv")
    assert "holds no sample" in refused(tmp_path / "header.csv")
    assert "is a folder within the class folder photos" in refused(tmp_path / "deep")
    assert "are named as splits of a data set" in refused(tmp_path / "splits")


def test_columns_that_are_missing_or_of_no_use_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.csv", ["id", "img", "labels"], [("a", "a.png", "x")])
    assert "no column label: did you mean 'labels'?" in refused(path)
    assert "has no column pixels: there is id, img, labels" in refused(
        path, label_column="labels", image_column="pixels"
    )
    nameless = write_rows(tmp_path / "n.csv", ["key", "img", "label"], [("a", "a.png", "x")])
    assert "ids and labels alone need a column sample_id" in refused(nameless)
    assert "no column key" in refused(path, label_column="labels", id_column="key")
    assert "matches no column" in refused(path, label_column="labels", feature_columns="x*")
    twice = write_rows(tmp_path / "t.csv", ["id", "image", "image", "label"], [("a", "a", "b", "x")])
    assert "has the column image twice" in refused(twice)
    lists = write_rows(tmp_path / "f.csv", ["id", "features", "label"], [("a", "[1]", "x")])
    assert "a CSV has no list columns" in refused(lists)
    pq.write_table(pa.table({"id": ["a"], "image": [1], "label": ["x"]}), tmp_path / "i.parquet")
    assert "column image is int64" in refused(tmp_path / "i.parquet")
    pq.write_table(pa.table({"id": ["a"], "u": ["1"], "label": ["x"]}), tmp_path / "u.parquet")
    assert "column u is string, not numbers" in refused(tmp_path / "u.parquet", feature_columns="u")


def test_bad_rows_of_a_csv_name_line_and_id(tmp_path: Path) -> None:
    header = ["id", "x", "label"]

    def message(*rows: tuple[str, ...], text: str | None = None) -> str:
        path = write_rows(tmp_path / "d.csv", header, rows)
        if text is not None:
            path.write_text(text)
        return refused(path, feature_columns="x")

    start = f"{tmp_path / 'd.csv'}, row 3, id b: "
    good = ("a", "1", "k")
    assert message(good, ("b", "1", "")) == f"{start}it has no label."
    assert message(good, ("b", "nan", "l")) == f"{start}feature 1 is nan, not a finite float32."
    assert message(good, ("b", "1e40", "l")) == f"{start}feature 1 is 1e+40, not a finite float32."
    assert message(good, ("b", "", "l")) == f"{start}'' in column x is not a number."
    assert message(good, ("", "1", "l")).endswith("row 3: it has no id.")
    assert message(good, ("b", "1")).endswith("row 3: it has 2 cells, the header has 3.")
    assert message(text='id,x,label\n"a\nb",1,k\n\nc,1,\n').endswith("row 5, id c: it has no label.")
    repeated = message(good, ("b", "1", "l"), ("a", "2", "l"))
    assert "row 2, id a: its id also stands in" in repeated
    assert repeated.endswith("row 4.")


def test_bad_rows_of_a_parquet_name_row_and_id(tmp_path: Path) -> None:
    def message(features: object, labels: object, names: tuple[str, ...] = ()) -> str:
        table = pa.table({"id": list("abc"), "features": features, "label": labels})
        if names:
            table = table.replace_schema_metadata(class_metadata("label", names, {}))
        pq.write_table(table, tmp_path / "d.parquet")
        return refused(tmp_path / "d.parquet").removeprefix(f"{tmp_path / 'd.parquet'}, ")

    fine = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert message(fine, [0, 1, None]) == "row 3, id c: it has no label."
    assert message(fine, [0, 2, 1], ("x", "y")) == "row 2, id b: the label 2 is outside 0..1."
    assert message(fine, ["x", "y", "yy"], ("x", "y")).startswith("row 3, id c: the label 'yy' is not among")
    for third, reason in (
        ([1.0], "it has 1 features where most samples have 2"),
        (None, "it has no features"),
        ([1.0, None], "feature 2 is nan, not a finite float32"),
        ([float("inf"), 1.0], "feature 1 is inf, not a finite float32"),
    ):
        assert message([*fine[:2], third], [0, 1, 0]) == f"row 3, id c: {reason}."


def test_skipping_leaves_out_every_bearer_of_a_repeated_id(tmp_path: Path) -> None:
    rows = [("a", "1", "k"), ("b", "2", "l"), ("a", "3", "l"), ("c", "4", ""), ("d", "5", "k")]
    bad = BadSamples("skip")
    path = write_rows(tmp_path / "d.csv", ["id", "x", "label"], rows)
    listing = list_samples(open_source(path, ReadOptions(feature_columns="x")), bad)
    assert [listing.sample_ids[place] for place in listing.order()] == ["b", "d"]
    assert [(entry.row, entry.sample_id) for entry in bad.found] == [(5, "c"), (2, "a"), (4, "a")]


# Paths


@pytest.mark.parametrize(
    "path", ["../x.png", "a/../../x.png", "/etc/hostname", "C:\\x.png", "..\\x.png", "\\\\host\\x", "c:x"]
)
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    assert escapes(path)
    rows = [("a", path, "x"), ("b", "b.png", "y")]
    manifest = write_rows(tmp_path / "d/m.csv", ["id", "image", "label"], rows)
    shown = path.replace("\\", "/") if path.startswith("..") else path
    assert f"row 2, id a: the path {shown} leaves the folder" in refused(manifest)


def test_links_out_of_the_folder_are_refused_and_links_within_are_followed(tmp_path: Path) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/x").write_bytes(b"secret")
    (tmp_path / "d/sub/y").write_bytes(b"fine")
    os.symlink(tmp_path / "secret/x", tmp_path / "d/file")
    os.symlink(tmp_path / "secret", tmp_path / "d/folder")
    os.symlink(tmp_path / "d/sub/y", tmp_path / "d/inside")
    os.symlink(tmp_path / "d", tmp_path / "again")
    for path in ("file", "folder/x"):
        found = ImageFiles(tmp_path / "d").read(path)
        assert isinstance(found, UnusableContent)
        assert "is a link that leaves the folder" in found.reason
    assert ImageFiles(tmp_path / "d").read("inside") == b"fine"
    assert ImageFiles(tmp_path / "again").read("sub/y") == b"fine"
    missing = ImageFiles(tmp_path / "d").read("sub/z")
    assert missing == UnusableContent("the file sub/z does not exist")


def test_a_parquet_manifest_with_paths_reads_them_below_its_folder(tmp_path: Path) -> None:
    samples = pictures(3)
    write_images(tmp_path, samples)
    rows = [{"bytes": None, "path": samples[0].path}, {"bytes": samples[1].raw, "path": "../nowhere.png"},
            {"bytes": None, "path": "../../etc/hostname"}]  # fmt: skip
    pq.write_table(pa.table({"id": list("abc"), "image": rows, "label": list("xyx")}), tmp_path / "d.parquet")
    source = open_source(tmp_path / "d.parquet", ReadOptions())
    found = [content for _, content in source.contents(np.ones(3, dtype=bool))]
    assert found[:2] == [samples[0].raw, samples[1].raw]
    assert isinstance(found[2], UnusableContent)
