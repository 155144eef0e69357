"""Runs of ids and labels alone (the task `external`), through the command line: chosen and annotated, never trained."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import TRAIN, Done, metaselect, seen, states, tree
from data_makers import refused, write_rows

from metaselect.data.readers.columns import choose_columns
from metaselect.data.store import data_inputs, load_pool
from metaselect.data_options import ReadOptions
from metaselect.run.layout import Run

ROWS = [(f"t{number:02d}", ("ham", "spam", "eggs")[number % 3]) for number in range(12)]
ALONE = "holds ids and labels alone"


def manifest(path: Path, rows: list[tuple[str, str]] = ROWS) -> Path:
    """A CSV or Parquet manifest of ids and labels."""
    if path.suffix == ".csv":
        return write_rows(path, ["sample_id", "label"], rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    ids, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"sample_id": ids, "label": labels}), path)
    return path


def remedy(done: Done) -> tuple[str, str]:
    """The sentence and the remedy of a refused command."""
    error, hint = done.err.splitlines()[-2:]
    assert error.startswith("Error: ")
    assert hint.startswith("  ")
    return error, hint


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run; read only."""
    folder = tmp_path_factory.mktemp("external")
    metaselect("ingest", manifest(folder / "m.csv"), run=folder / "run")
    return folder / "run"


# ingest


def test_ids_and_labels_alone_make_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = metaselect("ingest", manifest(tmp_path / "m.csv"), run=run)
    assert done.out == f"{run / 'data'}: 12 samples, 3 classes, ids and labels alone\n"
    warning, following = done.err.splitlines()
    assert "ids and labels alone are taken (--image-column sample_id --image-folder DIR" in warning
    assert following == f"Next: metaselect select --budget 50 --features FILE --run {run}"
    assert json.loads((run / "run.json").read_text())["task"] == "external"
    described: dict[str, object] = {
        "task": "external",
        "size": [],
        "mode": "",
        "mean": [],
        "std": [],
        "pixel_range": None,
        "fit": "crop",
    }
    assert json.loads((run / "data/preprocess.json").read_text()) == described
    names = {"samples.parquet", "classes.json", "preprocess.json", "stage.json"}
    assert {path.name for path in (run / "data").iterdir()} == names
    pool = load_pool(Run(run))
    assert list(pool.sample_ids) == [name for name, _ in ROWS]
    assert [pool.classes[label] for label in pool.labels] == [label for _, label in ROWS]
    assert pool.inputs.shape == (12, 0)
    assert pool.inputs.dtype == np.float32
    assert data_inputs(Run(run)) == (
        "data/samples.parquet",
        "data/classes.json",
        "data/preprocess.json",
    )


def test_form_and_order_of_the_manifest_change_no_byte(ingested: Path, tmp_path: Path) -> None:
    shuffled = [ROWS[place] for place in np.random.default_rng(2).permutation(len(ROWS))]
    forms = [
        manifest(tmp_path / "m.csv", shuffled),
        manifest(tmp_path / "m.parquet", shuffled),
        manifest(tmp_path / "shards/1.parquet", shuffled[:5]).parent,
    ]
    manifest(tmp_path / "shards/0.parquet", shuffled[5:])
    expected = tree(ingested, leave=(".lock", "stage.json", "log.txt"))
    for number, data in enumerate(forms):
        run = tmp_path / f"run-{number}"
        metaselect("ingest", data, run=run)
        assert tree(run, leave=(".lock", "stage.json", "log.txt")) == expected, data


def test_the_same_again_does_nothing_and_other_labels_are_other_data(tmp_path: Path) -> None:
    run, data = tmp_path / "run", manifest(tmp_path / "m.csv")
    first = metaselect("ingest", data, "--json", run=run).json
    assert (first["task"], first["image_size"], first["duplicates"]) == ("external", None, 0)
    before = seen(run)
    again = metaselect("ingest", data, run=run)
    assert "is up to date" in again.err
    moved = metaselect("ingest", manifest(tmp_path / "moved.parquet", ROWS[::-1]), "--json", run=run)
    assert "comparing the contents" in moved.err
    assert moved.json == first
    kept = {name for name in before if name not in ("data/stage.json", ".lock", "log.txt")}
    assert {name: seen(run)[name] for name in kept} == {name: before[name] for name in kept}
    other = manifest(tmp_path / "other.csv", [("t00", "spam"), *ROWS[1:]])
    assert "holds other data" in remedy(metaselect("ingest", other, run=run, code=4))[0]


def test_ids_can_be_numbers_and_subsets_and_bad_rows_are_as_ever(tmp_path: Path) -> None:
    table = pa.table({"key": [30, 4, 100, 5], "label": ["a", "b", None, "b"]})
    pq.write_table(table, tmp_path / "m.parquet")
    words = ("ingest", tmp_path / "m.parquet", "--id-column", "key")
    done = metaselect(*words, "--json", run=tmp_path / "all")
    assert (done.json["n"], done.json["unlabelled"]) == (4, 1)
    pq.write_table(table.set_column(0, "key", pa.array([30, 4, None, 5])), tmp_path / "m.parquet")
    error, _ = remedy(metaselect(*words, run=tmp_path / "run", code=3))
    assert "row 3: it has no id." in error
    done = metaselect(*words, "--on-bad-sample", "skip", "--limit", 2, "--json", run=tmp_path / "run")
    assert (done.json["n"], done.json["skipped"]) == (2, 1)
    assert set(load_pool(Run(tmp_path / "run")).sample_ids) < {"30", "4", "5"}


def test_columns_that_are_ignored_are_named(tmp_path: Path) -> None:
    header = ["id", "img", "label", *(f"x{number}" for number in range(6))]
    path = write_rows(
        tmp_path / "m.csv", header, [("a", "a.png", "x", *range(6)), ("b", "b", "y", *range(6))]
    )
    done = metaselect("ingest", path, run=tmp_path / "run")
    assert "Warning: " in done.err
    assert "--image-column or --feature-columns takes one of: img, x0, x1, x2, x3, ..." in (done.err)
    for given, kind in (
        (ReadOptions(image_column="img"), "images"),
        (ReadOptions(feature_columns="x*"), "features"),
    ):
        columns = choose_columns("m.csv", header, given)
        assert columns.kinds == (kind,)
        assert columns.remarks("m.csv", header) == ()


def test_without_ids_there_must_be_more_than_labels(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "m.csv", ["name", "label"], [("a", "x"), ("b", "y")])
    error, hint = remedy(metaselect("ingest", path, run=tmp_path / "run", code=3))
    assert "ids and labels alone need a column sample_id" in error
    assert "--id-column" in hint
    assert not (tmp_path / "run/data").exists()
    # A column of images that was asked for by name and is not there is a mistake, whatever else is there.
    named = manifest(tmp_path / "n.csv")
    assert "has no column pixels" in refused(named, image_column="pixels")


# What such a run cannot do


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("warmup",), id="warmup"),
        pytest.param(("warmup", "--dry-run"), id="dry"),
        pytest.param(("reweight", "--method", "uniform", "--init", "scratch"), id="reweight"),
        pytest.param(("evaluate", TRAIN), id="evaluate"),
    ],
)
def test_nothing_is_trained_in_it(ingested: Path, words: tuple[object, ...]) -> None:
    before = tree(ingested, leave=(".lock", "log.txt"))
    error, hint = remedy(metaselect(*words, run=ingested, code=4))
    assert str(ingested) in error
    assert ALONE in error
    assert "`metaselect select --budget 50 --features FILE" in hint
    assert "train in a run with images or features" in hint
    assert tree(ingested, leave=(".lock", "log.txt")) == before


def test_warmup_makes_no_run_of_it(tmp_path: Path) -> None:
    data = manifest(tmp_path / "m.csv")
    error, hint = remedy(metaselect("warmup", data, run=tmp_path / "run", code=3))
    assert str(data) in error
    assert "--feature-columns" in hint
    assert not (tmp_path / "run").exists()


def test_it_is_no_test_set(finished: Path, tmp_path: Path) -> None:
    data = manifest(tmp_path / "m.csv")
    error, hint = remedy(metaselect("evaluate", data, run=finished, code=3))
    assert str(data) in error
    assert "--feature-columns" in hint


# What it can do


def test_from_a_choice_to_bought_labels(tmp_path: Path) -> None:
    run = tmp_path / "run"
    metaselect("ingest", manifest(tmp_path / "m.parquet"), run=run)
    flag = f"--run {run}"
    assert following(run) == f"metaselect select --budget 50 --features FILE {flag}"
    assert set(states(run, 0)) == {"data", "select/round-1", "annotate"}
    early = remedy(metaselect("annotate", "export", run=run, code=4))
    assert early[1] == f"  First run: metaselect select --budget 50 --features FILE {flag}"
    metaselect("select", "--method", "random", "--budget", 4, run=run)
    assert following(run) == f"metaselect annotate export {flag}"
    metaselect("annotate", "export", "--show-given", run=run)
    assert following(run) == f"metaselect annotate import FILE {flag}"
    form = run / "export/round-1/labels.csv"
    assert [path.name for path in form.parent.iterdir()] == ["labels.csv"]
    with form.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    given = dict(ROWS)
    assert [row["given_label"] for row in rows] == [given[row["sample_id"]] for row in rows]
    assert [row["image"] for row in rows] == [""] * 4
    answers = [(row["sample_id"], "eggs") for row in rows]
    write_rows(tmp_path / "answers.csv", ["sample_id", "clean_label"], answers)
    done = metaselect("annotate", "import", tmp_path / "answers.csv", run=run)
    assert f"The bought labels are in {run / 'annotate/meta_set.csv'}." in done.err
    assert "reweight" not in done.err + done.out
    progress = metaselect("annotate", "status", "--json", run=run).json
    assert progress["ok"]
    result = metaselect("status", "--json", run=run).json
    assert (result["bought"], result["next"]) == (4, None)
    metaselect("verify", run=run)
    # A second round, of samples that were not bought, answered from a truth file.
    metaselect("select", "--method", "random", "--round", "next", "--budget", 8, run=run)
    truth = write_rows(tmp_path / "truth.csv", ["sample_id", "clean_label"], ROWS)
    metaselect("annotate", "simulate", truth, run=run)
    assert metaselect("status", "--json", run=run).json["bought"] == 12


def following(run: Path) -> str:
    return str(metaselect("status", "--json", run=run).json["next"])


@pytest.mark.slow
def test_a_run_of_it_is_run_again_with_the_same_bytes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    metaselect("ingest", manifest(tmp_path / "m.csv"), run=run)
    metaselect("select", "--method", "random", "--budget", 4, run=run)
    assert metaselect("verify", "--rerun", "--json", run=run).json["recomputed"] == ["select/round-1"]


def test_a_warm_up_of_earlier_data_is_no_next_command(warm: Path, tmp_path: Path) -> None:
    metaselect("ingest", manifest(tmp_path / "m.csv"), "--force", run=warm)
    result = metaselect("status", "--json", run=warm, code=1).json
    assert {row["stage"]: row["state"] for row in result["stages"]}["warmup"] == "stale"
    assert result["next"].startswith("metaselect select --budget 50 --features FILE")


def test_noise_can_be_made_in_it(tmp_path: Path) -> None:
    """`corrupt` keeps what there is: ids and labels, in a manifest that is ingested as such."""
    for name in ("m.csv", "m.parquet"):
        out = tmp_path / f"noisy-{name}"
        words = ("corrupt", manifest(tmp_path / name), "-o", out, "--noise", "uniform", "--rate", 0.5)
        assert metaselect(*words, "--json").json["flipped"] == 6
        assert pq.read_schema(out / "train.parquet").names == ["sample_id", "label"]
        with (out / "truth.csv").open(newline="") as stream:
            assert [(row["sample_id"], row["clean_label"]) for row in csv.DictReader(stream)] == ROWS
        made = metaselect("ingest", out / "train.parquet", "--json", run=out / "run").json
        assert (made["task"], made["n"], made["classes"]) == ("external", 12, ["eggs", "ham", "spam"])
