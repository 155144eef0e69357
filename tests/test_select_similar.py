"""select and near duplicates: what the method sees, which samples are chosen, and what the run and the lines say."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import TRAIN, metaselect

from metaselect.errors import UsageError
from metaselect.features.near_duplicates import SimilarSamples
from metaselect.stages.select.similar import hidden_samples

N, WIDTH = 90, 24
GROUPS = ((3, 40), (10, 11, 12), (50, 70))
CONFLICTING = (50, 70)


def name(index: int) -> str:
    return f"s{index:03d}"


def write_pool(path: Path, *, copies: bool = True) -> Path:
    """Features of 3 classes; with ``GROUPS`` of near duplicates, of which the last has two labels."""
    random = np.random.default_rng(0)
    labels = np.arange(N) % 3
    rows = random.normal(size=(3, WIDTH))[labels] + random.normal(size=(N, WIDTH))
    rows[25] *= 30 * random.normal(size=WIDTH)
    for first, *others in GROUPS if copies else ():
        for other in others:
            rows[other] = rows[first] + 0.01 * random.normal(size=WIDTH)
            labels[other] = labels[first]
    labels[CONFLICTING[1]] = (labels[CONFLICTING[0]] + 1) % 3
    columns = {
        "sample_id": [name(index) for index in range(N)],
        "label": labels,
        "features": pa.array(list(rows.astype(np.float32)), pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An ingested run with near duplicates."""
    metaselect("ingest", write_pool(tmp_path / "pool.parquet"), run=tmp_path / "run")
    return tmp_path / "run"


def chosen(run: Path, number: int = 1) -> list[str]:
    with (run / f"select/round-{number}/selected.csv").open(newline="") as stream:
        return [row["sample_id"] for row in csv.DictReader(stream)]


def in_groups(ids: list[str]) -> list[int]:
    """How many of the samples each group has."""
    return [len({name(index) for index in group} & set(ids)) for group in GROUPS]


def test_a_choice_of_all_that_is_left_has_one_sample_of_each_group(run: Path) -> None:
    left = N - sum(len(group) - 1 for group in GROUPS)
    done = metaselect("select", "--method", "random", "--budget", left, run=run)
    assert in_groups(chosen(run)) == [1, 1, 1]
    assert "7 samples are near duplicates of others, in 3 groups" in done.err
    assert "1 group of near duplicates has different given labels" in done.err
    more = metaselect("select", "--method", "random", "--budget", left + 1, "--force", run=run, code=2)
    assert f"up to {left}." in more.err


def test_the_table_names_groups_and_the_list_those_with_two_labels(run: Path) -> None:
    out = metaselect("select", "--method", "random", "--budget", 5, "--json", run=run).json
    assert out["near_duplicates"] == {"groups": 3, "samples": 7, "conflicts": 1}
    rows = pq.read_table(run / "select/round-1/neighbours.parquet").to_pylist()
    group_of = {name(index): name(group[0]) for group in GROUPS for index in group}
    assert {row["sample_id"]: row["duplicate_group"] for row in rows} == {
        name(index): group_of.get(name(index)) for index in range(N)
    }
    ranks = {row["sample_id"]: row["outlier"] for row in rows}
    assert max(ranks, key=ranks.__getitem__) == name(25)
    with (run / "select/round-1/conflicts.csv").open(newline="") as stream:
        conflicts = list(csv.DictReader(stream))
    assert [(row["sample_id"], row["duplicate_group"]) for row in conflicts] == [
        (name(index), name(CONFLICTING[0])) for index in CONFLICTING
    ]
    assert len({row["given_label"] for row in conflicts}) == 2


def test_a_later_round_chooses_no_near_duplicate_of_an_earlier_choice(run: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("sample_id,clean_label\n" + "".join(f"{name(index)},0\n" for index in range(N)))
    left = N - sum(len(group) - 1 for group in GROUPS)
    metaselect("select", "--method", "random", "--budget", 40, run=run)
    metaselect("annotate", "simulate", truth, run=run)
    metaselect("select", "--method", "random", "--round", "next", "--budget", left - 40, run=run)
    assert in_groups(chosen(run) + chosen(run, 2)) == [1, 1, 1]
    assert len(set(chosen(run) + chosen(run, 2))) == left


def test_outliers_are_not_chosen_beyond_the_limit(run: Path) -> None:
    metaselect("select", "--method", "random", "--budget", 60, "--max-outlier", 0.8, run=run)
    rows = pq.read_table(run / "select/round-1/neighbours.parquet").to_pylist()
    ranks = {row["sample_id"]: row["outlier"] for row in rows}
    assert max(ranks[sample_id] for sample_id in chosen(run)) <= 0.8
    said = metaselect("explain", name(25), run=run).out
    assert "it is an outlier beyond --max-outlier" in said
    assert "Outlier rank 1.0000" in said


def test_explain_names_the_near_duplicates(run: Path) -> None:
    metaselect("select", "--method", "random", "--budget", 5, run=run)
    out = metaselect("explain", name(11), "--json", run=run).json["selection"]
    assert (out["duplicate_group"], out["near_duplicates"]) == (name(10), [name(10), name(12)])
    assert out["unjudged"] in ("near_duplicate", "taken")
    single = metaselect("explain", name(0), "--json", run=run).json["selection"]
    assert (single["duplicate_group"], single["near_duplicates"]) == (None, [])


@pytest.mark.parametrize("method", ["k-means", "k-center", "typiclust"])
def test_the_features_of_a_file_decide_where_there_is_one(tmp_path: Path, method: str) -> None:
    """The pool itself has no near duplicates."""
    run, left = tmp_path / "run", N - sum(len(group) - 1 for group in GROUPS)
    metaselect("ingest", write_pool(tmp_path / "pool.parquet", copies=False), run=run)
    file = write_pool(tmp_path / "file.parquet")
    metaselect("select", "--budget", left, "--features", file, "--method", method, run=run)
    assert in_groups(chosen(run)) == [1, 1, 1]


def test_few_numbers_are_not_compared(tmp_path: Path) -> None:
    table = tmp_path / "narrow.csv"
    table.write_text("sample_id,label,x,y\n" + "".join(f"{i},{i % 2},{i},{i * i}\n" for i in range(20)))
    run = tmp_path / "run"
    metaselect("ingest", table, "--feature-columns", "[xy]", run=run)
    words = ("select", "--method", "random", "--budget", 5)
    done = metaselect(*words, "--max-outlier", 0.9, run=run, code=2)
    assert "--max-outlier is not possible" in done.err
    assert "near duplicates" not in metaselect(*words, run=run).err


def test_the_sample_data_has_none_and_a_dry_run_counts_the_search(tmp_path: Path) -> None:
    run = tmp_path / "run"
    metaselect("ingest", TRAIN, run=run)
    words = ("select", "--method", "random", "--budget", 5)
    needs = metaselect(*words, "--dry-run", "--json", run=run).json["needs"]
    assert needs["seconds_neighbours"] >= 0
    assert needs["neighbours_mib"] > 64
    done = metaselect(*words, "--json", run=run)
    assert done.json["near_duplicates"] == {"groups": 0, "samples": 0, "conflicts": 0}
    assert "near duplicate" not in done.err
    assert not (run / "select/round-1/conflicts.csv").exists()
    record: Any = json.loads((run / "select/round-1/stage.json").read_text())
    assert "neighbours.parquet" in record["outputs"]


def visible(
    group: list[int], taken: list[int], outlier: list[float] | None = None, most: float | None = None
) -> list[int]:
    """The samples that are not hidden."""
    mask = torch.zeros(len(group), dtype=torch.bool)
    mask[taken] = True
    similar = SimilarSamples(torch.tensor(group), None if outlier is None else torch.tensor(outlier))
    return (~hidden_samples(similar, mask, most)).nonzero()[:, 0].tolist()


def test_one_sample_of_each_group_is_seen() -> None:
    assert visible([0, 1, 0, 1, 4], []) == [0, 1, 4]
    assert visible([0, 1, 0, 1, 4], [3]) == [0, 3, 4]
    assert visible([0, 1, 0, 1, 4], [1, 3]) == [0, 1, 3, 4]
    assert visible([0, 1, 2], []) == [0, 1, 2]


def test_an_outlier_stands_for_no_group() -> None:
    ranks = [1.0, 0.0, 0.5, 0.2, 0.9]
    assert visible([0, 1, 0, 1, 4], [], ranks, 0.8) == [1, 2]
    assert visible([0, 1, 0, 1, 4], [4], ranks, 0.8) == [1, 2, 4]
    assert visible([0, 1, 0, 1, 4], [], ranks) == [0, 1, 4]
    with pytest.raises(UsageError, match="not possible"):
        visible([0, 1], [], None, 0.5)


def test_the_list_of_conflicts_holds_no_formula(tmp_path: Path) -> None:
    table = pq.read_table(write_pool(tmp_path / "pool.parquet"))
    hostile = {
        "sample_id": pa.array([f"={each}" for each in table["sample_id"].to_pylist()]),
        "features": table["features"],
        "label": pa.array([f"@{each}" for each in table["label"].to_pylist()]),
    }
    pq.write_table(pa.table(hostile), tmp_path / "hostile.parquet")
    run = tmp_path / "run"
    metaselect("ingest", tmp_path / "hostile.parquet", run=run)
    metaselect("select", "--method", "random", "--budget", 5, run=run)
    with (run / "select/round-1/conflicts.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["sample_id"] for row in rows} == {f"'={name(index)}" for index in CONFLICTING}
    assert {row["given_label"][:2] for row in rows} == {"'@"}
