"""`evaluate` without a test set: against the files that it is from, against the truth, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import DATA, TEST, TRUTH, UNIFORM, WARMUP, metaselect, states
from data_makers import ids_of, write_rows

NAME = "bought.labels"
Z = 1.959963984540054


def evaluated(run: Path, *words: object) -> Any:
    return metaselect("evaluate", *words, "--json", run=run).json


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def bought_labels(run: Path) -> dict[str, str]:
    return {
        row["sample_id"]: row["clean_label"]
        for row in rows_of(run / "annotate/meta_set.csv")
        if row["clean_label"]
    }


def expected_right(run: Path, ids: set[str]) -> dict[str, int]:
    """Of the warm-up, by its out-of-fold predictions, and of each re-weighting, by its cross-fitted ones."""
    bought = {name: label for name, label in bought_labels(run).items() if name in ids}
    classes = json.loads((run / "data/classes.json").read_text())
    table = pq.read_table(run / "warmup/predictions.parquet").to_pylist()
    warm = {row["sample_id"]: classes[int(np.argmax(row["out_of_fold"]))] for row in table}
    right = {"warmup": sum(warm[name] == label for name, label in bought.items())}
    for path in run.glob("reweight/*/cross_fit.csv"):
        found = {row["sample_id"]: row["method_predicted"] for row in rows_of(path)}
        right[path.parent.name] = sum(found[name] == label for name, label in bought.items())
    return right


def check_scores(found: Any, right: int, count: int) -> None:
    assert found["not_judged"] is None
    share = found["test_accuracy"]
    assert share == pytest.approx(right / count)
    # The limits are the shares from which the found one is 1.96 standard errors away, or 0 and 1.
    for limit, end in ((found["test_accuracy_low"], 0.0), (found["test_accuracy_high"], 1.0)):
        away = abs(share - limit) - Z * np.sqrt(limit * (1 - limit) / count)
        assert limit == end or away == pytest.approx(0, abs=1e-9)
    assert found["test_accuracy_low"] <= share <= found["test_accuracy_high"]
    assert np.trace(found["confusion"]) == right
    assert np.sum(found["confusion"]) == count


def test_all_bought_samples_where_a_selector_chose_them(finished: Path) -> None:
    found = evaluated(finished)
    bought = bought_labels(finished)
    assert (found["test"], found["judged_on"], found["test_samples"]) == (NAME, "bought", len(bought))
    right = expected_right(finished, set(bought))
    assert right.keys() == {"warmup", *found["reweight"]}
    check_scores(found["warmup"], right.pop("warmup"), len(bought))
    for name, count in right.items():
        check_scores(found["reweight"][name], count, len(bought))
    written = pq.read_table(finished / f"evaluate/{NAME}/predictions.parquet").to_pylist()
    assert {row["sample_id"]: row["label"] for row in written} == bought
    said = metaselect("evaluate", run=finished)
    assert f"evaluate/{NAME} is up to date" in said.err
    assert f"On {len(bought)} bought samples, which a selector chose: the pool as a whole may be" in said.out
    # The model to take is the one that a test set chose, and without one the one that the comparisons choose.
    assert "evaluate/test" in metaselect("status", "--json", run=finished).json["take"]["why"]
    shutil.rmtree(finished / "evaluate/test")
    status = metaselect("status", "--json", run=finished).json
    assert status["take"] == found["take"]
    assert "bought.labels" not in status["take"]["why"]


def test_the_truth_judges_the_weights_here_too(finished: Path) -> None:
    with_test, without = (evaluated(finished, *words, "--truth", TRUTH) for words in ((TEST,), ()))
    for name, found in with_test["reweight"].items():
        assert without["reweight"][name]["rank_auc"] == found["rank_auc"]
        assert without["reweight"][name]["weight_auc"] == found["weight_auc"]
    assert without["noise"] == with_test["noise"]


def test_new_models_and_new_labels_make_it_stale(finished: Path) -> None:
    shutil.rmtree(finished / "evaluate/test")
    evaluated(finished)
    metaselect(*UNIFORM, "--name", "again", "--folds", 0, run=finished)
    assert states(finished, 1)[f"evaluate/{NAME}"] == ("stale", "reweight/again changed since")
    found = evaluated(finished)
    assert found["reweight"]["again"]["test_accuracy"] is None
    assert found["reweight"]["again"]["not_judged"].startswith("no model of it was trained without")
    assert "again is not judged: no model" in metaselect("evaluate", run=finished).out
    metaselect("select", "--round", "next", "--budget", 10, "--control", 1, run=finished)
    assert states(finished, 0)[f"evaluate/{NAME}"] == ("done", "")
    metaselect("annotate", "simulate", TRUTH, run=finished)
    assert states(finished, 1)[f"evaluate/{NAME}"][0] == "stale"
    found = evaluated(finished)
    assert (found["judged_on"], found["test_samples"]) == ("control", 10)
    check_scores(found["warmup"], round(10 * found["warmup"]["test_accuracy"]), 10)
    assert "was made with other bought labels" in found["reweight"]["uniform"]["not_judged"]


def test_a_warmup_without_folds_is_not_judged(tmp_path: Path) -> None:
    run = tmp_path / "run"
    metaselect("ingest", DATA / "train.parquet", "--limit", 120, run=run)
    metaselect(*WARMUP, "--folds", 0, run=run)
    metaselect("select", "--method", "random", "--budget", 9, "--control", 1, run=run)
    metaselect("annotate", "simulate", TRUTH, run=run)
    few = metaselect("evaluate", run=run, code=1)
    assert "there are 9, and it takes 10" in few.err
    assert "--control 1" in few.err
    assert not (run / "evaluate").exists()
    metaselect("select", "--round", "next", "--method", "random", "--budget", 1, run=run)
    metaselect("annotate", "simulate", TRUTH, run=run)
    none = metaselect("evaluate", run=run, code=1)
    assert (
        "No model can be judged on the bought labels: no model of the warm-up was trained without" in none.err
    )
    metaselect(*UNIFORM, run=run)
    found = evaluated(run)
    assert (found["judged_on"], found["test_samples"]) == ("bought", 10)  # 9 control samples are too few
    assert found["warmup"]["test_accuracy"] is None
    assert found["warmup"]["confusion"] is None
    assert "(warmup --folds)" in found["warmup"]["not_judged"]
    assert found["reweight"]["uniform"]["not_judged"] is None


def test_what_is_about_a_test_set_needs_one(finished: Path) -> None:
    for words in (("--name", "mine"), ("--leave-out-overlap",), ("--label-column", "class")):
        refused = metaselect("evaluate", *words, run=finished, code=2)
        assert f"{words[0]} is for a test set, and none is named." in refused.err
    assert "Choose another name" in metaselect("evaluate", TEST, "--name", NAME, run=finished, code=2).err
    shutil.copy(TEST, finished.parent / f"{NAME}.parquet")
    assert evaluated(finished, finished.parent / f"{NAME}.parquet")["test"] == "bought-labels"


def clusters(path: Path, count: int, seed: int, *, noise: float) -> tuple[Path, dict[str, str]]:
    """Overlapping clusters with uniform label noise, and the true labels by id."""
    draw = np.random.default_rng(seed)
    true = draw.integers(0, 4, count)
    rows = np.eye(4)[true] * 2.2 + draw.normal(size=(count, 4))
    given = np.where(draw.random(count) < noise, (true + draw.integers(1, 4, count)) % 4, true)
    ids = [f"{path.stem}{name}" for name in ids_of(count)]
    cells = [(name, *row, label) for name, row, label in zip(ids, rows.tolist(), given.tolist(), strict=True)]
    write_rows(path, ["id", "x1", "x2", "x3", "x4", "label"], cells)
    return path, dict(zip(ids, map(str, true.tolist()), strict=True))


@pytest.mark.slow
def test_the_intervals_from_control_samples_cover_the_true_accuracy(tmp_path: Path) -> None:
    """On a large test set with right labels, which is what the estimate is of."""
    covered, widths = [], []
    for seed in range(4):
        folder = tmp_path / str(seed)
        train, true = clusters(folder / "train.csv", 400, seed, noise=0.4)
        test, _ = clusters(folder / "test.csv", 4000, 100 + seed, noise=0)
        truth = write_rows(folder / "truth.csv", ["sample_id", "clean_label"], list(true.items()))
        run = folder / "run"
        metaselect("warmup", train, "--feature-columns", "x*", "--model", "linear", run=run)
        metaselect("select", "--budget", 60, "--control", 0.5, "--seed", seed, run=run)
        metaselect("annotate", "simulate", truth, run=run)
        metaselect("reweight", run=run)
        metaselect("reweight", "--method", "uniform", run=run)
        judged, found = evaluated(run, test, "--feature-columns", "x*"), evaluated(run)
        assert (found["judged_on"], found["test_samples"]) == ("control", 30)
        pairs = [(found["warmup"], judged["warmup"])]
        pairs += [(found["reweight"][name], judged["reweight"][name]) for name in judged["reweight"]]
        for estimate, known in pairs:
            low, high = estimate["test_accuracy_low"], estimate["test_accuracy_high"]
            covered.append(low <= known["test_accuracy"] <= high)
            widths.append(high - low)
    # 12 intervals, three of one draw each; that 4 of 12 miss has a chance below 1 % at 95 %.
    assert sum(covered) >= 9
    assert max(widths) < 0.4
