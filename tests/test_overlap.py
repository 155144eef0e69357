"""Test samples that the pool has too, or nearly: by brute force, and by the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import metaselect

from metaselect.features import near_duplicates as module
from metaselect.features.near_duplicates import CLOSENESS, NEIGHBOURS, near_duplicates_between

CPU = torch.device("cpu")
WIDTH = 24


def two_sets(pool_size: int = 150, test_size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Features of six clusters; test samples 3 and 4 are nearly those of the pool at 20 and 77, 5 is that at 30.

    Test sample 6 is nearly test sample 7, which is no overlap; 20 and 21 of the pool are nearly equal.
    """
    draw = np.random.default_rng(1)
    centres = draw.normal(size=(6, WIDTH))
    pool, test = (centres[np.arange(n) % 6] + draw.normal(size=(n, WIDTH)) for n in (pool_size, test_size))
    pool[21] = pool[20] + 0.02 * draw.normal(size=WIDTH)
    for place, original in ((3, pool[20]), (4, pool[77]), (6, test[7])):
        test[place] = original + 0.01 * draw.normal(size=WIDTH)
    test[5] = pool[30]
    return test.astype(np.float32), pool.astype(np.float32)


def by_brute_force(test: np.ndarray, pool: np.ndarray) -> list[int]:
    """By float64 loops over all unequal samples of both sets."""
    rows = np.concatenate([test, pool]).astype(np.float64)
    distinct, place = np.unique(rows, axis=0, return_inverse=True)
    unit = (distinct - rows.mean(0)) / rows.std(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    tenth = np.sort(distance, axis=1)[:, min(NEIGHBOURS, len(distinct) - 1) - 1]
    median = np.sort(tenth[np.unique(place[: len(test)])])[(len(np.unique(place[: len(test)])) - 1) // 2]
    found = []
    for own in place[: len(test)]:
        best, closest = -1, np.inf
        for index, other in enumerate(place[len(test) :]):
            if own == other:
                best, closest = (index, -1.0) if closest > -1 else (best, closest)
            elif distance[own, other] < min(closest, CLOSENESS * min(tenth[own], tenth[other], median)):
                best, closest = index, distance[own, other]
        found.append(best)
    return found


def test_matches_are_those_of_a_search_among_all_pairs() -> None:
    test, pool = two_sets()
    found = near_duplicates_between(test, pool, CPU).tolist()
    assert found == by_brute_force(test, pool)
    assert {place: index for place, index in enumerate(found) if index >= 0} == {3: 20, 4: 77, 5: 30}


@pytest.mark.parametrize("sizes", [(1, 1), (1, 12), (12, 1), (3, 150)])
def test_sets_of_any_size(sizes: tuple[int, int]) -> None:
    test, pool = two_sets()
    test, pool = test[: sizes[0]], pool[: sizes[1]]
    assert near_duplicates_between(test, pool, CPU).tolist() == by_brute_force(test, pool)
    equal = near_duplicates_between(pool[:1], pool, CPU).tolist()
    assert equal == ([0] if len(pool) > 1 else [-1])  # of one sample alone there are no surroundings


def test_the_order_of_samples_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the size of a block."""
    test, pool = two_sets()
    found = near_duplicates_between(test, pool, CPU).numpy()
    monkeypatch.setattr(module, "TILE_ENTRIES", 700)
    draw = np.random.default_rng(2)
    rows, columns = draw.permutation(len(test)), draw.permutation(len(pool))
    again = near_duplicates_between(test[rows], pool[columns], CPU).numpy()
    assert (np.where(again >= 0, columns[again], -1) == found[rows]).all()


def test_pictures_that_were_made_a_little_lighter() -> None:
    draw = np.random.default_rng(3)
    test, pool = (draw.integers(0, 240, (n, 3, 20, 20), dtype=np.uint8) for n in (30, 80))
    test[8] = pool[50] + 2
    assert np.flatnonzero(near_duplicates_between(test, pool, CPU).numpy() >= 0).tolist() == [8]


def test_few_numbers_are_not_compared() -> None:
    pool = np.random.default_rng(4).normal(size=(50, 3)).astype(np.float32)
    assert set(near_duplicates_between(pool[:10], pool, CPU).tolist()) == {-1}


def write(path: Path, features: np.ndarray, prefix: str) -> Path:
    names, n = ("ant", "bee", "cat"), len(features)
    columns = {
        "sample_id": [f"{prefix}{index:03d}" for index in range(n)],
        "label": [names[index % 3] for index in range(n)],
        "features": pa.array(list(features), pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_evaluate_lists_them_and_leaves_them_out(tmp_path: Path) -> None:
    test, pool = two_sets()
    run = tmp_path / "run"
    metaselect("warmup", write(tmp_path / "pool.parquet", pool, "p"), "--model", "linear", run=run)
    path = write(tmp_path / "test.parquet", test, "t")
    done = metaselect("evaluate", path, "--json", run=run)
    assert (done.json["overlap"], done.json["near_overlap"], done.json["test_samples"]) == (1, 2, 40)
    report = json.loads((run / "evaluate/test/report.json").read_text())
    check = next(check for check in report["checks"] if check["name"] == "overlap")
    assert check["finding"].startswith("1 of 40 are, and 2 more are near duplicates of pool samples")
    assert not check["ok"]
    assert "Warning: 1 of 40 test samples are in the pool too" in done.err
    assert (
        "Warning: 2 of 40 test samples are near duplicates of pool samples: the figures flatter" in done.err
    )
    with (run / "evaluate/test/overlap.csv").open(newline="") as stream:
        rows = [(row["sample_id"], row["pool_sample_id"], row["kind"]) for row in csv.DictReader(stream)]
    assert rows == [("t003", "p020", "near"), ("t004", "p077", "near"), ("t005", "p030", "equal")]
    rest = metaselect("evaluate", path, "--name", "rest", "--leave-out-overlap", "--json", run=run)
    assert rest.json["test_samples"] == 37
    assert "2 of 40 test samples are near duplicates of pool samples; they are left out." in rest.err
    kept = pq.read_table(run / "evaluate/rest/predictions.parquet")["sample_id"].to_pylist()
    assert not {"t003", "t004", "t005"} & set(kept)
    others = write(tmp_path / "others.parquet", np.delete(test, [3, 4, 5], axis=0), "t")
    clean = metaselect("evaluate", others, "--json", run=run)
    assert clean.json["overlap"] == clean.json["near_overlap"] == 0
    assert "the figures flatter" not in clean.err
    assert not (run / "evaluate/others/overlap.csv").exists()
    only = write(tmp_path / "only.parquet", test[3:6], "t")
    refused = metaselect("evaluate", only, "--leave-out-overlap", run=run, code=3)
    assert "or a near duplicate of one there" in refused.err
    assert not (run / ".work/evaluate/only").exists()
