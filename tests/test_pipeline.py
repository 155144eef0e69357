"""The whole pipeline through the command line: files, columns, results, and the same bytes again."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import (
    BUDGET,
    LIMIT,
    PIPELINE,
    TRAIN,
    WARMUP,
    Done,
    metaselect,
    run_process,
    tree,
)
from safetensors import safe_open

from metaselect.run.artefacts import GRADIENTS
from metaselect.run.stage_names import ARTEFACTS

STAGES = (
    "data",
    "warmup",
    "select/round-1",
    "annotate",
    "reweight/auto",
    "reweight/uniform",
    "evaluate/test",
)
PATHS = {
    "<name>": ("auto", "uniform"),
    "fold-<number>": ("fold-1", "fold-2"),
    "<test>": ("test",),
    "round-<number>": ("round-1",),
    "epoch-<epoch>": ("epoch-0003", "epoch-0006"),
    "<stage>": STAGES,
}
TRACES = ("", "-epoch-0003", "-epoch-0006")  # of --trace
ABSENT = {
    "data/encoded.npy",
    "data/encoded_bytes.npy",
    "data/features.npy",
    "data/skipped.csv",
    "features.parquet",
    "select/round-1/conflicts.csv",
    "evaluate/test/overlap.csv",
    "fanout/offers.parquet",
    "fanout/review.csv",
    "fanout/stage.json",
    "warmup/pretrained.safetensors",
    *(f"reweight/{name}/trace{end}.parquet" for name in ("auto", "uniform") for end in TRACES),
    "data/duplicates.csv",
    "evaluate/test/skipped.csv",
    "annotate/repeats.csv",
    "annotate/consensus.json",
}
"""Artefacts that a pool of good, distinct images, or one annotator who is asked once, has no use for."""
BATCH = "<batch_id>"
TIMED = ("annotate/votes.csv", "annotate/exports.csv", "annotate/imports.csv")


def expand(path: str) -> list[str]:
    """The files that a path of the table stands for in the finished run."""
    found = [path]
    for mark, names in PATHS.items():
        found = [one.replace(mark, name) for one in found for name in (names if mark in one else ("",))]
    return found


def said(folder: Path) -> dict[str, Any]:
    """What each command of the finished run printed under --json."""
    printed = json.loads((folder / "said.json").read_text())
    return {name: Done(0, text, "").json for name, text in printed.items()}


def columns_of(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return list(pq.read_schema(path).names)
    with path.open(newline="") as stream:
        return next(csv.reader(stream))


def test_every_stage_prints_one_json_object(finished_once: Path) -> None:
    results = said(finished_once)
    for result in results.values():
        assert result["ok"] is True
        assert result["schema_version"] == 1
    assert results["ingest"]["n"] == LIMIT
    assert results["warmup"]["checkpoints"] == [3, 6]
    assert results["select"]["selected"] == BUDGET
    assert results["simulate"]["bought"] == BUDGET
    assert results["reweight"]["bought"] == BUDGET
    assert results["status"]["next"] is None
    assert {stage["state"] for stage in results["status"]["stages"]} == {"done"}
    assert [stage["stage"] for stage in results["status"]["stages"]] == list(STAGES)


def test_evaluate_says_what_the_labels_were_worth(finished_once: Path) -> None:
    result = said(finished_once)["evaluate"]
    models = {"warmup": result["warmup"], **result["reweight"]}
    assert set(models) == {"warmup", "auto", "uniform"}
    for found in models.values():
        assert 0 <= found["test_accuracy"] <= 1
        assert np.sum(found["confusion"]) == result["test_samples"] == 360
    assert 0 <= result["reweight"]["auto"]["weight_auc"] <= 1
    assert result["reweight"]["uniform"]["weight_auc"] is None  # every weight is 1
    assert "weight_auc" not in result["warmup"]
    for found in models.values():  # the ranking is judged for every model, of equal weights too
        assert 0 <= found["rank_auc"] <= 1
        assert found["k"] == result["reweight"]["auto"]["k"]
        assert 0 <= found["precision_at_k"] <= 1
        shares = [share for share in found["per_class_accuracy"].values() if share is not None]
        assert found["balanced_accuracy"] == pytest.approx(np.mean(shares))
    assert result["take"]["model"] in models
    assert (finished_once / "run" / result["take"]["path"]).is_file()


def test_the_run_holds_the_artefacts_of_the_table_and_no_others(finished_once: Path) -> None:
    run = finished_once / "run"
    expected = {path for entry in ARTEFACTS for path in expand(entry.template)} - ABSENT
    made = {name for name in tree(run) if not name.startswith("export/")}
    (batch,) = (name for name in made if name.startswith("annotate/batches/"))
    assert made - {batch} == expected - {f"annotate/batches/{BATCH}.csv"}


@pytest.mark.parametrize(
    "entry", [entry for entry in ARTEFACTS if entry is not GRADIENTS], ids=lambda entry: entry.template
)
def test_tables_have_the_documented_columns(finished_once: Path, entry: Any) -> None:
    tables = [path for path in expand(entry.template) if path.endswith((".csv", ".parquet"))]
    for relative in tables:
        (path,) = (
            (finished_once / "run").glob(relative.replace(BATCH, "*")) if relative not in ABSENT else (None,)
        )
        if path is not None:
            expected = list(entry.columns)
            expected = [
                column.replace("<model>", name)
                for column in expected
                for name in (("warmup", "auto", "uniform") if "<model>" in column else ("",))
            ]
            assert columns_of(path) == expected
    assert bool(tables) == entry.template.endswith((".csv", ".parquet"))


def test_selected_samples_are_ranked_and_distinct(finished_once: Path) -> None:
    with (finished_once / "run/select/round-1/selected.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["rank"]) for row in rows] == list(range(1, BUDGET + 1))
    assert len({row["sample_id"] for row in rows}) == BUDGET
    clusters = pq.read_table(finished_once / "run/select/round-1/clusters.parquet").to_pylist()
    ranks = {row["sample_id"]: row["rank"] for row in clusters if row["rank"] is not None}
    assert ranks == {row["sample_id"]: int(row["rank"]) for row in rows}


@pytest.mark.parametrize("name", ["auto", "uniform"])
def test_weights_have_one_row_a_sample(finished_once: Path, name: str) -> None:
    run = finished_once / "run"
    table = pq.read_table(run / f"reweight/{name}/weights.parquet")
    samples = pq.read_table(run / "data/samples.parquet")
    assert table["sample_id"].equals(samples["sample_id"])
    assert table["given_label"].equals(samples["given_label"])
    weights, bought = table["weight"].to_numpy(), table["bought"].to_numpy()
    assert ((weights >= 0) & (weights <= 1)).all()
    assert bought.sum() == BUDGET
    assert (weights[bought] == 1).all()
    with (run / "annotate/meta_set.csv").open(newline="") as stream:
        answered = {row["sample_id"] for row in csv.DictReader(stream)}
    ids = np.array(table["sample_id"].to_pylist())
    assert set(ids[bought]) == answered
    ranks = np.array(table["label_issue_rank"].to_pylist(), dtype=object)
    assert all(rank is None for rank in ranks[bought])
    assert min(ranks[~bought]) == 1
    assert max(ranks[~bought]) <= LIMIT - BUDGET
    assert len(set(ranks[~bought])) > 0.9 * (
        LIMIT - BUDGET
    )  # few samples are equal in weight and probability
    by_rank = weights[~bought][np.argsort(ranks[~bought].astype(int))]
    assert (np.diff(by_rank) >= 0).all()  # rank 1 is trusted least


def test_models_can_be_loaded_without_the_program(finished_once: Path) -> None:
    for folder in ("reweight/auto", "reweight/uniform"):
        described = json.loads((finished_once / "run" / folder / "model.json").read_text())
        assert described["architecture"] == "convnet"
        assert described["classes"] == [str(digit) for digit in range(10)]
        assert described["preprocess"]["size"] == [8, 8]
        with safe_open(finished_once / "run" / folder / "model.safetensors", "numpy") as file:
            assert all(np.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118


def test_stage_records_say_what_made_them(finished_once: Path) -> None:
    for stage in STAGES:
        record = json.loads((finished_once / "run" / stage / "stage.json").read_text())
        assert set(record) >= {"layout_version", "options", "inputs", "device", "outputs", "details"}
        details = record["details"]
        assert details["command"].startswith("metaselect ")
        assert details["versions"]["metaselect"]
        assert details["peak_memory"]["process_mib"] > 0
        for name, stamp in record["outputs"].items():
            assert (finished_once / "run" / stage / name).stat().st_size == stamp["size"]


@pytest.mark.slow
def test_the_same_commands_from_nothing_give_the_same_bytes(finished_once: Path, tmp_path: Path) -> None:
    run = tmp_path / "another run"  # its place, spaces included, makes no difference
    for name in list(PIPELINE)[:-2]:
        run_process(*PIPELINE[name], run=run)
    first, second = (tree(root, leave=(".lock", "stage.json")) for root in (finished_once / "run", run))
    assert set(first) == set(second)
    for name in TIMED:
        assert without_time(first.pop(name)) == without_time(second.pop(name))
    assert [name for name in first if first[name] != second[name]] == []


def without_time(table: bytes) -> list[dict[str, str]]:
    rows = list(csv.DictReader(table.decode().splitlines()))
    assert all(row.pop("time") for row in rows)
    return rows


@pytest.mark.slow
def test_a_shuffled_manifest_gives_the_same_models(warm: Path, tmp_path: Path) -> None:
    table = pq.read_table(TRAIN)
    order = np.random.default_rng(3).permutation(len(table))
    pq.write_table(table.take(order), tmp_path / "shuffled.parquet", row_group_size=100)
    shuffled = tmp_path / "shuffled"
    metaselect("ingest", tmp_path / "shuffled.parquet", "--limit", LIMIT, run=shuffled)
    metaselect(*WARMUP, run=shuffled)
    for folder in ("data", "warmup"):
        made = tree(shuffled / folder, leave=("stage.json",))
        assert made == tree(warm / folder, leave=("stage.json",))


@pytest.mark.slow
def test_features_end_to_end(tmp_path: Path) -> None:
    """Two clusters a class in 8 dimensions, 40 % of the labels wrong; a hundred test rows."""
    generator = np.random.default_rng(5)
    centres = generator.normal(0, 3, (3, 8))

    def write(name: str, count: int, rate: float) -> None:
        clean = generator.integers(0, 3, count)
        rows = centres[clean] + generator.normal(0, 1, (count, 8))
        given = np.where(generator.random(count) < rate, (clean + 1) % 3, clean)
        with (tmp_path / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["sample_id", *(f"x{number}" for number in range(8)), "label"])
            for number, (row, label) in enumerate(zip(rows, given, strict=True)):
                writer.writerow([f"{name}-{number:03d}", *row, f"class {label}"])
        with (tmp_path / f"{name}-truth.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["sample_id", "clean_label"])
            writer.writerows((f"{name}-{number:03d}", f"class {label}") for number, label in enumerate(clean))

    write("train", 150, 0.4)
    write("test", 100, 0.0)
    run, columns = tmp_path / "run", ("--feature-columns", "x*")
    truth = tmp_path / "train-truth.csv"
    metaselect("warmup", tmp_path / "train.csv", *columns, "--epochs", 10, run=run)
    assert (run / "data/features.npy").is_file()
    metaselect("select", "--budget", 12, run=run)
    metaselect("annotate", "export", run=run)
    assert not (run / "export/round-1/images").exists()
    metaselect("annotate", "simulate", truth, run=run)
    metaselect("reweight", "--epochs", 10, run=run)
    judged = metaselect("evaluate", tmp_path / "test.csv", *columns, "--truth", truth, "--json", run=run).json
    assert judged["reweight"]["auto"]["test_accuracy"] > 0.9
    assert judged["noise"]["measured_rate"] == pytest.approx(0.4, abs=0.1)
    said = metaselect("evaluate", tmp_path / "test.csv", *columns, "--truth", truth, run=run).err
    assert "up to date" in said


def test_bad_test_samples_are_listed(warm: Path, tmp_path: Path) -> None:
    table = pq.read_table(TRAIN).slice(0, 5)
    labels = ["0", "1", "no digit", "2", "3"]
    place = table.schema.get_field_index("label")
    pq.write_table(table.set_column(place, "label", pa.array(labels)), tmp_path / "odd.parquet")
    done = metaselect("evaluate", tmp_path / "odd.parquet", "--on-bad-sample", "skip", "--json", run=warm)
    assert done.json["test_samples"] == 4
    with (warm / "evaluate/odd/skipped.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["row"] for row in rows] == ["3"]
    assert "no digit" in rows[0]["reason"]
