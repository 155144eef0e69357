"""Single formats: files that other tools wrote, what they do to answers, what is refused, what a form may hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from annotation_run import (
    add_gradients,
    add_round,
    add_weights,
    call,
    csv_rows,
    error,
    make_run,
    result,
    votes_of,
)
from exchange_run import CHOSEN, CLASSES, image_run
from exchange_tools import zipped
from hypothesis import given
from hypothesis import strategies as st

from metaselect.annotation.formats import cvat
from metaselect.annotation.formats.base import Answer, Form
from metaselect.annotation.formats.csv import CsvFormat
from metaselect.annotation.formats.cvat import CvatFormat
from metaselect.annotation.formats.detect import detect_format
from metaselect.annotation.formats.hf import HfFormat
from metaselect.annotation.formats.label_studio import LabelStudioFormat
from metaselect.annotation.matching.spreadsheet_damage import SpreadsheetDamage
from metaselect.errors import DataError
from metaselect.run.layout import Run

FIXTURES = Path(__file__).parent / "fixtures/exchange"
OWL = CLASSES[2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return image_run(tmp_path / "run")


SKIPPED = [("s2", "", "anna@example.org", "skip")]
LABELLED = [
    ("s0", "dög", "anna@example.org", "done"),
    ("s1", "cat", "8", "done"),
    ("s1", OWL, "anna@example.org", "done"),
]
UNUSABLE = [("s3", "", "anna@example.org", "bad_sample")]


@pytest.mark.parametrize(
    ("name", "skipped"),
    [("label-studio.json", SKIPPED), ("label-studio-min.json", []), ("label-studio.csv", [])],
)
def test_what_label_studio_wrote_is_read(
    run: Run, capsys: pytest.CaptureFixture[str], name: str, skipped: Any
) -> None:
    assert call(run, "export", "--format", "label-studio") == 0
    got = result(run, capsys, "import", str(FIXTURES / name))
    assert votes_of(run) == LABELLED + skipped + UNUSABLE
    assert got["conflicts"] == [{"sample_id": "s8", "annotator": "anna@example.org"}]  # two labels
    assert (got["matched"], got["skipped"], got["unusable"], got["tied"]) == (3, len(skipped), 1, 1)
    assert got["missing"] == 3 - len(skipped)  # s7 was submitted empty, s8 contradicts itself
    assert (got["unknown"], got["mismatched"], got["other_batch"]) == (0, 0, 0)


def test_the_three_exports_of_label_studio_are_one_set_of_votes(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "export", "--format", "label-studio") == 0
    new = [
        result(run, capsys, "import", str(FIXTURES / name))["new_votes"]
        for name in ("label-studio-min.json", "label-studio.csv", "label-studio.json")
    ]
    assert new == [4, 0, 1]  # only the raw JSON knows who skipped


def test_what_datumaro_wrote_for_cvat_is_read(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "export", "--format", "cvat") == 0
    got = result(run, capsys, "import", str(FIXTURES / "cvat.xml"), "--annotator", "anna")
    assert votes_of(run) == [
        ("s0", "dög", "anna", "done"),
        ("s1", "cat", "anna", "done"),
        ("s2", OWL, "anna", "done"),
        ("s3", "", "anna", "bad_sample"),
    ]
    assert got["conflicts"] == [{"sample_id": "s8", "annotator": "anna"}]
    assert (got["missing"], got["matched_by"]["image"]) == (2, 6)


def test_datasets_saw_every_row_column_and_image_of_the_folder(run: Run) -> None:
    assert call(run, "export", "--format", "hf") == 0
    loaded = json.loads((FIXTURES / "hf-loaded.json").read_text())
    rows = csv_rows(run.path("export/round-1/hf/train/metadata.csv"))
    assert [row["sample_id"] for row in loaded] == [row["sample_id"] for row in rows] == list(CHOSEN)
    for seen, row in zip(loaded, rows, strict=True):
        assert seen["image"] == seen["content_hash"] == row["content_hash"]
        assert {"image", *row} - {"file_name"} == set(seen)
        assert seen["batch_id"] == row["batch_id"]


def annotated(*annotations: dict[str, object], **data: str) -> bytes:
    return json.dumps([{"id": 1, "data": {"sample_id": "a", **data}, "annotations": annotations}]).encode()


def chose(*labels: str, who: object = 1, control: str = "clean_label", **more: Any) -> dict[str, object]:
    choice = {"from_name": control, "type": "choices", "value": {"choices": labels}}
    return {"completed_by": who, "result": [choice], **more}


def read(content: bytes) -> list[tuple[str, str, str]]:
    return [
        (each.annotator, each.clean_label, each.status) for each in LabelStudioFormat().read(content, "f")
    ]


def test_annotators_of_label_studio_are_numbers_or_people() -> None:
    people = ({"id": 4, "email": "x@y"}, {"id": 4}, 4, None)
    assert [read(annotated(chose("cat", who=who)))[0][0] for who in people] == ["x@y", "4", "4", ""]


def test_what_is_no_name_in_label_studio_names_nobody() -> None:
    for nobody in (float("nan"), True, False, {"id": float("nan")}, None):
        assert read(annotated(chose("cat", who=nobody))) == [("", "cat", "")]


def test_who_skipped_and_then_answered_has_answered() -> None:
    skipped = {"completed_by": 1, "was_cancelled": True, "result": []}
    assert read(annotated(skipped, chose("cat"))) == [("1", "cat", "")]
    assert read(annotated(skipped, chose("cat", who=2))) == [("2", "cat", ""), ("1", "", "skip")]
    assert read(annotated(skipped)) == [("1", "", "skip")]
    assert read(annotated()) == [("", "", "")]
    assert read(annotated({"completed_by": 1, "result": []})) == [("1", "", "")]


def test_choices_under_another_name_are_not_taken_in_silence() -> None:
    with pytest.raises(DataError, match=r"answers to animal \(choices\), and no choices named clean_label"):
        LabelStudioFormat().read(annotated(chose("cat", control="animal")), "f")


@pytest.mark.parametrize(
    ("url", "image"),
    [
        ("/data/local-files/?d=images/a%20b.png", "images/a b.png"),
        ("/data/upload/3/1a2b3c4d-deadbeef-x.png", "/data/upload/3/deadbeef-x.png"),
        ("s3://bucket/images/deadbeef-x.png", "/images/deadbeef-x.png"),
        ("https://host/images/a.png?token=1", "/images/a.png"),
        ("deadbeef-x.png", "deadbeef-x.png"),
        ("http://[bad/a.png", "http://[bad/a.png"),
    ],
)
def test_the_name_of_an_image_is_found_in_its_address(url: str, image: str) -> None:
    (answer,) = LabelStudioFormat().read(annotated(image=url), "f")
    assert answer.image == image


TAGGED = b'<annotations><image id="0" name="s7.png"><tag label="cat"/></image></annotations>'


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'<!DOCTYPE a [<!ENTITY x "y">]><annotations/>', "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "document type"),
        (b"<annotations><image>", "not an XML file"),
        (b"<other><image name='a'/></other>", "not an export of CVAT"),
        (zipped({"other.xml": TAGGED}), "holds 0 files"),
        (zipped({"a/annotations.xml": TAGGED, "annotations.xml": TAGGED}), "holds 2 files"),
        (zipped({"annotations.xml": TAGGED})[:-30], "damaged zip"),
    ],
)
def test_what_is_no_harmless_export_of_cvat_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        CvatFormat().read(content, "file")
    assert "CVAT for images 1.1" in caught.value.hint


def test_boxes_are_no_tags_and_say_so() -> None:
    box = b'<box label="cat" xtl="0" ytl="0" xbr="4" ybr="4" occluded="0" z_order="0"></box>'
    boxed = TAGGED.replace(b'<tag label="cat"/>', box)
    with pytest.raises(DataError, match="holds 1 boxes, tracks or other shapes, and no tags"):
        CvatFormat().read(boxed, "annotations.xml")
    boxes = b"".join(b'<image id="%d" name="box-%d.png">%b</image>' % (n, n, box) for n in range(1, 7))
    mixed = TAGGED.replace(b"</image>", b"</image>" + boxes + b'<image id="3" name="empty.png"/>')
    track = TAGGED.replace(b"</image>", b'</image><track id="7" label="cat">' + box + b"</track>")
    for content, where in (
        (mixed, "box-1.png, box-2.png, box-3.png, box-4.png, box-5.png and 1 more"),
        (track, "track 7"),
    ):
        assert b"<tag" in content
        with pytest.raises(
            DataError, match=f"holds boxes or other shapes and no tag for {where}; elsewhere"
        ) as caught:
            CvatFormat().read(content, "annotations.xml")
        assert "tag these in CVAT" in caught.value.hint
    both = TAGGED.replace(b"</image>", box + b"</image>")
    assert CvatFormat().read(both, "x") == CvatFormat().read(TAGGED, "x")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_cvat_in_utf_16_is_read_or_told_to_be_utf_8(encoding: str) -> None:
    mark = "" if encoding == "utf-16" else "\ufeff"
    content = (mark + TAGGED.decode()).encode(encoding)
    assert detect_format(content, "back.xml") == "cvat"
    assert CvatFormat().read(content, "back.xml") == CvatFormat().read(TAGGED, "back.xml")
    wrong = (mark + '<?xml version="1.0" encoding="utf-8"?>' + TAGGED.decode()).encode(encoding)
    with pytest.raises(DataError, match="is not an XML file: encoding specified") as caught:
        CvatFormat().read(wrong, "back.xml")
    assert "The XML is in UTF-8" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("sample_id,clean_label\na,groß\n".encode("cp1252"), "is not UTF-8 text"),
        ("sample_id\tclean_label\na\tcat\n".encode("utf-16"), "is not UTF-8 text"),
        (b'[{"id": 1, "data": {"sample_id": "a"', "is cut off or damaged JSON"),
        (b'[\n  {"id": 1,', "is cut off or damaged JSON"),
        (b'{"file": "a"}\n{"file": "b"}\n', "is in none of the formats"),
        (b"[id],label\na,cat\n", "is in none of the formats"),
        (b'[{"a":' + b"[" * 100_000, "is in none of the formats"),
        (b"minutes of the meeting\n", "is in none of the formats"),
    ],
)
def test_a_file_that_no_format_knows_is_told_what_it_lacks(content: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why):
        detect_format(content, "back")


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_header_tells_what_separates_the_cells(mark: str) -> None:
    content = mark.join(("sample_id", "clean_label")) + "\n" + mark.join(("a", "cat")) + "\n"
    assert [answer.clean_label for answer in CsvFormat().read(content.encode(), "a.csv")] == ["cat"]


def test_a_line_before_the_header_may_name_the_delimiter() -> None:
    content = b"\xef\xbb\xbfsep=;\r\nsample_id;clean_label\r\na;cat\r\n"
    assert detect_format(content, "back.csv") == "csv"
    assert [(each.row, each.sample_id, each.clean_label) for each in CsvFormat().read(content, "x")] == [
        (3, "a", "cat")
    ]
    odd = b'sep=;\n"sample_id,x";sample_id;clean_label\na;b;cat\n'
    assert [each.sample_id for each in CsvFormat().read(odd, "x")] == ["b"]


def test_a_zip_is_read_whatever_its_paths_and_never_beyond_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    content = zipped({"../../annotations.xml": TAGGED, "/images/x.png": b"png"})
    assert CvatFormat().read(content, "f") == [Answer(1, "", "cat", "", "", "", "", "s7.png")]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(cvat, "MAX_BYTES", len(TAGGED) - 1)
    with pytest.raises(DataError, match="more than"):
        CvatFormat().read(content, "f")


def test_files_of_no_format_or_of_two_name_the_formats() -> None:
    for content in (b"name,label\na,cat\n", b'{"a": 1}', b"[1, 2]"):
        with pytest.raises(DataError, match="none of the formats csv, label-studio, cvat, hf"):
            detect_format(content, "f")
    with pytest.raises(DataError, match="could be label-studio or hf"):
        detect_format(b"file_name,annotation_id,sample_id,clean_label\n", "f")
    with pytest.raises(DataError, match="is empty"):
        detect_format(b" \n", "f")


def test_metadata_as_json_lines_is_read() -> None:
    first_line = b'\xef\xbb\xbf{"file_name": "images/a.png", "sample_id": "a", "clean_label": "cat"}\n'
    lines = first_line + b'\n{"file_name": "b.png"}\n'
    assert detect_format(lines, "f") == "hf"
    first, second = HfFormat().read(lines, "f")
    assert (first.sample_id, first.clean_label, first.image) == ("a", "cat", "images/a.png")
    assert (second.row, second.sample_id, second.clean_label, second.image) == (3, "", "", "b.png")
    with pytest.raises(DataError, match="f:2 is no JSON object"):
        HfFormat().read(b'{"file_name": "a"}\nx\n', "f")


def test_names_and_hashes_alone_find_their_sample(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "export", "--format", "hf") == 0
    rows = csv_rows(run.path("export/round-1/hf/train/metadata.csv"))
    back = run.root.parent / "back.csv"
    back.write_text("image,clean_label\nelsewhere/S7.JPG,cat\na/s0.png,cat\nb/s0.png,dög\n")
    got = result(run, capsys, "import", str(back))  # two files s0.png: neither can be meant
    assert (got["matched"], got["matched_by"]["image"], got["unknown"]) == (1, 1, 2)
    back.write_text(f"content_hash,clean_label\n{rows[2]['content_hash']},cat\n{'0' * 64},cat\n")
    got = result(run, capsys, "import", str(back))
    assert (got["matched"], got["matched_by"]["content_hash"], got["unknown"]) == (1, 1, 1)
    back.write_text("sample_id,image,clean_label\nnobody,s7.png,cat\n")
    assert call(run, "import", str(back)) == 0
    assert "image or content is known, taken by that: nobody." in capsys.readouterr().err
    assert [vote[0] for vote in votes_of(run)] == [
        "s7",
        "s3",
        "s7",
    ]  # each file's own, also what counted already


@pytest.mark.parametrize(
    ("spoilt", "meant"),
    [
        ("7", "007"), ("1.00E+05", "1e5"), ("100000", "1e5"), ("1.23457E+11", "123456789012"),
        ("04-Mar", "3-4"), ("2026-05-06 00:00:00", "6/5"), ("1-Sep", "SEP1"), ("8", None), ("x", None),
        ("2.00E+05", None), ("11", None),
    ],
)  # fmt: skip
def test_what_a_spreadsheet_made_of_an_id_is_recognised(spoilt: str, meant: str | None) -> None:
    ids = ["007", "1e5", "3-4", "6/5", "SEP1", "123456789012", "123999999999", "011", "0011", "s1"]
    assert SpreadsheetDamage(ids).likely_id(spoilt) == meant


@given(st.integers(0, 10**9), st.integers(1, 6))
def test_eaten_zeros_are_always_recognised(number: int, zeros: int) -> None:
    assert SpreadsheetDamage(["0" * zeros + str(number), "s7", "x-1"]).likely_id(
        str(number)
    ) == "0" * zeros + str(number)


def test_spoilt_ids_are_named_and_never_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", ["007", "1e5", "3-4", "s1"])
    add_round(run, 1, ["007", "1e5", "3-4", "s1"])
    back = tmp_path / "back.csv"
    back.write_text("sample_id,clean_label\n7,cat\n1.00E+05,cat\n04-Mar,cat\ns1,dog\n")
    got = result(run, capsys, "import", str(back))
    assert (got["matched"], got["unknown"], got["missing"]) == (1, 3, 3)
    assert got["likely_ids"] == {"7": "007", "1.00E+05": "1e5", "04-Mar": "3-4"}
    assert call(run, "import", str(back)) == 0
    assert (
        "A spreadsheet may have written 04-Mar for 3-4, 1.00E+05 for 1e5, 7 for 007"
        in capsys.readouterr().err
    )
    back.write_text("sample_id,clean_label\n7,cat\n")
    assert "may have been '007'" in error(run, capsys, "import", str(back), code=3)
    assert len(votes_of(run)) == 1


def test_spoilt_ids_outside_of_the_round_are_named_where_these_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", ["007", "0012", "s1"])
    add_round(run, 1, ["s1"])
    back = tmp_path / "back.csv"
    back.write_text("sample_id,clean_label\n7,cat\n12,cat\ns1,dog\n")
    assert result(run, capsys, "import", str(back))["likely_ids"] == {}
    got = result(run, capsys, "import", str(back), "--outside-round")
    assert got["likely_ids"] == {"7": "007", "12": "0012"}
    assert [vote[0] for vote in votes_of(run)] == ["s1"]
    back.write_text("sample_id,clean_label\n7,cat\n")
    said = error(run, capsys, "import", str(back), "--outside-round", code=3)
    assert "may have been '007', spoilt by a spreadsheet" in said


@pytest.mark.parametrize("form", ["csv", "label-studio", "cvat", "hf"])
def test_no_name_and_no_text_of_a_form_holds_the_source_path_or_the_given_label(run: Run, form: str) -> None:
    assert call(run, "export", "--format", form) == 0
    folder = run.path("export/round-1")
    files = [path for path in folder.rglob("*") if path.is_file()]
    images = [path for path in files if path.suffix == ".png"]
    assert sorted(path.stem for path in images) == sorted(CHOSEN)
    for path in files:
        if path not in images and path.name not in ("classes.json", "labels.json", "config.xml"):
            text = path.read_text(encoding="utf-8").partition("</meta>")[2] or path.read_text(
                encoding="utf-8"
            )
            assert [each for each in (*CLASSES, "a.png", "/a.") if each in text] == []


def test_the_given_label_is_shown_only_where_it_is_asked_for(run: Run) -> None:
    given = {each: CLASSES[int(each[1:]) % 3] for each in CHOSEN}
    assert call(run, "export", "--format", "hf", "--show-given") == 0
    rows = csv_rows(run.path("export/round-1/hf/train/metadata.csv"))
    assert {row["sample_id"]: row["given_label"] for row in rows} == given
    assert call(run, "export", "--format", "label-studio", "--show-given") == 0
    tasks = json.loads(run.path("export/round-1/label-studio/tasks.json").read_text(encoding="utf-8"))
    assert {task["data"]["sample_id"]: task["data"]["given_label"] for task in tasks} == given
    assert call(run, "export", "--format", "label-studio", "--force") == 0
    assert "given_label" not in run.path("export/round-1/label-studio/tasks.json").read_text(encoding="utf-8")


def test_predictions_are_those_of_the_model_that_was_re_weighted_last(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", "--format", "label-studio", "--with-predictions", "--force")
    assert "metaselect reweight" in error(run, capsys, *words, code=4)
    add_gradients(run, {each: [0.2, 0.7, 0.1] for each in CHOSEN}, epoch=3)
    add_gradients(run, {each: [0.1, 0.2, 0.7] for each in CHOSEN}, epoch=12)
    assert call(run, *words) == 0
    path = run.path("export/round-1/label-studio/tasks.json")
    first = [task["predictions"][0] for task in json.loads(path.read_text())]
    assert {each["result"][0]["value"]["choices"][0] for each in first} == {OWL}
    assert {each["score"] for each in first} == {0.7}
    assert {each["model_version"].partition("-")[0] for each in first} == {"warmup"}
    add_weights(run, [(each, CLASSES[number % 2], 0.25) for number, each in enumerate(CHOSEN)])
    assert call(run, *words) == 0
    then = [task["predictions"][0] for task in json.loads(path.read_text())]
    assert [each["result"][0]["value"]["choices"][0] for each in then] == ["cat", "dög"] * 3
    assert {each["model_version"].partition("-")[0] for each in then} == {"direct"}
    add_weights(run, [(each, "dög", 0.25) for each in CHOSEN], name="uniform")  # only where there is no other
    before = path.read_bytes()
    assert call(run, *words) == 0
    assert path.read_bytes() == before
    add_weights(run, [("s7", "cat", 0.25)], name="later")
    assert "no prediction for 5 samples" in error(run, capsys, *words, code=4)


def test_what_a_format_has_no_place_for_is_a_usage_error(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ("--format", "cvat", "--show-given"),
        ("--format", "csv", "--with-predictions"),
        ("--format", "hf", "--no-images"),
        ("--format", "cvat", "-o", "-"),
    ):
        assert words[1] in error(run, capsys, "export", *words, code=2) or words[-1] == "-"
    taken = tmp_path / "taken.csv"
    taken.write_text("x")
    assert "is a file" in error(run, capsys, "export", "--format", "hf", "-o", str(taken), code=2)
    features = make_run(tmp_path / "features")
    add_round(features, 1, ["s1"])
    assert "this run has none" in error(features, capsys, "export", "--format", "cvat", code=2)
    assert not run.path("annotate").exists()


def test_a_form_with_answers_is_never_overwritten_nor_a_changed_file_beside_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", "--format", "label-studio", "-o", str(tmp_path / "form"))
    assert call(run, *words) == 0
    assert csv_rows(run.path("annotate/exports.csv"))[0]["file"] == (tmp_path / "form").as_posix()
    config = tmp_path / "form/config.xml"
    config.write_text("<View/>")
    assert "config.xml is there already" in error(run, capsys, *words, code=4)
    assert call(run, *words, "--force") == 0
    assert "clean_label" in config.read_text()
    tasks = json.loads((tmp_path / "form/tasks.json").read_text())
    tasks[0]["annotations"] = [chose("cat")]
    (tmp_path / "form/tasks.json").write_text(json.dumps(tasks))
    assert "holds answers" in error(run, capsys, *words, "--force", code=4)


def test_a_class_that_xml_cannot_spell_is_refused_with_another_way() -> None:
    for form in (LabelStudioFormat(), CvatFormat()):
        with pytest.raises(DataError, match="character that XML does not have") as caught:
            form.write(Form("b01-0", (), ("cat", "a\x01")))
        assert "--format csv" in caught.value.hint


def test_names_of_a_later_form_are_those_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = image_run(tmp_path / "run", ids=("Case", "case", "x"), chosen=("Case", "case", "x"))
    assert call(run, "export", "--format", "cvat") == 0
    names = {row["sample_id"]: row["image"] for row in csv_rows(run.path("export/round-1/cvat/id_map.csv"))}
    assert names["x"] == "x.png"
    back = tmp_path / "back.csv"
    back.write_text("sample_id,clean_label\nCase,cat\nx,cat\n")
    assert call(run, "import", str(back)) == 0
    assert call(run, "export", "--format", "cvat", "-o", str(tmp_path / "later")) == 0
    (row,) = csv_rows(tmp_path / "later/id_map.csv")
    assert (row["sample_id"], row["image"]) == ("case", names["case"])
