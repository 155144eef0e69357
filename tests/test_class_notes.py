"""The notes about classes: read row by row, refused with the row, and no way out of their folder or into the page."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from annotation_run import add_round, call, error, make_run
from command_line import run_process
from data_makers import encode
from PIL import Image
from test_page import HOSTILE, Reader

from metaselect.annotation.formats.base import ClassNote
from metaselect.annotation.formats.class_notes import read_class_notes
from metaselect.annotation.formats.page import served_page
from metaselect.data.thumbnails import LONGEST_SIDE
from metaselect.errors import DataError
from metaselect.run.layout import Run

CLASSES = ("cat", "dog", "=owl")
NOISE = np.random.default_rng(7).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "notes"
    (place / "sub").mkdir(parents=True)
    (place / "sub/a.png").write_bytes(encode(NOISE))
    (tmp_path / "secret.png").write_bytes(encode(NOISE))
    return place


def read(folder: Path, text: str) -> tuple[ClassNote, ...]:
    path = folder / "notes.csv"
    path.write_text(text, encoding="utf-8")
    return read_class_notes(path, CLASSES)


def test_notes_come_by_class_then_by_row(folder: Path) -> None:
    notes = read(
        folder, 'class,note,image\ndog,barks,\n\'=owl,by night,\ncat,"purrs,\nthen sleeps",\ncat,,sub/a.png\n'
    )
    assert [(note.label, note.note) for note in notes] == [
        (0, "purrs,\nthen sleeps"),
        (0, ""),
        (1, "barks"),
        (2, "by night"),
    ]
    assert [note.picture is None for note in notes] == [True, False, True, True]


@pytest.mark.parametrize(
    "text",
    [
        "note;class\nbarks;dog\n",
        "sep=;\nclass;note\ndog;barks\n",
        "\ufeffclass,note\r\ndog,barks\r\n",
    ],
)
def test_spreadsheets_may_separate_as_they_like(folder: Path, text: str) -> None:
    assert read(folder, text) == (ClassNote(1, "barks"),)


def test_pictures_are_small_and_hold_pixels_alone(folder: Path) -> None:
    secret = Image.Exif()
    secret[0x010E] = "a hidden text"
    raw = encode(np.zeros((700, 1400, 3), np.uint8), "JPEG", exif=secret)
    (folder / "big.jpg").write_bytes(raw)
    big, small = read(folder, "class,note,image\ncat,,big.jpg\ncat,,./sub/a.png\n")
    assert big.picture is not None
    assert small.picture is not None
    assert b"a hidden text" in raw
    assert b"a hidden text" not in big.picture[1]
    assert big.picture[0] == "image/jpeg"
    assert Image.open(io.BytesIO(big.picture[1])).size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert small.picture[0] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(small.picture[1]))), NOISE)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("class,note\ncat,x\ndgo,y\n", r"notes\.csv:3: 'dgo' is not a class: did you mean 'dog'\?", "Correct"),
        ("class,note\n,y\n", "notes.csv:2: '' is not a class", "Correct"),
        ("class,note\ncat, \n", "notes.csv:2 says nothing about 'cat'", "note or image"),
        ("class,image\ncat,sub/a.png\n", "has the columns class, image", "class, note"),
        ("class,note,picture\ncat,x,sub/a.png\n", "has the columns class, note, picture", "class, note"),
        ("class,note,note\ncat,x,y\n", "has the columns class, note, note", "class, note"),
        ("", "is empty", "name the columns"),
        ("class,note\ncat,x,y\n", "notes.csv:2 has more cells", "Quote"),
        ("class,note,image\ncat,x,sub/b.png\n", "notes.csv:2: the image 'sub/b.png' .*does not exist", "Name another"),
        ("class,note,image\ncat,x,notes.csv\n", "not an image in a known format", "Name another"),
        ("class,note,image\ncat,x,sub\n", "not a regular file", "Name another"),
        ("class,note,image\ncat,x,https://example.org/a.png\n", "is a URL", "Name another"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_its_row(folder: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(folder, text)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "way", ["../secret.png", "sub/../../secret.png", "absolute", "link", "sub/folder/secret.png"]
)
def test_no_picture_leaves_the_folder(folder: Path, way: str) -> None:
    secret = folder.parent / "secret.png"
    (folder / "link").symlink_to(secret)
    (folder / "sub/folder").symlink_to(folder.parent)
    name = str(secret) if way == "absolute" else way
    with pytest.raises(DataError, match="leaves the folder") as caught:
        read(folder, f"class,note,image\ncat,x,{name}\n")
    assert "--allow-outside" not in str(caught.value)


def test_a_picture_with_too_many_pixels_is_refused(folder: Path) -> None:
    Image.new("1", (40_000, 40_000)).save(folder / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png.* pixels"):
        read(folder, "class,note,image\ncat,x,bomb.png\n")


def test_no_note_adds_a_tag_and_all_come_through() -> None:
    notes = [ClassNote(0, text, ("image/png", b"")) for text in HOSTILE]
    plain, page = (
        Reader(served_page(["cat"], annotator="", suggests=False, notes=each)) for each in ((), notes)
    )
    assert page.tags == plain.tags
    shown = page.data()["notes"]
    assert isinstance(shown, list)
    assert [each["note"] for each in shown] == list(HOSTILE)
    assert [each["image"] for each in shown] == [f"class-image/{number}" for number in range(len(HOSTILE))]
    assert "notes" not in plain.data()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run", classes=CLASSES)
    add_round(made, 1, ["s3", "s1"])
    return made


def test_the_single_page_holds_the_notes(run: Run, folder: Path) -> None:
    notes = read(folder, "class,note,image\ndog,<b>barks</b>,sub/a.png\n")
    words = [
        "export",
        "--format",
        "html",
        "--class-notes",
        str(folder / "notes.csv"),
        "-o",
        str(folder / "p.html"),
    ]
    assert call(run, *words) == 0
    shown = Reader((folder / "p.html").read_text()).data()["notes"][0]  # type: ignore[index]
    assert (shown["label"], shown["note"]) == (1, "<b>barks</b>")
    assert shown["image"].startswith("data:image/png;base64,")
    assert notes[0].picture is not None


def test_other_forms_have_no_place_for_them(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(folder, "class,note\ndog,barks\n")
    assert "--class-notes" in error(run, capsys, "export", "--class-notes", str(folder / "notes.csv"), code=2)


def test_serve_says_what_is_wrong_before_it_starts(run: Run, folder: Path) -> None:
    (folder / "notes.csv").write_text("class,note\ndgo,barks\n")
    failed = run_process(
        "annotate", "serve", "--json", "--class-notes", folder / "notes.csv", run=run.root, code=3
    )
    assert "did you mean 'dog'?" in json.loads(failed.out)["error"]["message"]
    gone = run_process("annotate", "serve", "--class-notes", folder / "none.csv", run=run.root, code=3)
    assert "none.csv does not exist" in gone.err
    assert not run.path("annotate").exists()
