"""select --samples: the first samples of somebody's list, in its order."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import SIMULATE, metaselect


def chosen(run: Path, number: int) -> list[str]:
    with (run / f"select/round-{number}/selected.csv").open(newline="") as stream:
        return [row["sample_id"] for row in csv.DictReader(stream)]


@pytest.fixture
def ids(warm: Path) -> list[str]:
    """Some samples of the pool, in an order of their own."""
    return draw_ids(warm, 12)


def draw_ids(run: Path, count: int) -> list[str]:
    pool = pq.read_table(run / "data/samples.parquet")["sample_id"].to_pylist()
    return [str(pool[place]) for place in np.random.default_rng(0).permutation(len(pool))[:count]]


def listed(path: Path, ids: list[str]) -> Path:
    path.write_text("note,sample_id\n" + "".join(f"look,{each}\n" for each in ids))
    return path


def test_its_order_counts_and_what_was_chosen_before_is_passed_over(
    warm: Path, ids: list[str], tmp_path: Path
) -> None:
    path = listed(tmp_path / "list.csv", [ids[5], "nobody", *ids[:5], ids[5], *ids[6:]])
    done = metaselect("select", "--budget", 4, "--samples", path, run=warm)
    assert chosen(warm, 1) == [ids[5], *ids[:3]]
    assert "Warning: " in done.err
    assert "1 sample that the pool does not have, left out: nobody." in done.err
    assert "up to date" in metaselect("select", "--budget", 4, "--samples", path, run=warm).err
    metaselect(*SIMULATE, run=warm)
    metaselect("select", "--round", "next", "--budget", 8, "--samples", path, run=warm)
    assert chosen(warm, 2) == [*ids[3:5], *ids[6:]]


def test_a_list_that_is_too_short_or_none_is_refused(warm: Path, ids: list[str], tmp_path: Path) -> None:
    path = listed(tmp_path / "list.csv", ids[:3])
    short = metaselect("select", "--budget", 4, "--samples", path, run=warm, code=2)
    assert "names 3 samples that were not chosen before, and the budget wants 4" in short.err
    assert "Choose a budget up to 3" in short.err
    for words in (("--method", "rbc"), ("--control", 0.5), ("--max-outlier", 0.5), ("--gradient", "full")):
        both = metaselect("select", "--budget", 3, "--samples", path, *words, run=warm, code=2)
        assert f"--samples is a choice of its own, without {words[0]}." in both.err
    path.write_text("name\nx\n")
    assert (
        "has no column sample_id"
        in metaselect("select", "--budget", 1, "--samples", path, run=warm, code=3).err
    )
    gone = metaselect("select", "--budget", 1, "--samples", tmp_path / "gone.csv", run=warm, code=3)
    assert "gone.csv is not a file" in gone.err


def test_ids_that_a_spreadsheet_would_take_for_formulas_are_read_back(tmp_path: Path) -> None:
    data = tmp_path / "labels.csv"
    data.write_text("sample_id,label\n=1+1,a\n@b,b\nc,a\n")
    run = tmp_path / "run"
    metaselect("ingest", data, run=run)
    path = listed(tmp_path / "list.csv", ["'@b", "'=1+1"])
    metaselect("select", "--budget", 2, "--samples", path, run=run)
    assert chosen(run, 1) == ["@b", "=1+1"]
