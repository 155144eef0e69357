"""The CSV form: what is written, what is read, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaselect.annotation.formats.base import Form
from metaselect.annotation.formats.csv import CsvFormat
from metaselect.annotation.formats.detect import detect_format, holds_answers, load_format
from metaselect.errors import DataError
from metaselect.registry import FORMATS
from metaselect.text import escape_formula, unescape_formula


@given(st.text())
def test_guarded_cells_come_back_unchanged_and_are_no_formula(text: str) -> None:
    assert unescape_formula(escape_formula(text)) == text
    assert not escape_formula(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def read(text: str | bytes) -> list[tuple[str, str, str]]:
    content = text if isinstance(text, bytes) else text.encode()
    return [(a.sample_id, a.clean_label, a.annotator) for a in CsvFormat().read(content, "file.csv")]


@pytest.mark.parametrize(
    "text",
    [
        "sample_id,clean_label\na,cat\n",
        "id,clean_label\na,cat\n",
        "task,label\na,cat\n",
        "\ufeffsample_id,clean_label\r\na,cat\r\n",
        "sample_id;clean_label\na;cat\n",
        "sample_id\tclean_label\na\tcat\n",
        "clean_label,extra,sample_id\ncat,1,a\n",
        " Sample_ID , clean_label \na,cat\n",
        "sample_id,clean_label\na,cat,,\n\n,\n",
        "id,sample_id,clean_label\n7,a,cat\n",
        "label,sample_id,clean_label\ndog,a,cat\n",
    ],
)
def test_every_usual_shape_of_a_table_is_read(text: str) -> None:
    assert read(text) == [("a", "cat", "")]


def test_annotators_of_long_tables_are_read() -> None:
    assert read("task,worker,label\na,w1,cat\n") == [("a", "cat", "w1")]
    assert read("task,annotator,label\na,w1,cat\n") == [("a", "cat", "w1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"name,label\na,cat\n", "no columns sample_id and clean_label; it has name, label"),
        (b"sample_id,label\na,cat\n", "no columns sample_id and clean_label"),
        (b"sample_id,clean_label,clean_label\na,cat,dog\n", "clean_label 2 times"),
        (b"sample_id,clean_label\na,cat,dog\n", r"file.csv:2 has more cells"),
        (b"sample_id,clean_label\na,cat\n,dog\n", r"file.csv:3 has an answer but no sample_id"),
        (b'sample_id,clean_label\na,"cat\n', "not a CSV file"),
        (b"sample_id,clean_label\na,c\xe9t\n", "not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(text)
    assert caught.value.hint


def test_every_format_of_the_table_loads_and_writes_and_reads_back() -> None:
    for name in FORMATS:
        form = load_format(name)
        files = form.write(Form("b01-0", (), ("cat", "dog")))
        main = next(iter(files))
        assert form.file_name.endswith(main)
        assert {each for each in files if "/" in each or "\\" in each} == set()
        empty = files[main].encode()
        if name == "html":  # the page hands out another file
            with pytest.raises(DataError, match="is the page itself"):
                form.read(empty, "form")
            assert form.read(b"sample_id,clean_label\na,cat\n", "form")[0].clean_label == "cat"
        else:
            assert form.read(empty, "form") == []
        assert not holds_answers(empty)
        assert detect_format(empty, "form") == name
        assert form.instructions.format(folder="x", classes="cat")


def test_a_form_of_which_nothing_is_certain_holds_answers() -> None:
    assert holds_answers(b"sample_id,clean_label\na,\xff\n")
    assert holds_answers(b"sample_id,clean_label,note\na,,blurred\n")
    assert holds_answers(b"minutes of the meeting\n")
    assert not holds_answers(b"sample_id,clean_label,note\na, ,\n")
    assert not holds_answers(b"\n")


def test_a_file_of_another_format_than_the_new_form_is_looked_into_too() -> None:
    answered = b'[{"sample_id": "a", "image": "a.png", "clean_label": "cat"}]'
    assert detect_format(answered, "form") == "label-studio"
    assert holds_answers(answered)
    assert not holds_answers(answered.replace(b"cat", b""))


def test_names_and_notes_lose_the_guard_of_the_page_too() -> None:
    (found,) = CsvFormat().read(b"sample_id,clean_label,annotator,note\na,cat,'=anna,'-torn-\n", "file.csv")
    assert (found.annotator, found.note) == ("=anna", "-torn-")
