"""Files that are damaged, somebody else's, or meant to harm: an exit code of its kind, and nothing half written."""

import io
import json
import os
import random
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation_run import add_round, call, make_run
from command_line import metaselect, tree
from data_makers import listed, pictures, refused, write_images, write_struct

from metaselect.annotation.formats import xml_text
from metaselect.annotation.formats.cvat import CvatFormat
from metaselect.annotation.formats.label_studio_export import is_export, read_export
from metaselect.data.listing import list_samples, open_source
from metaselect.data.readers.base import BadSamples, UnusableContent
from metaselect.data.readers.external_features import read_external_features
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.run.layout import Run

XML = (
    '<?xml version="1.0"?><annotations><version>1.1</version>'
    + "".join(f'<image id="{i}" name="s{i}.png"><tag label="c{i % 3}"/></image>' for i in range(200))
    + "</annotations>"
)


def zipped(text: str, kind: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        archive.writestr("annotations.xml", text)
        archive.writestr("images/x.png", b"123")
    return stream.getvalue()


@pytest.mark.parametrize(
    "kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]
)
def test_a_damaged_zip_is_read_or_refused(kind: int) -> None:
    whole, draw = zipped(XML, kind), random.Random(kind)
    right = CvatFormat().read(whole, "f")
    assert len(right) == 200
    for cut in (1, 22, 300, len(whole) - 5):
        with pytest.raises(DataError, match="damaged zip"):
            CvatFormat().read(whole[:-cut], "f")
    refusals = 0
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(draw.randrange(1, 5)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            assert CvatFormat().read(bytes(changed), "f") == right
        except DataError:
            refusals += 1
    assert refusals > 100


@pytest.mark.parametrize(
    "encoding", ["klingon", "zip", "rot13", "base64", "utf-7", "idna", "shift_jis", "utf-32"]
)
def test_an_xml_encoding_that_is_none_is_refused(encoding: str) -> None:
    text = XML.replace("?>", f' encoding="{encoding}"?>', 1)
    with pytest.raises(DataError, match="not an XML file"):
        CvatFormat().read(text.encode(), "f")


def test_a_zip_that_unpacks_to_much_takes_little_memory() -> None:
    blank = " " * (64 << 20)
    bomb = zipped(XML.replace("</annotations>", f"{blank}</annotations>"), zipfile.ZIP_DEFLATED)
    del blank
    tracemalloc.start()
    assert len(CvatFormat().read(bomb, "f")) == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_the_number_of_elements_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_text, "MAX_ELEMENTS", 402)  # the root, the version, and two for each image
    assert len(CvatFormat().read(XML.encode(), "f")) == 200
    monkeypatch.setattr(xml_text, "MAX_ELEMENTS", 401)
    with pytest.raises(DataError, match="more than 401 elements"):
        CvatFormat().read(XML.encode(), "f")


def test_tracks_of_a_video_are_no_blank_answers() -> None:
    text = (
        '<annotations><track id="0" label="cat"><box frame="0"/></track><image name="a.png"/></annotations>'
    )
    with pytest.raises(DataError, match="tracks"):
        CvatFormat().read(text.encode(), "f")


def not_utf8(texts: list[bytes]) -> pa.Array:
    lengths = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(texts), [None, pa.py_buffer(lengths), pa.py_buffer(b"".join(texts))]
    )


@pytest.mark.parametrize("what", ["id", "label"])
def test_text_that_is_not_utf8_is_named_with_its_row(tmp_path: Path, what: str) -> None:
    columns = {
        "id": pa.array(["x", "y", "z"]),
        "f0": pa.array([1.0, 2.0, 3.0]),
        "label": pa.array(["a", "b", "a"]),
    }
    columns[what] = not_utf8([columns[what][0].as_py().encode(), b"b", b"\xff\xfe"])
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table(columns), path)
    assert f"row 3: its {what} is not text in UTF-8" in refused(path, feature_columns="f0")
    assert listed(path, "skip", feature_columns="f0").keep.tolist() == [True, True, False]


@pytest.mark.parametrize("column", ["features", "id", "label"])
def test_a_column_name_that_is_not_utf8_is_refused(tmp_path: Path, column: str) -> None:
    table = pa.table({"id": list("wxyz"), "features": [[1.0]] * 4, "label": list("abab")})
    path = tmp_path / "data.parquet"
    pq.write_table(table, path, store_schema=False)
    name = column.encode()
    path.write_bytes(path.read_bytes().replace(name, b"\xb6" + name[1:]))
    done = metaselect("ingest", path, run=tmp_path / "new", code=3)
    assert "data.parquet is not a readable Parquet file: 'utf-8' codec can't decode" in done.err
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        read_external_features(path, list("wxyz"), 2)


def test_no_copy_of_a_column_name_that_is_not_utf8_is_a_bug(tmp_path: Path) -> None:
    """A Parquet file holds it in its schema and once for each chunk of a column."""
    path = write_struct(tmp_path / "data.parquet", pictures(6, ("a", "b")), group=3)
    good = path.read_bytes()
    places = [found.start() for found in re.finditer(b"image", good)]
    assert len(places) >= 5
    for number, place in enumerate(places):
        path.write_bytes(good[:place] + b"im\xc6ge" + good[place + 5 :])
        metaselect("ingest", path, run=tmp_path / f"run-{number}", code=3)


@pytest.mark.parametrize("form", ["text", "struct"])
def test_an_image_path_that_is_not_utf8_is_named_with_its_row(tmp_path: Path, form: str) -> None:
    samples = pictures(3, ("a", "b"))
    write_images(tmp_path, samples)
    paths = not_utf8([samples[0].path.encode(), b"\xff.png", samples[2].path.encode()])
    if form == "struct":
        raws = pa.array([None, None, samples[2].raw], pa.binary())
        paths = pa.StructArray.from_arrays([raws, paths], ["bytes", "path"])
    pq.write_table(pa.table({"image": paths, "label": ["a", "b", "a"]}), tmp_path / "data.parquet")
    assert "row 2: its image path is not text in UTF-8" in refused(tmp_path / "data.parquet")
    kept = listed(tmp_path / "data.parquet", "skip")
    contents = dict(kept.source.contents(kept.keep))
    assert contents == {0: samples[0].raw, 2: samples[2].raw}


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()])
def test_large_integers_are_features(tmp_path: Path, kind: pa.DataType) -> None:
    values = [2**53 + 1, 2**62, 0, 7]
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"id": list("wxyz"), "f0": pa.array(values, kind), "label": list("abab")}), path)
    source = open_source(path, ReadOptions(feature_columns="f0"))
    rows: list[Any] = [content for _, content in source.contents(np.ones(4, bool))]
    np.testing.assert_array_equal(np.concatenate(rows), np.array(values, np.float64).astype(np.float32))


PATHS = {"zero": "a\0b.png", "long": "q" * 304 + ".png", "longer": "q/" * 3000 + ".png"}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_no_system_has_is_a_bad_sample(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(pictures(1)[0].raw)
    columns = {"image": ["a.png", PATHS[name], "a.png"], "label": ["x", "y", "y"], "id": ["1", "2", "3"]}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    data = tmp_path / "data.parquet"
    done = metaselect("ingest", data, run=tmp_path / "run", code=3)
    assert "row 2, id 2: the file" in done.err
    assert len(done.err) < 1000
    again = metaselect("ingest", data, "--on-bad-sample", "skip", "--json", run=tmp_path / "run")
    assert (again.json["n"], again.json["skipped"]) == (2, 1)


@pytest.mark.parametrize("form", ["folder", "manifest"])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_only_regular_files_are_opened(tmp_path: Path, form: str, what: str) -> None:
    data = write_images(tmp_path / "d", pictures(6, ("cat", "dog")))
    odd = data / "cat/odd.png"
    if what == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero")
    if form == "manifest":
        rows = [f"{path.relative_to(data)},{path.parent.name}" for path in sorted(data.glob("*/*"))]
        (data / "data.csv").write_text("image,label\n" + "\n".join(rows) + "\n")
        data = data / "data.csv"
    bad = BadSamples("skip")
    listing = list_samples(open_source(data, ReadOptions()), bad)
    contents = dict(listing.source.contents(listing.keep))
    odd_ones = [content for content in contents.values() if isinstance(content, UnusableContent)]
    assert len(odd_ones) == 1
    assert "regular file" in odd_ones[0].reason or "leaves the folder" in odd_ones[0].reason


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s1", "s2"])
    return made


def task(**fields: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"sample_id": "s1", "image": "s1.png"}, **fields}


def chosen(label: str, name: str = "clean_label", **fields: Any) -> dict[str, Any]:
    value = {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"id": 7, "completed_by": 3, "result": [value], **fields}


def labels(content: object) -> list[str]:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    assert is_export(raw)
    return [answer.clean_label for answer in read_export(raw, "f")]


def test_older_and_smaller_forms_of_label_studio_are_read() -> None:
    assert labels([task(completions=[chosen("cat")])]) == ["cat"]
    assert labels(task(annotations=[chosen("cat")])) == ["cat"]
    lines = "\n".join(json.dumps(task(annotations=[chosen(each)])) for each in ("cat", "dog"))
    assert labels(f"\ufeff{lines}\n".encode()) == ["cat", "dog"]
    assert labels(task(annotations=[])) == [""]


def test_a_copied_and_changed_annotation_counts_once() -> None:
    copied = [chosen("cat"), chosen("dog", id=8, parent_annotation=7)]
    assert labels([task(annotations=copied)]) == ["dog"]
    assert labels([task(annotations=[copied[1], copied[0]])]) == ["dog"]
    by_another = [chosen("cat"), chosen("dog", id=8, parent_annotation=7, completed_by=4)]
    assert labels([task(annotations=by_another)]) == ["cat", "dog"]


FLAT = {"sample_id": "s1", "image": "s1.png", "id": 1, "annotator": 1, "annotation_id": 5, "lead_time": 2.0}
BOX = {"from_name": "box", "type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["cat"]}}
ANOTHER_QUESTION: dict[str, tuple[object, str]] = {
    "JSON_MIN": ([{**FLAT, "choice": "cat"}], "answers to choice,"),
    "CSV": (
        ",".join(FLAT) + ",choice\n" + ",".join(map(str, FLAT.values())) + ",cat\n",
        "answers to choice,",
    ),
    "boxes": ([task(annotations=[chosen("cat") | {"result": [BOX]}])], r"answers to box \(rectanglelabels\)"),
    "choices": ([task(annotations=[chosen("cat", "animal")])], r"answers to animal \(choices\)"),
    "no list": ([task(annotations=5)], "the annotations are 5, not a list"),
}


@pytest.mark.parametrize("form", ANOTHER_QUESTION)
def test_answers_to_another_question_are_refused_and_named(form: str, run: Run, tmp_path: Path) -> None:
    content, words = ANOTHER_QUESTION[form]
    path = tmp_path / "answers"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    before = tree(run.root)
    with pytest.raises(DataError, match=words):
        read_export(path.read_bytes(), "f")
    assert call(run, "import", str(path)) == 3
    assert tree(run.root) == before


def test_rows_that_nobody_answered_are_blank() -> None:
    assert labels([{**FLAT, "annotation_id": None, "choice": None}]) == [""]
    assert labels([{**FLAT}]) == [""]  # submitted empty


@pytest.mark.parametrize("field", ["annotator", "sample_id", "label", "note"])
def test_half_a_character_is_refused_and_nothing_is_written(field: str, run: Run, tmp_path: Path) -> None:
    half = "a\ud800"
    annotation = chosen(half if field == "label" else "cat")
    if field == "annotator":
        annotation["completed_by"] = half
    if field == "note":
        annotation["result"].append({"from_name": "note", "type": "textarea", "value": {"text": [half]}})
    sample = task(annotations=[annotation])
    if field == "sample_id":
        sample["data"]["sample_id"] = half
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([sample]))
    before = tree(run.root)
    assert call(run, "import", str(path)) == 3
    assert tree(run.root) == before


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_something_in_place_of_the_lock_is_named(finished: Path, kind: str) -> None:
    (finished / ".lock").unlink(missing_ok=True)
    if kind == "folder":
        (finished / ".lock").mkdir()
    else:
        (finished / ".lock").symlink_to("/nonexistent/x")
    done = metaselect("select", "--budget", 5, "--force", run=finished, code=4)
    assert f"{finished / '.lock'}: " in done.err
    assert "stands where a file or folder of the run belongs" in done.err


def test_a_file_in_place_of_a_folder_is_named(warm: Path) -> None:
    (warm / "reweight").write_text("x")
    words = ("reweight", "--method", "uniform", "--epochs", 1, "--folds", 0)
    assert f"{warm / 'reweight'}: File exists" in metaselect(*words, run=warm, code=4).err


WRONG: dict[str, object] = {
    "options": 7,
    "inputs": {"data/samples.parquet": 5},
    "device": None,
    "auto": "all",
    "outputs": ["model.json"],
    "details": [],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_record_with_a_wrong_type_inside_is_damaged(finished: Path, key: str) -> None:
    path = finished / "warmup/stage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: WRONG[key]}))
    assert f"{path} is damaged" in metaselect("verify", run=finished, code=4).err
    assert "damaged" in metaselect("status", run=finished, code=1).out


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b"])
def test_a_record_names_no_file_outside_its_folder(finished: Path, name: str) -> None:
    path = finished / "warmup/stage.json"
    record = json.loads(path.read_text())
    record["outputs"][name] = next(iter(record["outputs"].values()))
    path.write_text(json.dumps(record))
    assert f"{path} is damaged" in metaselect("verify", run=finished, code=4).err


@pytest.mark.parametrize(
    "text", ['[{{"id": {}, "data": {{}}}}]', '{{"id": {}, "label": ["cat"]}}\n', '[{{"id": -{}}}]']
)
def test_numbers_of_any_length_in_json_are_read_or_refused(text: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "answers.json").write_text(text.format("9" * 5000))
    metaselect("annotate", "import", tmp_path / "answers.json", run=run.root, code=3)
