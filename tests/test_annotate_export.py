"""`metaselect annotate export`: the form, its images, and that nobody's work in one is lost."""

import io
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from annotation_run import add_round, answers, call, csv_rows, error, make_run, meta_set, result, rows_of

from metaselect.cli.main import main
from metaselect.run.layout import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s3", "s1", "s2", "s0"])
    return made


def test_the_form_has_the_canonical_columns_in_order_of_rank(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "export") == 0
    captured = capsys.readouterr()
    path = run.path("export/round-1/labels.csv")
    assert captured.out == f"{path}\n"
    assert f"metaselect annotate import {path}" in captured.err
    rows = csv_rows(path)
    columns = "batch_id,sample_id,image,rank,cluster,cluster_size,clean_label,annotator,status,note"
    assert path.read_text().splitlines()[0] == columns
    assert [row["sample_id"] for row in rows] == ["s3", "s1", "s2", "s0"]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["clean_label"] + row["annotator"] + row["status"] + row["image"] for row in rows} == {""}
    assert not run.path("annotate/stage.json").exists()


def test_the_form_is_the_same_every_time_and_without_force_no_other(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.path("export/round-1/labels.csv")
    assert call(run, "export") == 0
    first = path.read_bytes()
    assert call(run, "export") == 0
    assert path.read_bytes() == first
    assert "--force" in error(run, capsys, "export", "--show-given", code=4)
    assert path.read_bytes() == first
    assert call(run, "export", "--show-given", "--force") == 0
    assert "given_label" in path.read_text()


@pytest.mark.parametrize("cell", ["clean_label", "status", "note"])
def test_a_form_with_work_in_it_is_never_overwritten(
    run: Run, capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    assert call(run, "export") == 0
    path = run.path("export/round-1/labels.csv")
    header, first, *rest = path.read_text().splitlines()
    cells = first.split(",")
    cells[header.split(",").index(cell)] = "skip"
    text = "\n".join([header, ",".join(cells), *rest])
    path.write_text(text)
    message = error(run, capsys, "export", "--force", code=4)
    assert "holds answers" in message
    assert f"annotate import {path}" in message
    assert path.read_text() == text
    assert call(run, "export", "-o", str(run.root.parent / "other.csv")) == 0


def test_the_command_that_imports_a_filled_in_form_works_as_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a run's folder")
    add_round(run, 1, ["s1"])
    assert call(run, "export") == 0
    path = run.path("export/round-1/labels.csv")
    path.write_text("sample_id,clean_label\ns1,cat\n")
    said = error(run, capsys, "export", "--force", code=4)
    command = shlex.split(said.partition("To import it: ")[2])
    assert command[:3] == ["metaselect", "annotate", "import"]
    assert main(command[1:]) == 0
    assert meta_set(run) == {"s1": "cat"}


def test_a_form_does_not_go_among_the_artefacts(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert "among the artefacts" in error(
        run, capsys, "export", "-o", str(run.path("annotate/x.csv")), code=2
    )
    folder = run.root.parent / "forms"
    folder.mkdir()
    assert call(run, "export", "-o", str(folder)) == 0
    assert (folder / "labels.csv").is_file()


def test_images_go_beside_the_form(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_originals(run: Run, sample_ids: list[str], folder: Path, stems: object) -> dict[str, str]:
        folder.mkdir(parents=True)
        for sample_id in sample_ids:
            (folder / f"{sample_id}.png").write_bytes(b"png")
        return {sample_id: f"{sample_id}.png" for sample_id in sample_ids}

    monkeypatch.setattr("metaselect.data.originals.write_originals", write_originals)
    assert call(run, "export") == 0
    assert [row["image"] for row in csv_rows(run.path("export/round-1/labels.csv"))] == [
        f"images/{sample_id}.png" for sample_id in ("s3", "s1", "s2", "s0")
    ]
    assert len(list(run.path("export/round-1/images").iterdir())) == 4
    other = run.root.parent / "bare" / "form.csv"
    assert call(run, "export", "--no-images", "-o", str(other)) == 0
    assert {row["image"] for row in csv_rows(other)} == {""}
    assert not (other.parent / "images").exists()


def test_a_later_form_asks_only_what_is_open(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "import", answers(run, "sample_id,clean_label,status\ns1,cat,\ns3,,skip\n")) == 0
    other = run.root.parent / "rest.csv"
    assert call(run, "export", "-o", str(other)) == 0
    assert [row["sample_id"] for row in csv_rows(other)] == ["s2", "s0"]
    assert call(run, "export", "--all", "-o", str(run.root.parent / "all.csv")) == 0
    assert len(csv_rows(run.root.parent / "all.csv")) == 4
    assert call(run, "import", answers(run, "sample_id,clean_label\ns2,cat\ns0,dog\n")) == 0
    capsys.readouterr()
    assert call(run, "export") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Round 1 is answered" in captured.err


def test_a_form_goes_to_stdout_and_answers_come_from_stdin(
    run: Run, capsysbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(run, "export", "-o", "-", "--show-given") == 0
    text = capsysbinary.readouterr().out.decode()
    rows = rows_of(text)
    assert {row["sample_id"]: row["given_label"] for row in rows} == {
        "s0": "cat", "s1": "dog", "s2": "owl", "s3": "cat",
    }  # fmt: skip
    assert (run.root / "export").exists() is False
    lines = text.splitlines()
    given = lines[0].split(",").index("given_label")
    sham = [lines[0].replace("given_label", "clean_label", 1).replace("clean_label,a", "_,a")]
    sham += lines[1:]
    assert sham[0].split(",")[given] == "clean_label"
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(sham).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert call(run, "import", "-", "--require-complete") == 0
    assert meta_set(run) == {"s0": "cat", "s1": "dog", "s2": "owl", "s3": "cat"}
    assert call(run, "export", "-o", "-", "--json") == 2


def test_programs_learn_where_the_form_is(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    got = result(run, capsys, "export", "--round", "1")
    assert got.pop("batch_id").startswith("b01-")
    path = str(run.path("export/round-1/labels.csv"))
    assert got == {"ok": True, "schema_version": 1, "file": path, "round": 1, "samples": 4, "images": 0}
