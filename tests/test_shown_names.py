"""Names from data in messages, on terminals and in tables for people: escaped, and of bounded length."""

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation_run import add_round, call, csv_rows, error, make_run, votes_of
from command_line import Done, command, environment, metaselect, tree
from data_makers import write_rows
from hypothesis import given
from hypothesis import strategies as st

from metaselect.run.layout import Run
from metaselect.text import CONTROLS, LONGEST, quoted, short, visible, visible_lines

EVIL = "\x1b]0;pwned\x07\x9b2J\r\u202e"
LONG = "q" * 5000


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    assert not CONTROLS.search(visible(text))
    assert visible(visible(text)) == visible(text)
    assert not CONTROLS.search(visible_lines(text).replace("\n", ""))
    assert visible_lines(text).count("\n") == text.count("\n")
    for shown in (short(text), quoted(text)):
        shown.encode()
        assert not CONTROLS.search(shown)


def test_letters_of_all_languages_stay_as_they_are() -> None:
    for text in ("dög", "日本\u3000語", "\U0001f469\u200d\U0001f680", "עברית", "a\\x1bb", "a\xa0b"):
        assert visible(text) == text
    assert visible("a\x1b\nb\x9b\u202e\ud800") == "a\\x1b\\nb\\x9b\\u202e\\ud800"
    assert short(LONG) == LONG[:LONGEST] + "..."
    assert quoted("it's") == '"it\'s"'


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run", [f"s1{EVIL}", "s2", "s3"], [f"cat{EVIL}", "dog"])
    add_round(made, 1, [f"s1{EVIL}", "s2"])
    return made


def test_the_list_of_bad_samples_shows_names_escaped(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a", f"b{EVIL}", "c", "d"],
            "f0": [1.0, float("nan"), 2.0, 3.0],
            "label": ["x", "y", "y", "x"],
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    words = ("ingest", tmp_path / "data.parquet", "--feature-columns", "f0", "--on-bad-sample", "skip")
    metaselect(*words, run=tmp_path / "run")
    text = (tmp_path / "run/data/skipped.csv").read_bytes().decode()
    assert not CONTROLS.search(text.replace("\n", ""))
    assert [row["sample_id"] for row in csv_rows(tmp_path / "run/data/skipped.csv")] == [f"b{visible(EVIL)}"]


def test_no_spreadsheet_runs_what_the_list_of_bad_samples_names(tmp_path: Path) -> None:
    rows = [("=cmd()", 1, "x"), ("-1+1", "nan", "y"), ("@sum", "nan", "x"), ("b", 2, "y"), ("c", 3, "x")]
    data = write_rows(tmp_path / "=d.csv", ["id", "f0", "label"], rows)
    words = ("ingest", "=d.csv", "--feature-columns", "f0", "--on-bad-sample", "skip")
    metaselect(*words, run=tmp_path / "run", cwd=data.parent)
    cells = [cell for row in csv_rows(tmp_path / "run/data/skipped.csv") for cell in row.values()]
    assert "'-1+1" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def on_a_terminal(*words: object, run: Run) -> str:
    """What a command prints on a terminal."""
    here, there = pty.openpty()
    with os.fdopen(here, "rb", buffering=0) as screen:
        started = subprocess.Popen(
            command(*words, run=run.root), stdout=there, stderr=subprocess.DEVNULL, env=environment()
        )
        os.close(there)
        shown = b""
        try:
            while part := screen.read(65536):
                shown += part
        except OSError:  # the other end was closed
            pass
        assert started.wait() == 0
    return shown.decode()


def test_a_form_on_a_terminal_shows_names_escaped_and_in_a_pipe_as_they_are(run: Run) -> None:
    words = ("annotate", "export", "-o", "-", "--show-given")
    shown = on_a_terminal(*words, run=run)
    assert not CONTROLS.search(shown.replace("\r\n", ""))
    assert f"s1{visible(EVIL)}" in shown
    form = metaselect(*words, run=run.root).out
    assert f"s1{EVIL}" in form  # the key by which the answer comes back
    given_label = form.splitlines()[0].split(",").index("given_label")
    assert f"cat{visible(EVIL)}" in form
    assert f"cat{EVIL}" not in form
    assert given_label == 3


def test_votes_hold_no_control_characters_but_in_keys(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    note = {"from_name": "note", "type": "textarea", "value": {"text": [f"two\nlines{EVIL}"]}}
    label = {"from_name": "clean_label", "type": "choices", "value": {"choices": [f"cat{EVIL}"]}}
    task = {
        "data": {"sample_id": f"s1{EVIL}"},
        "annotations": [{"completed_by": "anna", "result": [label, note]}],
    }
    path.write_text(json.dumps([task]))
    assert call(run, "import", str(path)) == 0
    (row,) = csv_rows(run.path("annotate/votes.csv"))
    assert row["note"] == f"two\nlines{visible(EVIL)}"
    assert (row["sample_id"], row["clean_label"]) == (f"s1{EVIL}", f"cat{EVIL}")
    before = tree(run.root)
    assert call(run, "import", str(path)) == 0  # again: nothing is new
    assert tree(run.root) == before


@pytest.mark.parametrize("name", [f"anna{EVIL}", "a" * 101, "an\nna", "\u200banna"])
@pytest.mark.parametrize("form", ["csv", "label-studio", "argilla"])
def test_annotators_of_files_follow_the_rule_of_the_page(
    name: str, form: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = {"from_name": "clean_label", "type": "choices", "value": {"choices": ["dog"]}}
    content = {
        "csv": f'sample_id,clean_label,annotator\ns2,dog,"{name}"\n',
        "label-studio": json.dumps(
            [{"data": {"sample_id": "s2"}, "annotations": [{"completed_by": name, "result": [label]}]}]
        ),
        "argilla": json.dumps(
            [{"id": "s2", "fields": {}, "responses": {"label": [{"value": "dog", "user_id": name}]}}]
        ),
    }
    path = tmp_path / "answers"
    path.write_text(content[form])
    said = error(run, capsys, "import", str(path), "--format", form, code=3)
    assert "is not a name of 1 to 100 visible characters" in said
    assert not CONTROLS.search(said.replace("\n", ""))
    assert not run.path("annotate").exists()
    said = error(run, capsys, "import", str(path), "--annotator", name, code=2)
    assert "--annotator" in said


def test_annotators_of_a_hundred_characters_and_with_spaces_around_are_taken(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(f"sample_id,clean_label,annotator\ns2,dog, {'a' * 100} \n")
    assert call(run, "import", str(path)) == 0
    assert votes_of(run) == [("s2", "dog", "a" * 100, "done")]


WIDE: dict[str, Any] = {f"{LONG}x": [1, 2, 3, 4]}


def data(path: Path, **columns: list[object]) -> Path:
    table = {"id": [*"abcd"], "f0": [1.0, 2.0, 3.0, 4.0], "label": ["x", "y", "x", "y"], **columns}
    pq.write_table(pa.table(table), path)
    return path


def ingest(tmp_path: Path, *options: str, code: int = 3, **columns: list[object]) -> Done:
    path = data(tmp_path / "data.parquet", **columns)
    words = ("ingest", path, "--feature-columns", "f0", *options)
    return metaselect(*words, run=tmp_path / "run", code=code)


def test_messages_about_data_quote_the_beginning_of_a_name(tmp_path: Path) -> None:
    said = [
        ingest(tmp_path, id=[LONG, LONG, "c", "d"]),
        ingest(tmp_path, id=[LONG, "b", "c", "d"], f0=[float("nan"), 1.0, 2.0, 3.0]),
        ingest(tmp_path, label=[LONG] * 4),
        ingest(tmp_path, label=["1", "01", LONG, LONG]),
        ingest(tmp_path, "--label-column", LONG, **WIDE),
        ingest(tmp_path, "--classes", f"x,{LONG}", label=["x", f"{LONG}y", "x", "y"]),
        ingest(tmp_path, label=[f"{LONG}X", f"{LONG}x", "y", "y"], code=0),
    ]
    for done in said:
        assert len(done.err) < 3000, done.err[:500]
        assert "q" * (LONGEST + 1) not in done.err
    assert any("q" * LONGEST in done.err for done in said)


def test_messages_about_answers_quote_the_beginning_of_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", [LONG, "s2", "s3"], [f"{LONG}k", "dog"])
    add_round(run, 1, [LONG, "s2"])
    path = tmp_path / "answers.csv"
    header = "batch_id,sample_id,image,clean_label,annotator,status"
    for row, code in (
        (f",{LONG}x,,dog,,", 3),
        (f",{LONG},,{LONG},,", 3),
        (f",{LONG},,{LONG}k,,{LONG}", 3),
        (f",{LONG},,dog,{LONG},", 3),
        (f"{LONG},s2,,dog,,", 3),
        (f",s3{LONG},{LONG}.png,dog,,\n,s2,,dog,,", 0),
        (f",{LONG},,dog,a,\n,{LONG},,{LONG}k,a,", 0),
        (f",s3,,dog,,\n,{LONG},,dog,,", 0),
    ):
        path.write_text(f"{header}\n{row}\n")
        assert call(run, "import", str(path)) == code
        said = capsys.readouterr().err
        assert len(said) < 3000, (row[:80], said[:500])
        assert "q" * (LONGEST + 1) not in said, row[:80]
    path.write_text(f"{LONG},answers\n1,2\n")
    assert call(run, "import", str(path)) == 3
    assert "q" * (LONGEST + 1) not in capsys.readouterr().err
