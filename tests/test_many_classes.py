"""Pools of more than a thousand classes, half of which have one sample: bounded output, and a time before a round."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import metaselect
from sklearn.metrics import confusion_matrix

from metaselect.metrics.classification import count_classes
from metaselect.records import MOST_ROWS, matrix_rows
from metaselect.stages.select.cost import Measured, extrapolated
from metaselect.text import examples

DRAW = np.random.default_rng(4)
CLASSES, SINGLE = 1322, 686
NAMES = [f"species {number:04d}" for number in range(CLASSES)]


def write(path: Path, labels: np.ndarray, rows: np.ndarray, ids: list[str]) -> Path:
    features = pa.array(list(rows.astype(np.float32)), pa.list_(pa.float32()))
    table = {"sample_id": ids, "features": features, "label": [NAMES[label] for label in labels]}
    pq.write_table(pa.table(table), path)
    return path


def write_all(root: Path, classes: int, single: int) -> Path:
    """A training set with a wrong label in ten, its truth, and a test set that lacks 22 classes."""
    counts = np.where(np.arange(classes) < single, 1, 3)
    true = np.repeat(np.arange(classes), counts)
    centres = DRAW.normal(size=(classes, 12))
    given = true.copy()
    given[single::10] = DRAW.integers(single, classes, len(given[single::10]))
    ids = [f"s{place:05d}" for place in range(len(true))]
    write(root / "train.parquet", given, centres[true] + 0.3 * DRAW.normal(size=(len(true), 12)), ids)
    tested = np.arange(classes - 22)
    write(root / "test.parquet", tested, centres[tested], [f"t{place}" for place in tested])
    rows = [f"{sample_id},{NAMES[label]}" for sample_id, label in zip(ids, true, strict=True)]
    (root / "truth.csv").write_text("\n".join(["sample_id,clean_label", *rows]))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("many"), CLASSES, SINGLE)


def test_a_matrix_of_many_classes_is_a_list_of_its_cells() -> None:
    for classes in (MOST_ROWS, MOST_ROWS + 1):
        true, predicted = DRAW.integers(0, classes, (2, 500))
        found = count_classes(true, predicted, classes).confusion
        expected = confusion_matrix(true, predicted, labels=np.arange(classes))
        if classes <= MOST_ROWS:
            assert found == expected.tolist()
            continue
        pairs = Counter(zip(true.tolist(), predicted.tolist(), strict=True))
        assert found == [[*pair, count] for pair, count in sorted(pairs.items())]
        json.dumps(found)
    assert matrix_rows(np.eye(2)) == [[1.0, 0.0], [0.0, 1.0]]


def test_lists_of_names_are_cut() -> None:
    assert examples(["a", "b"]) == "a, b"
    assert examples([str(number) for number in range(9)]) == "0, 1, 2, 3, 4 and 4 more"
    assert examples(("a", "b", "c"), 2) == "a, b and 1 more"


def test_time_is_extrapolated_by_a_line_and_a_power() -> None:
    measured = [Measured(samples, 2 + 0.01 * samples, 1e-5 * samples**2) for samples in (100, 200)]
    features, choice = extrapolated(measured, 3000)
    assert features == pytest.approx(32)
    assert choice == pytest.approx(90)
    assert extrapolated(measured, 3000, by_line=True) == pytest.approx((32, 0.4 + 28 * 0.3))
    assert extrapolated(measured[:1], 1000) == pytest.approx((30, 1))
    faster = [Measured(100, 1.0, 1.0), Measured(200, 0.5, 0.1)]  # noise: never less than what was measured
    assert extrapolated(faster, 400) == pytest.approx((0.5, 0.2))


@pytest.mark.parametrize(("classes", "single", "method"), [(CLASSES, SINGLE, "uniform"), (130, 60, "auto")])
def test_every_command_with_many_classes(tmp_path: Path, classes: int, single: int, method: str) -> None:
    data, run = write_all(tmp_path, classes, single), tmp_path / "run"
    steps = [
        ("ingest", data / "train.parquet"),
        ("warmup", "--model", "mlp", "--epochs", 2, "--folds", 0),
        ("select", "--budget", 6, "--method", "k-means"),
        ("annotate", "export"),
        ("annotate", "simulate", data / "truth.csv"),
        ("annotate", "status"),
        ("reweight", "--method", method, "--epochs", 1, "--folds", 0),
        ("evaluate", data / "test.parquet", "--truth", data / "truth.csv"),
        ("status",),
    ]
    for words in steps:
        said = metaselect(*words, run=run)
        assert len(said.out + said.err) < 6_000, said.err[:300]
        again = metaselect(*words, "--json", run=run)
        assert len(again.out) < (400_000 if words[0] in ("evaluate", "ingest") else 4_000), words
    found = metaselect("evaluate", data / "test.parquet", "--truth", data / "truth.csv", "--json", run=run)
    for each in (found.json["warmup"], *found.json["reweight"].values()):
        assert sum(count for _, _, count in each["confusion"]) == classes - 22
        right = sum(count for true, predicted, count in each["confusion"] if true == predicted)
        assert right / (classes - 22) == pytest.approx(each["test_accuracy"])
    other = metaselect("evaluate", data / "test.parquet", "--name", "other", run=run)
    assert f"has no sample of 22 classes: {NAMES[classes - 22]}, {NAMES[classes - 21]}" in other.err
    assert "and 17 more." in other.err
    record = run / f"reweight/{method}/stage.json"
    assert record.stat().st_size < 50_000
    if method == "uniform":
        return
    shares = np.zeros(classes)
    for true, _, share in json.loads(record.read_text())["details"]["method"]["transition"]:
        assert 0.01 < share < 1.0001
        shares[true] += share
    assert (shares < 1.001).all()


def test_what_wrong_names_are_told_is_bounded(data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data / "train.parquet")
    for number in range(2):
        half = [name if place % 2 else name.upper() for place, name in enumerate(table["label"].to_pylist())]
        place = table.column_names.index("label")
        pq.write_table(table.set_column(place, "label", pa.array(half)), tmp_path / f"{number}.parquet")
    said = metaselect("ingest", tmp_path / "0.parquet", run=tmp_path / "run")
    assert "differ in case only" in said.err
    assert " more." in said.err
    assert len(said.err) < 1_000
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join([*NAMES, *(f"absent {number}" for number in range(900))]))
    said = metaselect("ingest", data / "train.parquet", "--classes", classes, run=tmp_path / "other")
    assert "900 of 2222 classes have no sample: absent 0, absent 1" in said.err
    assert "and 895 more" in said.err
    (tmp_path / "labels.csv").write_text(
        "sample_id,label\n" + "".join(f"s{n:05d},cow\n" for n in range(2594))
    )
    words = ("--noise", "human", "--labels", tmp_path / "labels.csv", "-o", tmp_path / "out")
    refused = metaselect("corrupt", data / "train.parquet", *words, code=3)
    assert "and 1317 more" in refused.err
    assert len(refused.err) < 600


def test_a_dry_run_says_how_long_a_round_takes(warm: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in warm.rglob("*") if path.is_file()}
    for method in ("random", "rbc", "gbc", "k-means", "badge"):
        words = ("select", "--budget", 12, "--method", method, "--control", 0.2, "--min-per-class", 0)
        done = metaselect(*words, "--dry-run", "--json", run=warm)
        needs = done.json["needs"]
        assert needs["seconds_features"] >= 0
        assert 0 <= needs["seconds_choice"] < 60
        assert "by a probe of 128 samples" in done.err
    nothing = metaselect(
        "select", "--budget", 12, "--method", "ta-vaal", "--dry-run", "--json", run=warm
    ).json
    assert nothing["needs"]["seconds_choice"] is None
    after = {path: path.stat().st_mtime_ns for path in warm.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after.get(path)} <= {warm / ".lock"}
    assert set(after) - set(before) <= {warm / ".lock"}
    # A round that was chosen already lends its files to others, but not to a probe of a part of the pool.
    metaselect("select", "--budget", 5, "--method", "rbc", run=warm)
    metaselect("annotate", "export", run=warm)
    later = ("select", "--budget", 5, "--method", "rbc", "--round", "next", "--dry-run", "--json")
    assert metaselect(*later, run=warm).json["needs"]["seconds_choice"] >= 0
