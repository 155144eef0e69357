"""``issues.parquet`` and ``issues.csv``: every column recomputed from the other files of the run, and the lines."""

import csv
import json
import shutil
from collections import Counter
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import metaselect, run_process, seen, states
from data_makers import write_rows
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from metaselect.text import FORMULA

N, WIDTH, BUDGET = 150, 24, 40
CLASSES = ("=cmd()", "-dog", "owl")
IDS = ("=1+1", "+x", "@sum(A1)", "s\t3", *(f"s{index:03d}" for index in range(4, N)))
TWINS = ((10, 40), (50, 71))
"""Near duplicates; the labels of the second pair differ."""
COLUMNS = (
    *("sample_id", "rank", "given_label", "suggested_label", "suggested_prob", "bought_label", "weight"),
    *("out_of_fold", "neighbours", "outlier", "duplicate_group", "conflict", "source"),
)


def write_pool(folder: Path, order: np.ndarray) -> None:
    """Features of three classes, a third of the labels wrong, in an order of rows; and the truth."""
    draw = np.random.default_rng(0)
    true = np.arange(N) % 3
    rows = draw.normal(size=(3, WIDTH))[true] + draw.normal(size=(N, WIDTH))
    given = np.where(draw.random(N) < 0.35, (true + 1) % 3, true)
    for first, other in TWINS:
        rows[other] = rows[first] + 0.01 * draw.normal(size=WIDTH)
        true[other], given[other] = true[first], given[first]
    given[71] = (given[50] + 1) % 3
    columns = {
        "sample_id": [IDS[index] for index in order],
        "label": [CLASSES[given[index]] for index in order],
        "features": pa.array([rows[index].astype(np.float32) for index in order], pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), folder / "pool.parquet")
    pairs = [(IDS[index], CLASSES[true[index]]) for index in range(N)]
    write_rows(folder / "truth.csv", ["sample_id", "clean_label"], pairs)


def prepared(folder: Path, order: np.ndarray) -> Path:
    """A run whose labels were bought."""
    write_pool(folder, order)
    run = folder / "run"
    metaselect("warmup", folder / "pool.parquet", "--model", "linear", run=run)
    metaselect("select", "--method", "random", "--budget", BUDGET, run=run)
    metaselect("annotate", "simulate", folder / "truth.csv", run=run)
    return run


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with a re-weighting by ``auto``, and what that printed; read only."""
    run = prepared(tmp_path_factory.mktemp("issues"), np.random.default_rng(5).permutation(N))
    done = run_process("reweight", run=run)
    return run, done.out


@pytest.fixture
def run(corrected: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copy(corrected[0].parent / "truth.csv", tmp_path)
    return Path(shutil.copytree(corrected[0], tmp_path / "run"))


def table(run: Path, name: str = "auto") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run / f"reweight/{name}/issues.parquet").to_pylist()
    return rows


def listed(run: Path, name: str = "auto") -> list[dict[str, str]]:
    with (run / f"reweight/{name}/issues.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def result(run: Path, name: str = "auto") -> Any:
    return json.loads((run / f"reweight/{name}/stage.json").read_text())["details"]["result"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def answers(run: Path) -> dict[str, str]:
    return {row["sample_id"]: row["clean_label"] for row in rows_of(run / "annotate/meta_set.csv")}


def test_the_evidence_is_that_of_the_other_files(corrected: tuple[Path, str]) -> None:
    run, _ = corrected
    classes = json.loads((run / "data/classes.json").read_text())
    weights = pq.read_table(run / "reweight/auto/weights.parquet").to_pylist()
    warm = pq.read_table(run / "warmup/predictions.parquet").to_pylist()
    near = pq.read_table(run / "select/round-1/neighbours.parquet").to_pylist()
    rows, said = table(run), answers(run)
    assert tuple(rows[0]) == COLUMNS
    for row, weight, predicted, place in zip(rows, weights, warm, near, strict=True):
        given = classes.index(row["given_label"])
        assert row["sample_id"] == weight["sample_id"] == predicted["sample_id"] == place["sample_id"]
        assert (row["given_label"], row["weight"]) == (weight["given_label"], weight["weight"])
        assert row["rank"] == weight["label_issue_rank"]
        assert row["out_of_fold"] == predicted["out_of_fold"][given]
        assert row["neighbours"] == predicted["neighbours"][given]
        assert (row["duplicate_group"], row["outlier"]) == (place["duplicate_group"], place["outlier"])
        assert row["conflict"] is (row["sample_id"] in (IDS[50], IDS[71]))
        assert row["bought_label"] == said.get(row["sample_id"])
    assert {row["duplicate_group"] for row in rows} == {None, IDS[10], IDS[50]}


def test_the_suggestion_is_the_bought_label_or_agrees_with_the_posterior(corrected: tuple[Path, str]) -> None:
    """The weight of auto is the posterior of the given label, which is suggested where that is above a half."""
    right = []
    truth = {row["sample_id"]: row["clean_label"] for row in rows_of(corrected[0].parent / "truth.csv")}
    for row in table(corrected[0]):
        if row["bought_label"]:
            assert (row["suggested_label"], row["suggested_prob"]) == (row["bought_label"], 1)
            continue
        if row["suggested_label"] == row["given_label"]:
            assert row["suggested_prob"] == pytest.approx(row["weight"])
        else:
            assert row["weight"] <= row["suggested_prob"] <= 1 - row["weight"] + 1e-6
        right.append(row["suggested_label"] == truth[row["sample_id"]])
    assert np.mean(right) > 0.9  # of the given labels 65 % are right


def test_a_method_without_a_posterior_suggests_by_both_models(run: Path) -> None:
    metaselect("reweight", "--method", "gce", "--epochs", 3, "--folds", 0, run=run)
    folder = run / "reweight/gce"
    model, described = (
        load_file(folder / "model.safetensors"),
        json.loads((folder / "model.json").read_text()),
    )
    weight, bias = (next(v for k, v in model.items() if k.endswith(end)) for end in ("weight", "bias"))
    scale, classes = described["preprocess"], described["classes"]
    logits = ((np.load(run / "data/features.npy") - scale["mean"]) / scale["std"]) @ weight.T + bias
    own = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    warm = pq.read_table(run / "warmup/predictions.parquet")["out_of_fold"].to_pylist()
    for row, probs in zip(table(run, "gce"), (own + np.array(warm)) / 2, strict=True):
        if not row["bought_label"]:
            assert row["suggested_label"] == classes[int(probs.argmax())]
            assert row["suggested_prob"] == pytest.approx(probs.max(), rel=1e-4)
    found = result(run, "gce")
    rankings = found["issues"]["rankings"]
    assert rankings["rank"]["reason"] == rankings["weight"]["reason"] == "there is no comparison by folds"
    assert rankings["out_of_fold"]["auc"] is not None


def test_rankings_are_judged_on_values_that_saw_no_bought_label(corrected: tuple[Path, str]) -> None:
    run, printed = corrected
    issues = result(run)["issues"]
    bought = [row for row in table(run) if row["bought_label"]]
    right = np.array([row["bought_label"] == row["given_label"] for row in bought])
    assert (issues["contradicted"], issues["confirmed"]) == ((~right).sum(), right.sum())
    for name, sign in (("out_of_fold", 1), ("neighbours", 1), ("outlier", -1)):
        values = sign * np.array([row[name] for row in bought])
        assert issues["rankings"][name]["auc"] == pytest.approx(roc_auc_score(right, values)), name
        assert f"{name} {roc_auc_score(right, values):.2f} (" in printed
    # Weights of bought samples are 1 and would rank nothing.
    assert {row["weight"] for row in bought} == {1}
    assert issues["rankings"]["rank"]["auc"] > 0.7
    assert "Rank and weight are cross-fitted." in printed
    assert f"on {(~right).sum()} given labels that bought ones contradict and {right.sum()} that" in printed


def test_the_rank_of_plain_training_is_judged_by_the_warmup(run: Path) -> None:
    """All its weights are 1, and it ranks by the out-of-fold probability."""
    metaselect("reweight", "--method", "uniform", run=run)
    rankings = result(run, "uniform")["issues"]["rankings"]
    assert rankings["rank"] == rankings["out_of_fold"]
    assert "the same of all" in rankings["weight"]["reason"]


def test_a_weight_that_is_a_probability_is_judged_by_the_comparison(run: Path) -> None:
    metaselect("reweight", "--method", "gce", "--epochs", 4, "--folds", 2, run=run)
    rows = [row for row in rows_of(run / "reweight/gce/cross_fit.csv") if row["clean_label"]]
    right = [row["clean_label"] == row["given_label"] for row in rows]
    auc = roc_auc_score(right, [float(row["method_given_prob"]) for row in rows])
    rankings = result(run, "gce")["issues"]["rankings"]
    assert rankings["rank"]["auc"] == pytest.approx(auc) == pytest.approx(rankings["weight"]["auc"])


def test_a_weight_of_trained_samples_alone_is_not_judged(run: Path) -> None:
    """Where direct leaves a sample out, its weight is the random number that it began with."""
    done = metaselect("reweight", "--method", "direct", "--epochs", 4, "--folds", 2, run=run)
    rankings = result(run, "direct")["issues"]["rankings"]
    assert rankings["rank"] == rankings["weight"]
    assert rankings["rank"]["auc"] is None
    assert "Of the rank there is none: the method has no weights for samples" in done.out


def test_pairs_are_counted(corrected: tuple[Path, str]) -> None:
    run, printed = corrected
    rows, issues = table(run), result(run)["issues"]
    counts = Counter(
        (row["given_label"], row["suggested_label"])
        for row in rows
        if row["given_label"] != row["suggested_label"]
    )
    sizes = Counter(row["given_label"] for row in rows)
    assert issues["others_suggested"] == counts.total()
    found = [(pair["given_label"], pair["suggested_label"]) for pair in issues["pairs"]]
    assert {place: pair["count"] for place, pair in zip(found, issues["pairs"], strict=True)} == counts
    assert [counts[place] for place in found] == sorted(counts.values(), reverse=True)
    for pair in issues["pairs"]:
        assert pair["share"] == pytest.approx(pair["count"] / sizes[pair["given_label"]])
    first = issues["pairs"][0]
    share = f"{first['share']:.0%}"
    assert f"{first['given_label']} to {first['suggested_label']} ({first['count']}, {share})" in printed


def test_the_list_has_contradicted_labels_and_then_the_first_ranks(corrected: tuple[Path, str]) -> None:
    run, printed = corrected
    rows, said = listed(run), result(run)
    assert tuple(rows[0]) == COLUMNS
    bought = [row for row in rows if row["bought_label"]]
    assert rows[: len(bought)] == bought
    assert len(bought) == said["issues"]["contradicted"]
    ranks = [int(row["rank"]) for row in rows[len(bought) :]]
    assert ranks == sorted(ranks)
    assert ranks[0] == 1
    estimate = metaselect("reweight", "--json", run=run).json["wrong_labels"]["estimate"]
    assert len(ranks) == max(20, ceil(estimate))
    assert f"issues.csv lists {len(rows)} labels" in printed
    assert said["issues"]["listed"] == len(rows)


def test_no_cell_of_the_list_is_a_formula(corrected: tuple[Path, str]) -> None:
    """Of ids and classes that are; the table for programs has them as they are."""
    run, printed = corrected
    cells = {cell for row in listed(run) for cell in row.values()}
    assert not [cell for cell in cells if cell.startswith(FORMULA)]
    assert "'=cmd()" in cells
    assert not any(ord(letter) < 32 for cell in cells for letter in cell)
    rows = table(run)
    assert {row["sample_id"] for row in rows} == set(IDS)
    assert {row["given_label"] for row in rows} == set(CLASSES)
    assert "\t" not in printed


def test_the_order_of_rows_plays_no_part(corrected: tuple[Path, str], tmp_path: Path) -> None:
    other = prepared(tmp_path, np.arange(N))
    metaselect("reweight", run=other)
    for name in ("issues.parquet", "issues.csv"):
        first, second = (path / "reweight/auto" / name for path in (corrected[0], other))
        assert first.read_bytes() == second.read_bytes()


def test_a_round_without_answers_changes_nothing(run: Path) -> None:
    metaselect("select", "--round", "next", "--method", "random", "--budget", 5, run=run)
    assert states(run, 0)["reweight/auto"] == ("done", "")
    before = seen(run / "reweight")
    done = metaselect("reweight", run=run)
    assert "reweight/auto is up to date" in done.err
    metaselect("select", "--discard-round", 2, run=run)
    assert "up to date" in metaselect("reweight", run=run).err
    assert seen(run / "reweight") == before


def test_the_latest_round_with_answers_is_taken(run: Path, tmp_path: Path) -> None:
    metaselect("select", "--round", "next", "--method", "random", "--budget", 5, run=run)
    metaselect("annotate", "simulate", tmp_path / "truth.csv", run=run)
    metaselect("reweight", run=run)
    assert result(run)["issues"]["near_duplicates_round"] == 2
    inputs = json.loads((run / "reweight/auto/stage.json").read_text())["inputs"]
    assert [name for name in inputs if name.startswith("select/")] == ["select/round-2/neighbours.parquet"]
    assert states(run, 0)["reweight/auto"] == ("done", "")


def test_without_answers_folds_or_neighbours_columns_are_empty(tmp_path: Path) -> None:
    write_pool(tmp_path, np.arange(N))
    run = tmp_path / "run"
    metaselect("warmup", tmp_path / "pool.parquet", "--model", "mlp", "--epochs", 2, "--folds", 0, run=run)
    done = metaselect("reweight", "--method", "uniform", "--epochs", 2, run=run)
    rows, issues = table(run, "uniform"), result(run, "uniform")["issues"]
    empty = ("bought_label", "out_of_fold", "neighbours", "outlier", "duplicate_group", "conflict")
    assert {row[name] for row in rows for name in empty} == {None}
    assert all(row["suggested_label"] in CLASSES for row in rows)
    assert issues["near_duplicates_round"] is None
    assert (issues["contradicted"], issues["confirmed"]) == (0, 0)
    assert {each["auc"] for each in issues["rankings"].values()} == {None}
    assert "AUC" not in done.out
    # Without an estimate, as many as there are other suggestions.
    assert len(listed(run, "uniform")) == max(20, issues["others_suggested"])


def test_a_sample_that_is_unusable_or_has_no_label(tmp_path: Path) -> None:
    write_pool(tmp_path, np.arange(N))
    pool = pq.read_table(tmp_path / "pool.parquet")
    labels = [None if index == 20 else label for index, label in enumerate(pool["label"].to_pylist())]
    pq.write_table(pool.set_column(1, "label", pa.array(labels)), tmp_path / "pool.parquet")
    run = tmp_path / "run"
    metaselect("warmup", tmp_path / "pool.parquet", "--model", "linear", run=run)
    rows = [(IDS[20], "owl", "done"), (IDS[30], "", "bad_sample"), (IDS[31], "owl", "done")]
    path = write_rows(tmp_path / "answers.csv", ["sample_id", "clean_label", "status"], rows)
    metaselect("annotate", "import", path, "--outside-round", "--annotator", "me", run=run)
    metaselect("reweight", run=run)
    found = {row["sample_id"]: row for row in table(run)}
    bought, unusable = found[IDS[20]], found[IDS[30]]
    assert (bought["given_label"], bought["out_of_fold"], bought["suggested_label"]) == (None, None, "owl")
    assert (unusable["suggested_label"], unusable["suggested_prob"], unusable["rank"]) == (None, None, None)
    issues = result(run)["issues"]
    assert issues["contradicted"] + issues["confirmed"] == 1  # one bought label has a given one beside it


def test_a_run_of_an_earlier_version_goes_on(run: Path) -> None:
    """Whose re-weighting has neither file."""
    folder = run / "reweight/auto"
    record = json.loads((folder / "stage.json").read_text())
    for name in ("issues.parquet", "issues.csv"):
        (folder / name).unlink()
        del record["outputs"][name]
    del record["details"]["result"]["issues"]
    (folder / "stage.json").write_text(json.dumps(record))
    done = metaselect("reweight", "--json", run=run)
    assert "up to date" in done.err
    assert done.json["issues"] is None
    assert "issues.csv" not in metaselect("reweight", run=run).out
    metaselect("evaluate", run=run)
    metaselect("status", run=run)
    metaselect("verify", run=run)
    again = metaselect("reweight", "--force", "--json", run=run).json
    assert again["issues"]["listed"] == len(listed(run))
