"""Answers that add a class to the run: its data becomes what an ingest with all classes makes."""

import csv
import io
import json
import shlex
from pathlib import Path

import pytest
from command_line import metaselect, states
from data_makers import pictures, stage_bytes, write_images

from metaselect.run.artefacts import RECORD

BUDGET = 6


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Path, Path, Path]:
    """(data, run, form) of a round that was exported."""
    data = write_images(tmp_path / "d", pictures(40, ("cat", "dog")))
    run = tmp_path / "run"
    metaselect("warmup", data, "--epochs", 2, "--folds", 0, run=run)
    metaselect("select", "--method", "random", "--budget", BUDGET, run=run)
    metaselect("annotate", "export", "-o", tmp_path / "form.csv", run=run)
    return data, run, tmp_path / "form.csv"


def answer(form: Path, labels: list[str]) -> Path:
    """The form filled in with these labels, in turn."""
    rows = list(csv.DictReader(io.StringIO(form.read_text())))
    for row, label in zip(rows, labels * BUDGET, strict=False):
        row["clean_label"] = label
    filled = form.with_name("filled.csv")
    with filled.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return filled


def classes_of(run: Path) -> list[str]:
    return list(json.loads((run / "data/classes.json").read_text()))


def test_an_answer_can_add_a_class(asked: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, run, form = asked
    filled = answer(form, ["dog", "bird", " cat "])
    refused = metaselect("annotate", "import", filled, run=run, code=3)
    assert "'bird' is not a class" in refused.err
    assert "--add-classes adds others" in refused.err
    assert not (run / "annotate/votes.csv").exists()
    taken = metaselect("annotate", "import", filled, "--add-classes", "--json", run=run)
    assert taken.json["bought"] == BUDGET
    assert "New classes: 'bird'" in taken.err
    assert f"Next: metaselect warmup {data}" in taken.err
    assert classes_of(run) == ["cat", "dog", "bird"]
    # The same data, read with all classes at once.
    metaselect("ingest", data, "--classes", "cat,dog,bird", run=tmp_path / "fresh")
    assert stage_bytes(run / "data") == stage_bytes(tmp_path / "fresh/data")
    assert (run / "run.json").read_bytes() == (tmp_path / "fresh/run.json").read_bytes()
    assert "is up to date" in metaselect("ingest", data, "--classes", "cat,dog,bird", run=run).err
    found = states(run, 1)
    assert (found["data"][0], found["select/round-1"][0], found["annotate"][0]) == ("done", "done", "done")
    assert found["warmup"][0] == "stale"
    assert "data/classes.json" in found["warmup"][1]
    again = metaselect("annotate", "import", filled, "--add-classes", "--json", run=run)
    assert again.json["new_votes"] == 0
    assert "New classes" not in again.err
    # The whole way on, with the command on record.
    metaselect("warmup", data, "--epochs", 2, "--folds", 0, run=run)
    metaselect("reweight", "--method", "uniform", "--folds", 0, "--epochs", 1, run=run)
    metaselect("verify", run=run)
    assert json.loads((run / "reweight/uniform/model.json").read_text())["classes"] == ["cat", "dog", "bird"]
    assert json.loads((run / "data" / RECORD).read_text())["details"]["command"].split()[:2] == [
        "metaselect",
        "warmup",
    ]


def test_a_class_of_an_undone_import_can_be_taken_back(asked: tuple[Path, Path, Path]) -> None:
    """A misspelt name that became a class: the command that the undo names brings the old classes back."""
    data, run, form = asked
    before = stage_bytes(run / "data")
    filled = answer(form, ["dgo", "cat"])
    metaselect("annotate", "import", filled, "--add-classes", run=run)
    undone = metaselect("annotate", "undo", run=run)
    assert "No label is of class 'dgo' any more." in undone.err
    step = undone.err.strip().rpartition("metaselect ")[2].replace("DATA", str(data))
    metaselect(*shlex.split(step))
    assert classes_of(run) == ["cat", "dog"]
    assert stage_bytes(run / "data") == before
    metaselect("annotate", "import", answer(form, ["dog", "cat"]), run=run)
    found = states(run, 0)
    assert {found[name][0] for name in ("data", "warmup", "select/round-1", "annotate")} == {"done"}
    other = metaselect("annotate", "undo", run=run)
    assert "No label is of class" not in other.err  # both have given labels


@pytest.mark.parametrize("labels", [["Cat"], ["CAT", "dog"], ["skip"], [" "]])
def test_a_misspelt_class_or_a_status_is_no_new_class(
    asked: tuple[Path, Path, Path], labels: list[str]
) -> None:
    _, run, form = asked
    code = 3 if labels[0] == "CAT" or labels[0] == "Cat" else 0
    done = metaselect("annotate", "import", answer(form, labels), "--add-classes", run=run, code=code)
    assert classes_of(run) == ["cat", "dog"]
    assert ("Did you mean 'cat'" in done.err) == (code == 3)


def test_a_row_that_is_not_taken_adds_no_class(asked: tuple[Path, Path, Path]) -> None:
    _, run, form = asked
    filled = answer(form, ["dog"])
    filled.write_text(
        filled.read_text() + ",".join(["nobody"] * filled.read_text().split("\n")[0].count(",")) + ",\n"
    )
    lines = filled.read_text().splitlines()
    header = lines[0].split(",")
    stranger = ["bird" if name == "clean_label" else "" for name in header]
    stranger[header.index("sample_id")] = "nobody"
    filled.write_text("\n".join([*lines[:-1], ",".join(stranger)]) + "\n")
    done = metaselect("annotate", "import", filled, "--add-classes", "--json", run=run)
    assert done.json["unknown"] == 1
    assert classes_of(run) == ["cat", "dog"]


def test_numbers_are_classes_in_one_way_only(tmp_path: Path) -> None:
    data = write_images(tmp_path / "d", pictures(12, ("0", "1")))
    run = tmp_path / "run"
    metaselect("ingest", data, run=run)
    metaselect("select", "--method", "random", "--budget", 2, run=run)
    metaselect("annotate", "export", "-o", tmp_path / "form.csv", run=run)
    refused = metaselect(
        "annotate", "import", answer(tmp_path / "form.csv", ["01"]), "--add-classes", run=run, code=3
    )
    assert "are the same number" in refused.err
    metaselect("annotate", "import", answer(tmp_path / "form.csv", ["2.0"]), "--add-classes", run=run)
    assert classes_of(run) == ["0", "1", "2"]
