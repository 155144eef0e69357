"""What a data set means: forms of one class name, labels that are none, splits, tables beside images, file suffixes."""

import csv
import io
import json
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import metaselect
from data_makers import encode, listed, made, pictures, refused, write_images, write_rows
from hypothesis import given
from hypothesis import strategies as st

from metaselect.data.classes import (
    MISSING,
    case_variants,
    class_form,
    class_metadata,
    look_alikes,
    order_classes,
)
from metaselect.data.listing import list_samples, open_source
from metaselect.data.readers.base import BadSamples, label_name
from metaselect.data.readers.splits import split_of
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.text import visible

N = 12


def table_of(folder: Path, labels: list[object], name: str = "data.csv") -> Path:
    """A manifest of features whose labels go through a list."""
    rows = [(f"x{i:02d}", i, labels[i % len(labels)]) for i in range(N)]
    return write_rows(folder / name, ["sample_id", "f0", "label"], rows)


def beyond(data: Path) -> Path:
    """A run that is not in the folder of the data."""
    return data.parent / f"{data.name}-run"


def classes_of(data: Path, **options: object) -> tuple[str, ...]:
    return listed(data, **options).classes  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["cat", "cat ", " cat", "dog", "\tdog"], ("cat", "dog")),
        (["1", "1.0", "2.0", "0"], ("0", "1", "2")),
        (["+1", "1", "+2.0", "2", "-3"], ("1", "2", "-3")),
        (["+", "+1+1", "++1", "+x"], ("+", "+1+1", "++1", "+x")),
        (["-1.0", "5", "-1", "5.00"], ("-1", "5")),
        (["1.5", "1.50"], ("1.5", "1.50")),  # only whole numbers have one form
        (["\u00c5", "A\u030a", "x"], ("\u00c5", "x")),
        (["none", "some"], ("none", "some")),  # people write "none" for a class of its own
        (["-1", "a"], ("-1", "a")),
        (["-1", "1"], ("-1", "1")),  # signs: there are no classes 0 to K-1
        (["-1", "1", "2"], ("-1", "1", "2")),
    ],
)
def test_one_class_has_one_form(tmp_path: Path, labels: list[object], classes: tuple[str, ...]) -> None:
    data = table_of(tmp_path, labels)
    assert classes_of(data) == order_classes(classes)
    columns = {
        "sample_id": [f"x{i:02d}" for i in range(N)],
        "features": pa.array([[float(i)] for i in range(N)], pa.list_(pa.float32())),
        "label": [labels[i % len(labels)] for i in range(N)],
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    lines = "".join(
        json.dumps({"id": f"x{i}", "f0": i, "label": labels[i % len(labels)]}) + "\n" for i in range(N)
    )
    (tmp_path / "data.jsonl").write_text(lines, encoding="utf-8")
    assert classes_of(tmp_path / "data.parquet") == classes_of(data)
    assert classes_of(tmp_path / "data.jsonl", feature_columns="f*") == classes_of(data)


def test_numbers_of_any_type_have_the_names_of_their_text() -> None:
    for value in (3, 3.0, "3", "3.0", " 3 ", b"3.00"):
        assert label_name(value) == "3"
    assert label_name(2.5) == label_name("2.5") == "2.5"


@given(st.text())
def test_a_form_is_a_form_of_itself(name: str) -> None:
    form = class_form(name)
    assert class_form(form) == form == class_form(f" {unicodedata.normalize('NFD', name)}\n")


@pytest.mark.parametrize("text", sorted(MISSING))
def test_what_programs_write_for_nothing_is_no_class(tmp_path: Path, text: str) -> None:
    data = table_of(tmp_path, ["cat", "dog", text, "cat"])
    assert f"row 4, id x02: its label {text!r} is what programs write where there is none" in refused(data)
    found = listed(data, "skip")
    assert found.classes == ("cat", "dog")
    assert found.keep.sum() == N - 3


@pytest.mark.parametrize("filler", ["-1", "-1.0", "-100"])
def test_what_frameworks_ignore_beside_numbered_classes_is_no_class(tmp_path: Path, filler: str) -> None:
    data = table_of(tmp_path, ["0", "1", filler, 2])
    assert f"its label {label_name(filler)} stands for none beside the classes 0, 1" in refused(data)
    assert listed(data, "skip").classes == ("0", "1", "2")
    both = table_of(tmp_path, ["0", "1", "-1", "-100"])
    assert listed(both, "skip").keep.sum() == N / 2


def test_what_frameworks_ignore_is_no_declared_class(tmp_path: Path) -> None:
    table = pa.table({"sample_id": list("abcd"), "label": [0, -100, 1, -1]})
    pq.write_table(
        table.replace_schema_metadata(class_metadata("label", ("cat", "dog"), {})), tmp_path / "m.parquet"
    )
    found = list_samples(
        open_source(tmp_path / "m.parquet", ReadOptions()), BadSamples("stop"), unlabelled=True
    )
    assert found.labels.tolist() == [0, -1, 1, -1]


def said_of(tmp_path: Path, labels: list[object]) -> str:
    """What `ingest` warns of where these are the labels, in one line."""
    data = table_of(tmp_path, labels)
    return " ".join(metaselect("ingest", data, "--feature-columns", "f*", run=tmp_path / "run").err.split())


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["cat", "nan", "dog", "N/A"], " ('N/A', 'nan' in its place counts as none)"),
        (["0", "1", "-1", "2"], " ('-1' in its place counts as none)"),
        (["cat", "", "dog", "cat"], ""),
    ],
)
def test_texts_that_count_as_no_label_are_named(tmp_path: Path, labels: list[object], named: str) -> None:
    assert f"samples have no label{named}. They can be selected" in said_of(tmp_path, labels)


@pytest.mark.parametrize(
    "labels", [["-1", "cat", "dog"], ["-100", "0.5", "1.5"], ["-1", "1", "2"], ["-1", "5"]]
)
def test_a_number_that_may_stand_for_nothing_is_named(tmp_path: Path, labels: list[object]) -> None:
    assert f"{labels[0]} is a class like the others. Where it stands for no label" in said_of(
        tmp_path, labels
    )


@pytest.mark.parametrize("labels", [["-1", "1"], ["-2", "-1", "0", "1"], ["-7", "cat"], ["1", "2"]])
def test_signs_and_negative_numbers_are_classes(tmp_path: Path, labels: list[object]) -> None:
    assert "stands for no label" not in said_of(tmp_path, labels)


@pytest.mark.parametrize(
    ("labels", "pair"),
    [
        (["cat", "cat\u200b", "dog"], "'cat' and 'cat\\u200b'"),
        (["\ufb01sh", "fish"], "'fish' and '\ufb01sh'"),
        (["a b", "a\u00a0b"], "'a b' and 'a\\xa0b'"),
        (["1", "1e0", "2"], "'1' and '1e0'"),
        (["5,0", "5", "5.50", "5,5"], "'5' and '5,0', '5,5' and '5.50'"),
    ],
)
def test_classes_that_look_the_same_are_named(tmp_path: Path, labels: list[object], pair: str) -> None:
    assert f"Classes look the same, and are kept apart: {pair}." in said_of(tmp_path, labels)


@given(st.lists(st.text(max_size=4), unique=True))
def test_names_that_look_alike_are_some_of_the_names(names: list[str]) -> None:
    found = [name for group in look_alikes(names) for name in group]
    assert len(set(found)) == len(found)
    assert set(found) <= set(names)


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\x07b", "\u202egnp"])
def test_a_class_that_cannot_be_typed_is_named(tmp_path: Path, name: str) -> None:
    said = said_of(tmp_path, [name, "dog"])
    assert (
        f"hold control characters, which people cannot type and some files cannot hold: {visible(name)}."
        in said
    )
    assert "\x1b" not in said


@pytest.mark.parametrize("label", ["x{}", "0.{:03d}", "{}"])
def test_a_column_of_ids_or_measurements_is_not_taken_for_labels_silently(tmp_path: Path, label: str) -> None:
    rows = [(n, label.format(n), "ab"[n % 2], label.format(n // 2)) for n in range(40)]
    data = write_rows(tmp_path / "data.csv", ["f0", "label", "kind", "pair"], rows)
    words = ("ingest", data, "--feature-columns", "f*")
    assert "40 of 40 classes have one sample each. Are they classes?" in " ".join(
        metaselect(*words, run=tmp_path / "run").err.split()
    )
    for column in ("kind", "pair"):
        assert (
            "one sample each" not in metaselect(*words, "--label-column", column, run=tmp_path / column).err
        )


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.date32(), pa.time32("s"), pa.duration("s")])
def test_times_are_no_labels(tmp_path: Path, kind: pa.DataType) -> None:
    whole = pa.int32() if kind.bit_width == 32 else pa.int64()
    columns = {"sample_id": ["a", "b"], "label": pa.array([1, 2], whole).cast(kind)}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    message = refused(tmp_path / "m.parquet")
    assert "column label is " in message
    assert "a label is one name or number" in message


def test_a_label_beside_the_named_classes_can_be_added_to_them(tmp_path: Path) -> None:
    data = table_of(tmp_path, ["0", "1", "5"])
    words = ("ingest", data, "--feature-columns", "f*", "--classes")
    done = metaselect(*words, "0,1,2", run=tmp_path / "run", code=3)
    assert (
        "'5' is not among the classes: there is 0, 1, 2; if it is a class, add it to --classes"
        in " ".join(done.err.split())
    )
    metaselect(*words, "0,1,2,5", run=tmp_path / "run")


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, unique=True))
def test_integers_are_sorted_by_value(numbers: list[int]) -> None:
    assert order_classes(map(str, numbers)) == tuple(map(str, sorted(numbers)))


def test_integers_of_any_length_are_read() -> None:
    long = "7" * 5000
    assert class_form(f"00{long}.000") == long
    assert order_classes([f"-{long}", long, "3", f"{long}1", "-2"]) == (
        f"-{long}",
        "-2",
        "3",
        long,
        f"{long}1",
    )
    assert class_form("-0.0") == "0"
    with pytest.raises(DataError, match="are the same number"):
        order_classes([long, f"0{long}"])


def test_a_folder_may_be_named_as_nothing(tmp_path: Path) -> None:
    """Somebody who made a folder of that name means a class."""
    samples = pictures(8, ("None", "cat"))
    assert classes_of(write_images(tmp_path, samples)) == ("None", "cat")


def test_classes_that_differ_in_case_are_named_and_kept(tmp_path: Path) -> None:
    data = table_of(tmp_path, ["True", "true", "FALSE", "x"])
    done = metaselect("ingest", data, "--feature-columns", "f*", run=tmp_path / "run")
    assert "Classes differ in case only, and are kept apart: 'True' and 'true'." in done.err
    assert case_variants(["a", "B", "b", "A", "c"]) == [("A", "a"), ("B", "b")]
    assert case_variants(["stra\u00dfe", "STRASSE"]) == [("STRASSE", "stra\u00dfe")]


def test_folders_that_are_one_class_are_read_together(tmp_path: Path) -> None:
    for folder, names in (("dog", "ab"), ("dog ", "cd"), ("cat", "ef")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.png").write_bytes(pictures(6)["abcdef".index(name)].raw)
    found = listed(tmp_path)
    assert found.classes == ("cat", "dog")
    assert [found.classes[label] for label in found.labels] == ["cat"] * 2 + ["dog"] * 4
    assert len(set(found.sample_ids)) == 6


def test_test_data_and_truth_are_read_in_the_same_form(tmp_path: Path, finished: Path) -> None:
    truth = tmp_path / "truth.csv"
    with (Path(__file__).parents[1] / "sample_data/truth.csv").open() as stream:
        rows = [(row["sample_id"], f" {row['clean_label']}") for row in csv.DictReader(stream)]
    write_rows(truth, ["sample_id", "clean_label"], rows)
    plain, spaced = (
        metaselect("evaluate", "sample_data/test.parquet", "--truth", path, "--name", "t", "--force", "--json",
                   run=finished, cwd=Path(__file__).parents[1]).json
        for path in ("sample_data/truth.csv", truth)
    )  # fmt: skip
    assert plain["noise"] == spaced["noise"]


NESTED: dict[str, pa.Array] = {
    "list": pa.array([["a"], ["b"]] * 6),
    "struct": pa.array([{"name": "a"}, {"name": "b"}] * 6),
    "map": pa.array([[("a", 1)], [("b", 2)]] * 6, pa.map_(pa.string(), pa.int64())),
}


@pytest.mark.parametrize("kind", NESTED)
def test_a_nested_label_is_refused_with_its_type(tmp_path: Path, kind: str) -> None:
    columns = {"id": [f"x{i}" for i in range(N)], "label": NESTED[kind]}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    message = refused(tmp_path / "data.parquet")
    assert "column label is" in message
    assert kind in message


def test_a_nested_label_in_json_is_refused_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"id": 1, "label": "a"}\n\n{"id": 2, "label": ["b"]}\n')
    assert "row 3: label is a list" in refused(tmp_path / "data.jsonl")
    (tmp_path / "data.jsonl").write_text('{"id": 1, "label": "a"}\n[1]\n')
    assert "line 2 is no object" in refused(tmp_path / "data.jsonl")
    (tmp_path / "data.jsonl").write_text('{"id": 1, "label": "a"\n')
    assert "not a file of JSON lines" in refused(tmp_path / "data.jsonl")


def shard(path: Path, start: int, stop: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    features = pa.array([[float(i)] for i in range(start, stop)], pa.list_(pa.float32()))
    ids = [f"x{i:02d}" for i in range(start, stop)]
    pq.write_table(
        pa.table({"sample_id": ids, "features": features, "label": [i % 2 for i in range(start, stop)]}), path
    )


@pytest.mark.parametrize("folder", ["", "data/"])
def test_files_of_several_splits_are_not_mixed(tmp_path: Path, folder: str) -> None:
    for name, start, stop in (
        ("train-00000-of-00002", 0, 4),
        ("train-00001-of-00002", 4, 8),
        ("test-00000-of-00001", 8, 12),
    ):
        shard(tmp_path / f"{folder}{name}.parquet", start, stop)
    (tmp_path / "README.md").write_text("a data set")
    message = refused(tmp_path)
    assert "Parquet files of several splits: test (1), train (2)" in message
    done = metaselect("ingest", tmp_path, run=beyond(tmp_path), code=3)
    assert "Name one: --split train to train on, --split test for evaluate." in " ".join(done.err.split())
    assert listed(tmp_path, split="train").sample_ids == [f"x{i:02d}" for i in range(8)]
    assert listed(tmp_path, split="test").sample_ids == [f"x{i:02d}" for i in range(8, 12)]
    assert "no Parquet file of the split valid" in refused(tmp_path, split="valid")
    run = made(tmp_path, beyond(tmp_path), split="train")
    assert run.info()["task"] == "features"


SPLIT_FOLDERS = [
    ("train", "test"),
    ("Train", "val", "TEST"),
    ("train2017", "val2017"),
    ("training set", "dev"),
]


@pytest.mark.parametrize("inside", ["csv", "jsonl", "", "classes"])
@pytest.mark.parametrize("names", SPLIT_FOLDERS)
def test_folders_of_splits_are_no_classes(tmp_path: Path, names: tuple[str, ...], inside: str) -> None:
    for place, name in enumerate(names):
        if inside == "classes":
            write_images(tmp_path / name, pictures(4 + place, ("cat", "dog")))
            continue
        beside(tmp_path / name, lambda i: f"{i}.png", inside or "csv")
        if not inside:
            (tmp_path / name / "metadata.csv").unlink()
    done = metaselect("ingest", tmp_path, run=beyond(tmp_path), code=3)
    said = " ".join(done.err.split())
    assert "are named as splits of a data set, not as classes" in said
    if inside:
        assert f"Name one: {tmp_path / names[0]} to train on, {tmp_path / names[-1]} for evaluate." in said
        assert listed(tmp_path / names[0]).classes == ("cat", "dog")  # the remedy that it names


@pytest.mark.parametrize("names", [("train.csv",), ("train.csv", "test.csv"), ("labels.csv",), ()])
def test_tables_beside_folders_of_splits_are_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in ("train", "test"):
        beside(tmp_path / name, lambda i: f"{i}.png", "csv")
        (tmp_path / name / "metadata.csv").unlink()
    rows = [(f"train/{i}.png", "ab"[i % 2]) for i in range(8)]
    tables = [write_rows(tmp_path / name, ["file_name", "label"], rows) for name in names]
    said = " ".join(metaselect("ingest", tmp_path, run=beyond(tmp_path), code=3).err.split())
    if tables:
        more = f", {tables[-1]} for evaluate" if len(tables) > 1 else ""
        assert f"Name one: {tables[0]} to train on{more}. If they are" in said
        assert listed(tables[0]).classes == ("a", "b")
    assert "ame a table (.csv) of the images with their labels." in said


@pytest.mark.parametrize("names", [("train", "ship"), ("test_tube", "flask"), ("trains", "tests")])
def test_a_class_may_be_named_as_a_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert classes_of(write_images(tmp_path, pictures(8, names))) == order_classes(names)


def test_classes_that_are_all_named_as_splits_are_read_from_a_table(tmp_path: Path) -> None:
    write_images(tmp_path, pictures(8, ("train", "test")))
    assert "Name a table (.csv) of the images with their labels." in " ".join(
        metaselect("ingest", tmp_path, run=beyond(tmp_path), code=3).err.split()
    )
    rows = [(each.path, each.label) for each in pictures(8, ("train", "test"))]
    assert classes_of(write_rows(tmp_path / "all.csv", ["image", "label"], rows)) == ("test", "train")


def test_a_split_of_folders_is_named_by_its_folder(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_images(tmp_path / name, pictures(8, ("cat", "dog")))
    done = metaselect("ingest", tmp_path, "--split", "train", run=beyond(tmp_path), code=3)
    assert f"Name {tmp_path / 'train'}, and leave --split out." in " ".join(done.err.split())
    assert (
        "Leave --split out."
        in metaselect("ingest", tmp_path / "train", "--split", "train", run=beyond(tmp_path), code=3).err
    )


@pytest.mark.parametrize(
    "names", [("a", "b"), ("train-a", "train-b"), ("training", "training_2"), ("tests", "trains")]
)
def test_files_of_one_split_are_read_together(tmp_path: Path, names: tuple[str, str]) -> None:
    for place, name in enumerate(names):
        shard(tmp_path / f"{name}.parquet", 4 * place, 4 * place + 4)
    assert len(listed(tmp_path).sample_ids) == 8


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.parquet", "train"),
        ("Test-00000.pq", "test"),
        ("validation_1.parquet", "validation"),
        ("dev.v2.parquet", "dev"),
        ("trained.parquet", "no split"),
        ("my-train.parquet", "no split"),
    ],
)
def test_the_split_is_the_first_word_of_the_name(name: str, split: str) -> None:
    assert split_of(Path(name)) == split


def test_a_split_is_of_folders_of_parquet_files_alone(tmp_path: Path) -> None:
    data = table_of(tmp_path, ["a", "b"])
    assert "no folder of Parquet files" in refused(data, split="train", feature_columns="f*")


def write_table(folder: Path, suffix: str, rows: list[dict[str, str]]) -> None:
    if suffix == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        text = stream.getvalue()
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"metadata.{suffix}").write_text(text)


def beside(folder: Path, place: Callable[[int], str], suffix: str, label: str = "label") -> Path:
    """Images with a table of their labels, cat and dog in turn."""
    rows = []
    for i, picture in enumerate(pictures(8)):
        path = folder / place(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.raw)
        rows.append({"file_name": place(i), label: ("cat", "dog")[i % 2]})
    write_table(folder, suffix, rows)
    return folder


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("place", ["{}.png", "shard-{half}/{}.png", "a/b/{}.png"])
def test_the_table_beside_images_has_their_labels(tmp_path: Path, suffix: str, place: str) -> None:
    beside(tmp_path, lambda i: place.format(i, half=i // 4), suffix)
    found = listed(tmp_path)
    assert found.classes == ("cat", "dog")
    assert [found.classes[label] for label in found.labels] == ["cat", "dog"] * 4
    assert made(tmp_path, beyond(tmp_path)).info()["task"] == "images"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_table_that_contradicts_the_folders_stops(tmp_path: Path, suffix: str) -> None:
    data = beside(tmp_path, lambda i: f"{('dog', 'cat')[i % 2]}/{i}.png", suffix)
    message = refused(data)
    assert "dog/0.png has the label 'cat', and its folder is named like the class 'dog'" in message
    table = data / f"metadata.{suffix}"
    assert listed(table, image_column="file_name").classes == ("cat", "dog")  # the remedy that it names
    table.unlink()
    assert listed(data).classes == ("cat", "dog")


def test_a_table_that_agrees_with_the_folders_is_used(tmp_path: Path) -> None:
    data = beside(tmp_path, lambda i: f"{('cat', 'dog')[i % 2]}/{i}.png", "csv")
    assert listed(data).classes == ("cat", "dog")
    (data / "cat/more.png").write_bytes((data / "cat/0.png").read_bytes())
    done = metaselect("ingest", data, run=beyond(tmp_path))
    assert "images that metadata.csv does not name were left out: 1." in done.err


def test_a_table_without_labels_leaves_them_to_the_folders(tmp_path: Path) -> None:
    data = beside(tmp_path, lambda i: f"{'ab'[i % 2]}/{i}.png", "csv", label="caption")
    done = metaselect("ingest", data, "--json", run=beyond(tmp_path))
    assert done.json["classes"] == ["a", "b"]
    assert "metadata.csv has no column label, so the names of folders are the labels" in done.err
    assert listed(data, label_column="caption").classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["labels.csv", "metadata.csv", "annotations.jsonl"])
@pytest.mark.parametrize("place", ["{}.png", "images/{}.png"])
@pytest.mark.parametrize("column", ["label", "kind"])
def test_images_without_folders_of_classes_have_their_labels_in_a_table(
    tmp_path: Path, name: str, place: str, column: str
) -> None:
    suffix = name.rpartition(".")[2]
    beside(tmp_path, place.format, suffix, column)
    (tmp_path / f"metadata.{suffix}").rename(tmp_path / name)
    if name == "metadata.csv" and column == "label":
        assert classes_of(tmp_path) == ("cat", "dog")
        return
    done = metaselect("ingest", tmp_path, run=beyond(tmp_path), code=3)
    said = " ".join(done.err.split())
    if name == "metadata.csv":
        assert "metadata.csv has no column label: there is file_name, kind" in said
        assert listed(tmp_path, label_column="kind").classes == ("cat", "dog")
    else:
        assert (
            f"no folders of classes, and there is {name}. Name the table of labels: {tmp_path / name}" in said
        )
    if column == "label":
        assert listed(tmp_path / name).classes == ("cat", "dog")


def test_two_tables_are_refused(tmp_path: Path) -> None:
    data = beside(tmp_path, lambda i: f"{i}.png", "csv")
    beside(tmp_path, lambda i: f"{i}.png", "jsonl")
    assert "metadata.csv and metadata.jsonl" in refused(data)


def test_files_that_are_not_read_are_counted_by_suffix(tmp_path: Path) -> None:
    samples = write_images(tmp_path, pictures(6, ("cat", "dog")))
    raw = pictures(1)[0].raw
    for name in (
        "cat/a.svg",
        "cat/b.svg",
        "dog/notes.txt",
        "loose.png",
        "cat/Thumbs.db",
        ".DS_Store",
        "cat/c",
    ):
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "dog/photo.JFIF").write_bytes(encode(np.zeros((6, 6), np.uint8), "JPEG"))
    done = metaselect("ingest", samples, "--json", run=tmp_path.parent / f"{tmp_path.name}-run")
    assert done.json["n"] == 7
    assert "images in no class folder were left out: 1." in done.err
    assert "files that are no readable images were left out: 2 .svg, 1 without a suffix, 1 .txt." in done.err


def test_a_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    for name in ("a/1.svg", "a/2.svg", "b/3.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert "2 .svg, 1 .mp4" in refused(tmp_path)


@pytest.mark.parametrize("separator", [";", "\t", ",", "|"])
@pytest.mark.parametrize("named", [False, True])
def test_csv_files_of_spreadsheets_are_read(tmp_path: Path, separator: str, named: bool) -> None:
    lines = [separator.join(("sample_id", "f0", "label"))]
    lines += [separator.join((f"x{i:02d}", str(i), f'"a{separator}b"' if i % 2 else "c")) for i in range(N)]
    text = (f"sep={separator}\r\n" if named else "") + "\r\n".join(lines) + "\r\n"
    data = tmp_path / ("data.tsv" if separator == "\t" else "data.csv")
    data.write_text(text, newline="")
    found = listed(data, feature_columns="f*")
    assert found.classes == (f"a{separator}b", "c")
    assert found.rows[0] == 2 + named
    assert found.sample_ids[-1] == "x11"


def test_what_is_no_data_says_so(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("x")
    with pytest.raises(DataError, match=r"is no \.csv, \.tsv, \.jsonl or \.parquet file"):
        listed(tmp_path / "data.txt")


WAYS: dict[str, Callable[[Path, str], str]] = {
    "relative": lambda _, name: name,
    "dotted": lambda _, name: f"./{name}".replace("/", "//"),
    "windows": lambda _, name: name.replace("/", "\\"),
    "absolute": lambda folder, name: str(folder / name),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_one_file_has_one_name_however_the_manifest_spells_it(tmp_path: Path, way: str, form: str) -> None:
    samples = pictures(6, ("cat", "dog"))
    write_images(tmp_path / "plain", samples)
    write_images(tmp_path / "other", samples)
    found = []
    for folder, spell in (("plain", WAYS["relative"]), ("other", WAYS[way])):
        place = tmp_path / folder
        paths = [spell(place, sample.path) for sample in samples]
        if form == "csv":
            data = write_rows(
                place / "data.csv", ["image", "label"], [*zip(paths, ("cat", "dog") * 3, strict=True)]
            )
        else:
            data = place / "data.parquet"
            pq.write_table(pa.table({"image": paths, "label": ["cat", "dog"] * 3}), data)
        run = made(data, tmp_path / f"run-{folder}")
        found.append(run.path("data/samples.parquet").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "C:\\secret.png", "..\\secret.png", "a\\..\\..\\secret.png", "\\\\host\\x"]
)
def test_a_path_outside_the_folder_stays_outside(tmp_path: Path, path: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "secret.png").write_bytes(pictures(1)[0].raw)
    data = write_rows(tmp_path / "d/data.csv", ["image", "label"], [(path, "a"), (path, "b")])
    done = metaselect("ingest", data, run=tmp_path / "run", code=3)
    assert "leaves the folder" in done.err


@pytest.mark.parametrize("column", ["id", "image", "label"])
def test_half_a_character_in_json_lines_is_named(tmp_path: Path, column: str) -> None:
    write_images(tmp_path, pictures(4, ("cat", "dog")))
    rows = [
        {"id": f"i{n}", "image": each.path, "label": each.label}
        for n, each in enumerate(pictures(4, ("cat", "dog")))
    ]
    rows[2][column] = "x\ud800"
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        f"row 3: {column} is 'x\\ud800', which is no text"
        in metaselect(
            "ingest", tmp_path / "m.jsonl", "--on-bad-sample", "skip", run=tmp_path / "run", code=3
        ).err
    )


def ingest_fails(data: Path, *words: object) -> str:
    """What `ingest` says when it refuses data, in one line."""
    return " ".join(metaselect("ingest", data, *words, run=beyond(data), code=3).err.split())


@pytest.mark.parametrize("name", ["X.npy", "X.npz", "rows.json"])
def test_files_of_arrays_say_how_to_convert_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    said = ingest_fails(tmp_path / name)
    assert ("list(X)" in said) == ("json" not in name)
    values, labels = np.arange(12.0).reshape(4, 3), [0, 1, 0, 1]
    if name.endswith("json"):
        (tmp_path / name).write_text(json.dumps([{"id": i, "label": labels[i], "f0": i} for i in range(4)]))
    command = said.partition("in Python: ")[2].partition(", where")[0].replace("FILE.json", name)
    with chdir(tmp_path):
        exec(command, {"X": values, "y": labels})
    made_of = tmp_path / ("data.jsonl" if "json" in name else "data.parquet")
    assert listed(made_of, feature_columns="f*" if "json" in name else None).classes == ("0", "1")


def test_names_of_columns_may_have_spaces_around_them(tmp_path: Path) -> None:
    rows = [(each.path, each.label) for each in pictures(4, ("cat", "dog"))]
    write_images(tmp_path, pictures(4, ("cat", "dog")))
    assert listed(write_rows(tmp_path / "m.csv", [" image", " label "], rows)).source.kinds == ("images",)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_columns_in_another_case_are_named_at_once(tmp_path: Path, form: str) -> None:
    samples = pictures(4, ("cat", "dog"))
    write_images(tmp_path, samples)
    rows = [(each.path, each.label) for each in samples]
    data = write_rows(tmp_path / "m.csv", ["Image", "LABEL"], rows)
    if form == "parquet":
        data = tmp_path / "m.parquet"
        pq.write_table(pa.table({"Image": [row[0] for row in rows], "LABEL": [row[1] for row in rows]}), data)
    assert "Name it: --label-column LABEL --image-column Image" in ingest_fails(data)
    assert listed(data, label_column="LABEL", image_column="Image").classes == ("cat", "dog")


@pytest.mark.parametrize("row", ["img/0.png,cat", "a,cat,0.25,0.5", "0.5,0.5,1"])
def test_a_missing_header_is_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "m.csv").write_text(f"{row}\n" * 4)
    assert "The header seems to be missing: write the names of the columns" in ingest_fails(
        tmp_path / "m.csv"
    )


def test_a_header_with_other_names_is_a_header(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("class,0,1,x.mean\na,1,2,3\n")
    assert "Name it with --label-column." in ingest_fails(tmp_path / "m.csv")


def test_a_refusal_names_a_few_of_many_columns(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "m.csv", ["label", *(f"pixel{n}" for n in range(784))], [[0] * 785] * 4)
    for words in ((), ("--feature-columns", "x*"), ("--label-column", "kind")):
        assert len(ingest_fails(data, *words)) < 700


@pytest.mark.parametrize("blank", [",,", ", ,", "", " "])
def test_a_row_of_separators_is_blank(tmp_path: Path, blank: str) -> None:
    lines = ["id,f0,label", *(f"x{n},{n},{n % 2}" for n in range(4)), blank, "x9,9,1", blank]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    found = listed(tmp_path / "m.csv", feature_columns="f*")
    assert found.rows.tolist() == [2, 3, 4, 5, 7]
    assert [int(row[0]) for _, row in found.source.contents(found.keep)] == [0, 1, 2, 3, 9]  # type: ignore[index]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_another_encoding_is_named_in_plain_words(tmp_path: Path, encoding: str, name: str) -> None:
    text = '{"id": 1, "label": "k\u00e4fer"}\n' if name == "m.jsonl" else "id,label\n1,k\u00e4fer\n"
    (tmp_path / name).write_bytes(text.encode(encoding))
    said = ingest_fails(tmp_path / name)
    assert "UTF-8" in said
    assert "codec" not in said


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_a_table_without_samples_is_named(tmp_path: Path, name: str) -> None:
    if name == "m.parquet":
        pq.write_table(
            pa.table({"id": pa.array([], pa.string()), "label": pa.array([], pa.string())}), tmp_path / name
        )
    else:
        (tmp_path / name).write_text("id,label\n" if name == "m.csv" else "\n")
    assert f"{tmp_path / name} " in ingest_fails(tmp_path / name)


NO_PATHS = {
    "C:\\data\\img\\0.png": "a path of Windows; write it relative to the table, or to --image-folder",
    "d:/img/0.png": "a path of Windows",
    "\\\\host\\share\\0.png": "a path of Windows",
    "https://example.org/0.png": "https://example.org/0.png is a URL; only files are read",
    "file:///data/0.png": "is a URL; only files are read, so download the image and name its path",
    "s3://bucket/0.png": "is a URL",
    "data:image/png;base64,iVBORw0KGgo=": "is a URL",
    b64encode(pictures(1)[0].raw * 3).decode(): "images in base64 are not read, so write them to files",
}


@pytest.mark.parametrize("path", NO_PATHS)
@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("words", [(), ("--allow-outside",)])
def test_what_is_no_path_of_this_system_is_named(
    tmp_path: Path, path: str, form: str, words: tuple[str, ...]
) -> None:
    data = write_rows(tmp_path / "m.csv", ["image", "label"], [(path, "a"), (f"{path}1", "b")])
    if form == "parquet":
        data = tmp_path / "m.parquet"
        pq.write_table(pa.table({"image": [path, f"{path}1"], "label": ["a", "b"]}), data)
    said = ingest_fails(data, *words)
    assert NO_PATHS[path] in said
    assert "row " in said
    assert len(said) < 700


@pytest.mark.parametrize("name", ["a:b.png", "data.png", f"{'x' * 120}.png", "http.png"])
def test_odd_names_of_files_are_read(tmp_path: Path, name: str) -> None:
    for number, each in enumerate(pictures(2)):
        (tmp_path / f"{number}{name}").write_bytes(each.raw)
    data = write_rows(tmp_path / "m.csv", ["image", "label"], [(f"0{name}", "a"), (f"1{name}", "b")])
    assert metaselect("ingest", data, "--json", run=beyond(data)).json["n"] == 2


def test_an_empty_image_is_called_empty(tmp_path: Path) -> None:
    write_images(tmp_path, pictures(4, ("cat", "dog")))
    (tmp_path / "cat/p000.png").write_bytes(b"")
    said = ingest_fails(tmp_path)
    assert f"{tmp_path / 'cat/p000.png'}, id " in said
    assert ": it is empty." in said
