"""Answer files of other tools and of spreadsheets: each is read, or refused with what it holds and what is expected."""

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from annotation_run import add_round, call, csv_rows, make_run, meta_set, result, votes_of
from command_line import tree
from exchange_run import image_run
from tools import require

from metaselect.annotation.formats.detect import detect_format, load_reader
from metaselect.annotation.formats.read_only import xlsx
from metaselect.cli.main import main
from metaselect.errors import DataError
from metaselect.registry import FORMATS, READ_ONLY
from metaselect.run.layout import Run

Read = list[tuple[str, str, str, str]]
"""(sample_id or image, clean_label, annotator, status) of each answer."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s1", "s2", "s3"])
    return made


def encoded(content: object, *, lines: bool = False) -> bytes:
    if isinstance(content, str):
        return content.encode()
    if lines:
        assert isinstance(content, list)
        return "".join(json.dumps(each) + "\n" for each in content).encode()
    return json.dumps(content).encode()


def read(content: bytes, name: str) -> Read:
    """The answers, after the file was recognised as what it is, and as nothing else."""
    recognised = [each for each in (*FORMATS, *READ_ONLY) if load_reader(each).recognises(content)]
    assert recognised == [name]
    return [
        (each.sample_id or each.image, each.clean_label, each.annotator, each.status)
        for each in load_reader(name).read(content, "f")
    ]


IMAGES: list[dict[str, Any]] = [
    {"id": 1, "filename": "s1.png", "label": ["cat"], "Comments": ["small"]},
    {"id": 2, "filename": "s2.png", "label": [], "Comments": []},
    {"id": 3, "filename": "s3.png", "label": ["cat", "dog"], "Comments": []},
]
TEXTS = [
    {"id": 1, "text": "x", "sample_id": "s1", "label": ["cat"], "Comments": []},
    {"id": 2, "text": "y", "sample_id": "s2", "label": [], "Comments": []},
]
OLDER = [{"id": 1, "text": "x", "meta": {"sample_id": "s1"}, "annotation_approver": None, "labels": ["cat"]}]


@pytest.mark.parametrize("lines", [True, False])
def test_doccano(lines: bool) -> None:
    assert read(encoded(IMAGES, lines=lines), "doccano") == [
        ("s1.png", "cat", "", ""),
        ("s2.png", "", "", ""),
        ("s3.png", "cat", "", ""),
        ("s3.png", "dog", "", ""),
    ]
    assert load_reader("doccano").read(encoded(IMAGES), "f")[0].note == "small"
    assert read(encoded(TEXTS, lines=lines), "doccano") == [("s1", "cat", "", ""), ("s2", "", "", "")]
    assert read(encoded(OLDER, lines=lines), "doccano") == [("s1", "cat", "", "")]


def test_doccano_as_csv() -> None:
    content = "id,text,sample_id,label,Comments\n1,x,s1,cat,good\n2,y,s2,,\n"
    assert read(content.encode(), "doccano") == [("s1", "cat", "", ""), ("s2", "", "", "")]


@pytest.mark.parametrize("shown", ["text", "data"])
def test_doccano_as_csv_is_found_by_sample_id(
    run: Run, capsys: pytest.CaptureFixture[str], shown: str
) -> None:
    path = run.root.parent / "back.csv"
    path.write_text(f"id,{shown},label,sample_id\n1,x,cat,s1\n2,y,dog,s3\n3,z,,s2\n")
    for words in ((), ("--format", "doccano")):
        got = result(run, capsys, "import", str(path), *words)
        assert (got["matched"], got["missing"]) == (2, 1)
    assert meta_set(run) == {"s1": "cat", "s3": "dog"}
    path.write_text(f"id,{shown},label\n1,x,cat\n")  # may be the given labels, and names no sample
    assert main(["annotate", "import", str(path), "--run", str(run.root)]) == 3
    assert "in none of the formats" in capsys.readouterr().err
    assert main(["annotate", "import", str(path), "--format", "doccano", "--run", str(run.root)]) == 3
    assert "names neither a sample_id nor an image" in capsys.readouterr().err


FIFTYONE: dict[str, tuple[object, Read]] = {
    "positions": (
        {"classes": ["cat", "dog"], "labels": {"s1": 0, "s2": 1, "s3": None}},
        [("s1.", "cat", "", ""), ("s2.", "dog", "", ""), ("s3.", "", "", "")],
    ),
    "names": ({"classes": None, "labels": {"s.1": "cat"}}, [("s.1.", "cat", "", "")]),
    "objects": (
        {"classes": ["cat"], "labels": {"s1": {"label": 0, "confidence": None}, "s2": {"label": "dog"}}},
        [("s1.", "cat", "", ""), ("s2.", "dog", "", "")],
    ),
    "several": (
        {"classes": ["cat", "dog"], "labels": {"s1": [0, 1], "s2": []}},
        [("s1.", "cat", "", ""), ("s1.", "dog", "", ""), ("s2.", "", "", "")],
    ),
}


@pytest.mark.parametrize("form", FIFTYONE)
def test_fiftyone(form: str) -> None:
    content, right = FIFTYONE[form]
    assert read(encoded(content), "fiftyone") == right


def record(sample: str, **fields: Any) -> dict[str, Any]:
    return {
        **{"id": f"r-{sample}", "fields": {"image": f"https://host/{sample}.png"}, "metadata": {}},
        **{"suggestions": {"label": {"value": "owl", "score": 0.5, "agent": "m"}}, "responses": {}},
        **{"vectors": {}, "_server_id": "5e", **fields},
    }


NESTED: list[dict[str, Any]] = [
    record("s1", responses={"label": [{"value": "cat", "user_id": "u1"}, {"value": "dog", "user_id": "u2"}]}),
    record("s2", metadata={"sample_id": "s2"}),
    record("s3", id="s3", responses={"label": [{"value": ["cat", "dog"], "user_id": "None"}]}),
]
BY_USER: list[dict[str, Any]] = [
    {
        **{"external_id": "s1", "fields": {"text": "x"}, "suggestions": []},
        "responses": [
            {"user_id": "u1", "values": {"label": {"value": "cat"}}, "status": "submitted"},
            {"user_id": "u2", "values": {"label": {"value": "dog"}}, "status": "discarded"},
            {"user_id": "u3", "values": {"label": {"value": "dog"}}, "status": "draft"},
        ],
    }
]
FLAT: list[dict[str, Any]] = [
    {
        **{"id": "s1", "_server_id": "5e", "image": "s1.png", "label.suggestion": "owl"},
        **{"label.responses": ["cat", "dog"], "label.responses.users": ["u1", "u2"]},
        "label.responses.status": ["submitted", "discarded"],
    },
    {"id": "s2", "_server_id": "5f", "image": "s2.png", "label.suggestion": "owl", "label.responses": None},
]


@pytest.mark.parametrize("lines", [True, False])
def test_argilla(lines: bool) -> None:
    assert read(encoded(NESTED, lines=lines), "argilla") == [
        ("r-s1", "cat", "u1", ""),
        ("r-s1", "dog", "u2", ""),
        ("s2", "", "", ""),
        ("s3", "cat", "", ""),
        ("s3", "dog", "", ""),
    ]
    assert load_reader("argilla").read(encoded(NESTED), "f")[0].image == "https://host/s1.png"
    skipped = [("s1", "cat", "u1", ""), ("s1", "", "u2", "skip")]
    assert read(encoded(BY_USER, lines=lines), "argilla") == skipped
    assert read(encoded(FLAT, lines=lines), "argilla") == [*skipped, ("s2", "", "", "")]


def test_of_several_questions_the_one_of_the_label_counts() -> None:
    both = {"clean_label": [{"value": "cat", "user_id": "u"}], "how_sure": [{"value": 3, "user_id": "u"}]}
    assert read(encoded([record("s1", responses=both)]), "argilla") == [("r-s1", "cat", "u", "")]


OF_IMAGES: dict[str, object] = {
    "doccano": [{"id": 1, "filename": "images/s7.png", "label": ["cat"], "Comments": []}],
    "fiftyone": {"classes": ["cat"], "labels": {"s7": 0}},
    "argilla": [record("s7", responses={"label": [{"value": "cat", "user_id": "u1"}]})],
}


@pytest.mark.parametrize("form", OF_IMAGES)
def test_an_answer_finds_its_sample_by_the_exported_image(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = image_run(tmp_path / "run")
    assert call(run, "export") == 0
    path = tmp_path / "back"
    path.write_bytes(encoded(OF_IMAGES[form]))
    for options in ([], ["--format", form]):
        assert result(run, capsys, "import", str(path), *options)["bought"] == 1
    assert meta_set(run) == {"s7": "cat"}
    assert csv_rows(run.path("annotate/imports.csv"))[0]["format"] == form


FORM = "batch_id,sample_id,image,rank,cluster,cluster_size,clean_label,annotator,status,note"
NOT_UNDERSTOOD: dict[str, tuple[bytes, str]] = {
    "table, other column": (f"{FORM},answer\nb,s1,,1,0,3,,,,,cat\n".encode(), "text in answer"),
    "table, nameless column": (f"{FORM},\nb,s1,,1,0,3,,,,,cat\n".encode(), "text in a column without a name"),
    "metadata.csv": (b"file_name,clean_label,label\ns1.png,,cat\n", "text in label"),
    "metadata.jsonl": (b'{"file_name": "s1.png", "label": "cat"}\n', "text in label"),
    "Label Studio, older rows": (
        encoded([{"image": "s1.png", "id": 1, "choice": "cat"}]),
        "answers to choice",
    ),
    "Label Studio, ids alone": (
        encoded([{"id": 1, "data": {"sample_id": "s1"}, "annotations": [17]}]),
        "f:1 has annotations, and the file leaves out",
    ),
    "Label Studio, counts alone": (
        encoded([{"id": 1, "data": {"sample_id": "s1"}, "total_annotations": 2}]),
        "f:1 has annotations, and the file leaves out",
    ),
    "doccano, boxes": (
        encoded([{"id": 1, "filename": "s1.png", "bbox": [{"label": "cat", "x": 1}]}]),
        "f:1 holds bbox, not a list of class names",
    ),
    "doccano, spans": (
        encoded([{"id": 1, "text": "x", "sample_id": "s1", "label": [[0, 1, "cat"]]}]),
        "f:1 holds the label",
    ),
    "doccano, texts": (
        encoded([{"id": 1, "text": "x", "label": ["cat"]}]),
        "f:1 names neither a sample_id nor an image",
    ),
    "FiftyOne, boxes": (
        encoded({"classes": ["cat"], "labels": {"s1": [{"label": 0, "bounding_box": [0, 0, 1, 1]}]}}),
        "f:1 holds boxes",
    ),
    "FiftyOne, predictions": (
        encoded({"classes": ["cat"], "labels": {"s1": {"label": 0, "confidence": 0.9}}}),
        "f:1 holds a confidence",
    ),
    "FiftyOne, position": (
        encoded({"classes": ["cat"], "labels": {"s1": 1}}),
        "f:1: 1 is no class of the 1 in the file",
    ),
    "Argilla, questions": (
        encoded([record("s1", responses={each: [{"value": "cat"}] for each in ("a", "b")})]),
        "f has responses to a, b",
    ),
    "Argilla, spans": (
        encoded([record("s1", responses={"label": [{"value": [{"start": 0}], "user_id": "u"}]})]),
        "f:1: the response .* names no class",
    ),
}


@pytest.mark.parametrize("kind", NOT_UNDERSTOOD)
def test_answers_that_are_not_understood_are_refused(kind: str, run: Run, tmp_path: Path) -> None:
    content, words = NOT_UNDERSTOOD[kind]
    with pytest.raises(DataError, match=words) as caught:
        load_reader(detect_format(content, "f")).read(content, "f")
    assert caught.value.hint
    path = tmp_path / "answers"
    path.write_bytes(content)
    before = tree(run.root)
    assert call(run, "import", str(path)) == 3
    assert tree(run.root) == before


STRANGE: dict[str, tuple[bytes, str]] = {
    "COCO": (
        encoded({"images": [], "annotations": [], "categories": []}),
        "JSON with the keys images, annotations, categories",
    ),
    "lines": (b'{"frame": 1, "verdict": "cat"}\n' * 2, "JSON with the keys frame, verdict"),
    "table": (b"frame,verdict\n1,cat\n", "a table with the columns frame, verdict"),
    "given labels": (b"filename,label\ns1.png,cat\n", "a table with the columns filename, label"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_file_of_no_known_form_is_described(kind: str) -> None:
    content, words = STRANGE[kind]
    with pytest.raises(DataError, match=f"is in none of the formats .*: it is {words}") as caught:
        detect_format(content, "f")
    assert "sample_id and clean_label" in caught.value.hint


def test_a_zip_of_another_tool_is_named_with_what_is_in_it() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("anna.jsonl", encoded(IMAGES, lines=True))
        archive.writestr("bob.jsonl", "")
    with pytest.raises(DataError, match=r"begins with anna\.jsonl, bob\.jsonl") as caught:
        load_reader("cvat").read(stream.getvalue(), "f")
    assert "--annotator" in caught.value.hint


@pytest.mark.parametrize(
    "form", [FORM, "file_name,sample_id,clean_label", "sample_id,given_label,clean_label"]
)
def test_a_form_without_answers_holds_none_yet(
    form: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answers.csv"
    cells = ["s1" if column == "sample_id" else "" for column in form.split(",")]
    path.write_text(f"{form}\n{','.join(cells)}\n")
    assert call(run, "import", str(path)) == 0
    assert "holds no answer yet" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["doccano", "fiftyone", "argilla"])
@pytest.mark.parametrize("hostile", [7, "x", [7], {"a": 7}, None, True, [[]], [None], 1e9, "\ud800"])
def test_values_of_any_type_are_read_or_refused(form: str, hostile: object) -> None:
    records: dict[str, list[object]] = {
        "doccano": [{**IMAGES[0], key: hostile} for key in (*IMAGES[0], "meta", "sample_id", "bbox")],
        "fiftyone": [
            {"classes": hostile, "labels": {"s1": 0}},
            {"classes": ["cat"], "labels": hostile},
            {"classes": ["cat"], "labels": {"s1": hostile}},
            {"classes": ["cat"], "labels": {"s1": {"label": hostile, "confidence": hostile}}},
            {"classes": [hostile], "labels": {"s1": [0, hostile]}},
        ],
        "argilla": [
            *({**each, key: hostile} for each in (NESTED[0], BY_USER[0], FLAT[0]) for key in each),
            record("s1", responses={"label": hostile}),
            record("s1", responses={"label": [{"value": hostile, "user_id": hostile, "status": hostile}]}),
            {**BY_USER[0], "responses": [{"user_id": "u", "values": {"label": hostile}}]},
        ],
    }
    for each in records[form]:
        content = encoded(each if form == "fiftyone" else [each])
        try:
            answers = load_reader(form).read(content, "f")
        except DataError:
            continue
        assert all(isinstance(text, str) for answer in answers for text in answer[1:])


# Workbooks


def workbook(*sheets: list[list[object]]) -> bytes:
    require("openpyxl")
    from openpyxl import Workbook

    book = Workbook()
    del book["Sheet"]
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def changed(content: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The workbook with another text in one of its parts."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for each in old.namelist():
            new.writestr(each, change(old.read(each)) if each == name else old.read(each))
    return stream.getvalue()


HEADER: list[object] = ["sample_id", "clean_label", "annotator", "status", "note"]
SHEET = "xl/worksheets/sheet1.xml"


def test_a_workbook_is_read_as_the_form_that_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", ["7", "=x", "s1", "3.5"], ["1", "TRUE", "cat"])
    add_round(run, 1, ["7", "=x", "s1", "3.5"])
    rows: list[list[object]] = [
        HEADER,
        [7, 1, "anna"],
        ["'=x", True],
        [],
        ["s1", "cat", None, None, "good"],
        [3.5, None, None, "skip"],
    ]
    path = tmp_path / "labels.xlsx"
    path.write_bytes(workbook([["notes of the meeting"]], rows))
    assert read(path.read_bytes(), "xlsx") == [
        ("7", "1", "anna", ""),
        ("'=x", "TRUE", "", ""),
        ("s1", "cat", "", ""),
        ("3.5", "", "", "skip"),
    ]
    assert result(run, capsys, "import", str(path))["new_votes"] == 4
    assert meta_set(run) == {"7": "1", "=x": "TRUE", "s1": "cat"}
    assert call(run, "export", "--all", "-o", str(path)) == 4  # it holds answers
    assert ("3.5", "", "annotator", "skip") in votes_of(run)


def test_a_form_filled_in_by_a_spreadsheet_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = image_run(tmp_path / "run")
    assert call(run, "export") == 0
    rows = csv_rows(run.path("export/round-1/labels.csv"))
    table: list[list[object]] = [[*rows[0]]]
    table += [[row[key] if key != "clean_label" else "cat" for key in row] for row in rows]
    path = tmp_path / "back.xlsx"
    path.write_bytes(workbook(table))
    assert result(run, capsys, "import", str(path))["bought"] == len(rows)


REFUSED: dict[str, tuple[list[list[list[object]]], str]] = {
    "no sheet": ([[["a", "b"]], []], "has 0 sheets"),
    "two sheets": ([[HEADER, ["s1", "cat"]], [HEADER, ["s1", "dog"]]], "has 2 sheets"),
    "another column": ([[[*HEADER, "answer"], ["s1", None, None, None, None, "cat"]]], "text in answer"),
    "no id": ([[HEADER, [None, "cat"]]], "f:2 has an answer but no sample_id"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_workbook_that_is_no_form_is_refused(kind: str) -> None:
    sheets, words = REFUSED[kind]
    with pytest.raises(DataError, match=words):
        read(workbook(*sheets), "xlsx")


def test_a_workbook_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    good = workbook([HEADER, ["s1", "cat"]])
    far = changed(good, SHEET, lambda text: text.replace(b'<row r="2"', b'<row r="99999999999999"'))
    wide = changed(good, SHEET, lambda text: text.replace(b'r="E1"', b'r="XFD1"'))
    declared = changed(good, SHEET, lambda text: text.replace(b"A1:E2", b"A1:XFD1048576"))
    assert far != good
    assert declared != good
    monkeypatch.setattr(xlsx, "MAX_CELLS", 200_000)
    with pytest.raises(DataError, match="more than 200,000 cells"):
        read(far, "xlsx")
    monkeypatch.undo()
    assert read(wide, "xlsx") == read(declared, "xlsx") == [("s1", "cat", "", "")]
    monkeypatch.setattr(xlsx, "MAX_CELLS", 6)
    with pytest.raises(DataError, match="more than 6 cells"):
        read(good, "xlsx")
    monkeypatch.undo()
    for part, limit in ((SHEET, "MAX_BYTES"), ("xl/styles.xml", "MAX_PART")):
        monkeypatch.setattr(xlsx, limit, 1 << 20)
        with pytest.raises(DataError, match="unpacks to more than"):
            read(changed(good, part, lambda text: text + b" " * (2 << 20)), "xlsx")
        monkeypatch.undo()


@pytest.mark.parametrize("part", [SHEET, "xl/workbook.xml", "xl/styles.xml", "[Content_Types].xml"])
@pytest.mark.parametrize(
    "damage", [lambda text: text[: len(text) // 2], lambda text: b"", lambda text: text[::-1]]
)
def test_a_damaged_workbook_is_refused(part: str, damage: Callable[[bytes], bytes]) -> None:
    good = workbook([HEADER, ["s1", "cat"]])
    with pytest.raises(DataError, match=r"f is a damaged (workbook|zip)|has 0 sheets"):
        read(changed(good, part, damage), "xlsx")
    with pytest.raises(DataError, match="damaged zip"):
        load_reader("xlsx").read(good[: len(good) * 2 // 3], "f")


def test_a_workbook_without_openpyxl_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    assert detect_format(content.getvalue(), "f") == "xlsx"
    with pytest.raises(DataError, match="openpyxl, which reads it, is not installed") as caught:
        load_reader("xlsx").read(content.getvalue(), "f")
    assert "CSV UTF-8" in caught.value.hint
    assert "pip install" in caught.value.hint
