"""``open_run``: the same cells as the files of the run, the same refusals as the commands, and nothing written."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import BUDGET, LIMIT, UNIFORM, environment, flip_byte, metaselect, seen

import metaselect as ms
from metaselect.errors import ArtefactError, UsageError


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A table as it stands in its file, empty cells as None."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return [{name: cell or None for name, cell in row.items()} for row in rows]


def cells(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame with its index, NA as None."""
    records = frame.reset_index().to_dict("records")
    return [{name: None if pd.isna(cell) else cell for name, cell in row.items()} for row in records]


def test_parquet_tables_are_those_of_the_files(finished: Path) -> None:
    run = ms.open_run(finished)
    assert cells(run.samples()) == rows_of(finished / "data/samples.parquet")
    assert cells(run.weights("uniform")) == rows_of(finished / "reweight/uniform/weights.parquet")
    assert cells(run.issues("auto")) == rows_of(finished / "reweight/auto/issues.parquet")
    assert cells(run.predictions()) == rows_of(finished / "evaluate/test/predictions.parquet")
    probs = run.probs()
    table = rows_of(finished / "warmup/predictions.parquet")
    assert [*probs.columns] == json.loads((finished / "data/classes.json").read_text())
    assert probs.to_numpy().tolist() == [row["out_of_fold"] for row in table]
    assert probs.index.tolist() == [row["sample_id"] for row in table]


def test_csv_tables_are_those_of_the_files(finished: Path) -> None:
    run = ms.open_run(finished)
    selected = run.selected()
    assert len(selected) == BUDGET
    assert set(selected.pop("round")) == {1}
    assert selected["rank"].tolist() == list(range(1, BUDGET + 1))
    for frame, name in (
        (selected, "select/round-1/selected.csv"),
        (run.votes(), "annotate/votes.csv"),
        (run.meta_set(), "annotate/meta_set.csv"),
    ):
        wanted = rows_of(finished / name)
        assert [*frame.reset_index().columns] == [*wanted[0]]
        # Numbers are read as such, so that the texts are compared after a conversion of the same kind.
        for found, row in zip(cells(frame), wanted, strict=True):
            assert {key: cell if cell is None else type(found[key])(cell) for key, cell in row.items()
                    if key != "control"} == {key: cell for key, cell in found.items() if key != "control"}  # fmt: skip
    assert selected["control"].tolist() == [False] * BUDGET


def test_text_stays_text_and_an_unusable_sample_has_no_label(tmp_path: Path) -> None:
    """Ids and labels that look like numbers, one unusable sample, and several rounds."""
    rows = [f"{number:03d},{number % 2},{number / 10},{number % 7}" for number in range(30)]
    (tmp_path / "data.csv").write_text("\n".join(["sample_id,label,f1,f2", *rows]) + "\n")
    run = tmp_path / "run"
    metaselect("warmup", tmp_path / "data.csv", "--feature-columns", "f*", "--model", "linear", run=run)
    metaselect("select", "--budget", 3, "--method", "random", "--control", 0.4, run=run)
    opened = ms.open_run(str(run))
    assert opened.votes().empty
    assert opened.meta_set().empty
    assert opened.samples().loc["007", "given_label"] == "1"
    first = opened.selected().index.tolist()
    answers = [f"{first[0]},1,done", f"{first[1]},,bad_sample"]
    (tmp_path / "answers.csv").write_text("\n".join(["sample_id,clean_label,status", *answers]) + "\n")
    metaselect("annotate", "import", tmp_path / "answers.csv", run=run)
    meta_set = opened.meta_set()
    assert meta_set.loc[first[0], "clean_label"] == "1"
    assert meta_set.loc[first[1], "clean_label"] is pd.NA
    assert opened.votes()["round"].tolist() == [1, 1]
    metaselect("select", "--budget", 2, "--method", "random", "--round", "next", run=run)
    selected = opened.selected()
    assert selected["round"].tolist() == [1, 1, 1, 2, 2]
    assert selected["control"].tolist() == [False, False, True, False, False]
    assert selected["cluster"].isna().all()
    assert {str(opened.samples().index.dtype), str(meta_set["clean_label"].dtype)} == {"string"}


def test_metrics_have_a_row_for_each_model(finished: Path) -> None:
    metrics = ms.open_run(finished).metrics()
    wanted = json.loads((finished / "evaluate/test/metrics.json").read_text())
    assert metrics.index.tolist() == ["warmup", *wanted["reweight"]]
    for name, found in {"warmup": wanted["warmup"], **wanted["reweight"]}.items():
        assert metrics.loc[name, "test_accuracy"] == found["test_accuracy"]
        for label, accuracy in found["per_class_accuracy"].items():
            assert metrics.loc[name, f"per_class_accuracy.{label}"] == accuracy
    assert "confusion" not in metrics
    assert metrics.loc["warmup", "dead"] is pd.NA


def test_the_default_is_what_status_says_to_take(finished: Path) -> None:
    run = ms.open_run(finished)
    taken = metaselect("status", "--json", run=finished).json["take"]["model"]
    assert taken in ("auto", "uniform")
    pd.testing.assert_frame_equal(run.weights(), run.weights(taken))


def test_names_are_asked_for_where_there_are_several(finished: Path) -> None:
    run = ms.open_run(finished)
    with pytest.raises(UsageError, match="no re-weighting 'l2rw'") as refused:
        run.weights("l2rw")
    assert refused.value.hint == "Name one of: auto, uniform."
    assert refused.value.__notes__ == [refused.value.hint]  # what a traceback shows
    metaselect("evaluate", run=finished, code=0)
    with pytest.raises(UsageError, match="Which evaluation") as refused:
        run.metrics()
    assert refused.value.hint == "Name one of: bought.labels, test."


def test_what_is_not_there_is_refused_with_the_command(warm: Path, tmp_path: Path) -> None:
    run = ms.open_run(warm)
    for read, command in (
        (run.selected, "metaselect select --budget 50"),
        (run.weights, "metaselect reweight"),
        (run.metrics, "metaselect evaluate TEST"),
    ):
        with pytest.raises(ArtefactError) as refused:
            read()
        assert refused.value.hint == f"First run: {command} --run {warm}"
    with pytest.raises(ms.MetaSelectError, match="There is no run"):
        ms.open_run(tmp_path / "none")


def test_a_damaged_table_is_refused_and_the_others_are_read(finished: Path) -> None:
    flip_byte(finished / "reweight/auto/weights.parquet")
    run = ms.open_run(finished)
    with pytest.raises(ArtefactError, match=r"reweight/auto/weights\.parquet is damaged") as refused:
        run.weights("auto")
    assert "metaselect reweight" in refused.value.hint
    assert "--force" in refused.value.hint
    assert len(run.weights("uniform")) == LIMIT
    (finished / "annotate/meta_set.csv").unlink()
    with pytest.raises(ArtefactError, match="meta_set"):
        run.meta_set()


def test_a_stale_table_is_refused_unless_it_is_wanted(finished: Path, tmp_path: Path) -> None:
    free = ms.open_run(finished).samples().index.difference(ms.open_run(finished).selected().index)[0]
    (tmp_path / "more.csv").write_text(f"sample_id,clean_label\n{free},1\n")
    metaselect("annotate", "import", tmp_path / "more.csv", "--outside-round", run=finished)
    with pytest.raises(ArtefactError, match=r"annotate/meta_set\.csv changed since") as refused:
        ms.open_run(finished).weights("uniform")
    assert " ".join(map(str, UNIFORM)) in refused.value.hint
    assert len(ms.open_run(finished, stale_ok=True).weights("uniform")) == LIMIT
    assert len(ms.open_run(finished).selected()) == BUDGET  # a round that people answered stays


def test_reading_writes_nothing_and_needs_no_lock(finished: Path) -> None:
    before = seen(finished)
    run = ms.open_run(finished)
    with run._run.lock():
        for read in (run.samples, run.weights, run.selected, run.votes, run.meta_set, run.probs, run.metrics):
            read()
        assert len(run.predictions()) == 360
    assert seen(finished) == before


def test_the_run_shows_itself_as_status_does(finished: Path) -> None:
    said = metaselect("status", "--json", run=finished).json
    run = ms.open_run(finished)
    shown = repr(run)
    for row in said["stages"]:
        assert f"{row['stage']} " in shown
        assert (row["why"] or "") in shown
    assert f"{BUDGET} labels bought" in shown
    assert f"Model to take: {said['take']['model']} " in shown
    (finished / "run.json").write_text("{")
    assert "run.json is damaged" in repr(run)


HEAVY = ("torch", "pandas", "sklearn", "numpy", "pyarrow")


def test_names_are_imported_when_they_are_asked_for() -> None:
    code = f"""
import sys, metaselect
print([name for name in {HEAVY} if name in sys.modules], set(metaselect.__all__) <= set(dir(metaselect)))
metaselect.open_run
print([name for name in {HEAVY} if name in sys.modules])
try:
    metaselect.nothing
except AttributeError as error:
    print(error)
print(all(hasattr(metaselect, name) for name in metaselect.__all__))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    first, second, third, fourth = done.stdout.splitlines()
    assert first == "[] True"
    assert "torch" not in second
    assert "sklearn" not in second
    assert third == "module 'metaselect' has no attribute 'nothing'"
    assert fourth == "True"
