"""`plan` as a command: what it prints, that it writes nothing, and what it refuses."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import LIMIT, SIMULATE, TRAIN, WARMUP, metaselect, run_process, seen
from test_json_keys import check

BUDGETS = ("--budgets", "8,20")


@pytest.fixture(scope="module")
def planned(warm_once: Path) -> dict[str, Any]:
    """A plan after the warm-up, by a process: the run, what was printed, and its files before and after."""
    before = seen(warm_once)
    done = run_process("plan", *BUDGETS, "--json", run=warm_once)
    return {"run": warm_once, "done": done, "before": before, "after": seen(warm_once)}


@pytest.fixture(scope="module")
def warm_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after its warm-up."""
    run = tmp_path_factory.mktemp("plan") / "run"
    metaselect("ingest", TRAIN, "--limit", LIMIT, run=run)
    metaselect(*WARMUP, run=run)
    return run


@pytest.fixture
def one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single simulated purchase of each hypothesis, which takes a fraction of the time."""
    monkeypatch.setattr("metaselect.stages.plan.plan.DRAWS", 1)


def test_a_plan_says_what_each_budget_would_buy(planned: dict[str, Any]) -> None:
    result = planned["done"].json
    assert check("`plan`", result) == []
    assert [row["labels"] for row in result["budgets"]] == [0, 8, 20]
    assert (result["samples"], result["bought"]) == (LIMIT, 0)
    assert sum(each["probability"] for each in result["hypotheses"]) == pytest.approx(1)
    for row in result["budgets"]:
        for name, least, most in (
            ("accuracy", 0, 1),
            ("correct_labels", 0, LIMIT),
            ("accuracy_gain", -1, 1),
            ("correct_labels_gain", -LIMIT, LIMIT),
        ):
            value = row[name]
            assert least <= value["low"] <= value["mean"] <= value["high"] <= most
    covered = [row["clusters_without_label"] for row in result["budgets"]]
    assert covered[0] == result["clusters"] >= covered[1] >= covered[2]
    assert result["budgets"][0]["samples_without_label"] == 1
    assert result["next"].startswith(("metaselect select --budget", "metaselect reweight"))


def test_it_writes_nothing(planned: dict[str, Any]) -> None:
    assert planned["before"] == planned["after"]


def test_the_table_fits_a_terminal(planned: dict[str, Any]) -> None:
    done = metaselect("plan", "--budgets", "8", run=planned["run"])
    lines = done.out.splitlines()
    assert max(len(line) for line in lines if "─" in line or line.startswith(("0 ", "+8 "))) <= 80
    assert "root mean square" in done.out
    assert "Next: metaselect" in done.err


@pytest.mark.usefixtures("one_draw")
def test_the_order_of_the_rows_changes_nothing(warm_once: Path, tmp_path: Path) -> None:
    """And the same command prints the same bytes."""
    table = pq.read_table(TRAIN)
    ids = set(pq.read_table(warm_once / "data/samples.parquet")["sample_id"].to_pylist())
    kept = [place for place, name in enumerate(table["sample_id"].to_pylist()) if name in ids]
    pq.write_table(table.take(kept[::-1]), tmp_path / "train.parquet")
    run = tmp_path / "run"
    metaselect("ingest", tmp_path / "train.parquet", run=run)
    metaselect(*WARMUP, run=run)
    words = ("plan", "--budgets", "12", "--json")
    expected, result = metaselect(*words, run=warm_once).out, metaselect(*words, run=run).out
    assert result.replace(str(run), str(warm_once)) == expected


@pytest.mark.usefixtures("one_draw")
def test_after_a_round_it_plans_the_next_one(finished: Path) -> None:
    """And all bought labels are known in it."""
    result = metaselect("plan", "--budgets", "8", "--json", run=finished).json
    assert check("`plan`", result) == []
    assert result["bought"] == 20
    assert "more labels" in result["verdict"]
    if result["worth_buying"]:
        assert result["next"].startswith("metaselect select --round next --budget 8")
    first = result["budgets"][0]
    assert first["correct_labels"]["low"] >= 20
    assert first["clusters_without_label"] < result["clusters"]


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ("10,x", "is no list of numbers"),
        ("", "is no list of numbers"),
        ("0", "--budgets is 0"),
        ("500", "half of them are kept"),
        (",".join("123456789"), "has 9 numbers"),
    ],
)
def test_budgets_that_are_refused(planned: dict[str, Any], budgets: str, message: str) -> None:
    assert message in metaselect("plan", "--budgets", budgets, run=planned["run"], code=2).err


def test_it_needs_a_warm_up_and_contents(tmp_path: Path) -> None:
    assert "no run at" in metaselect("plan", run=tmp_path / "none", code=4).err
    metaselect("ingest", TRAIN, "--limit", 40, run=tmp_path / "run")
    done = metaselect("plan", run=tmp_path / "run", code=4)
    assert "metaselect warmup" in done.err
    alone = tmp_path / "ids.csv"
    alone.write_text("sample_id,label\na,0\nb,1\nc,0\n")
    metaselect("ingest", alone, run=tmp_path / "ids")
    assert "ids and labels alone" in metaselect("plan", run=tmp_path / "ids", code=4).err


@pytest.mark.usefixtures("one_draw")
def test_a_small_pool_has_room_for_small_budgets_alone(tmp_path: Path) -> None:
    metaselect("ingest", TRAIN, "--limit", 40, run=tmp_path / "run")
    metaselect("warmup", "--epochs", 2, "--checkpoints", 1, "--folds", 0, run=tmp_path / "run")
    result = metaselect("plan", "--json", run=tmp_path / "run").json
    assert [row["labels"] for row in result["budgets"]] == [0, 10, 20]
    metaselect("select", "--budget", 35, run=tmp_path / "run")
    metaselect(*SIMULATE, run=tmp_path / "run")
    assert "Give budgets up to 2." in metaselect("plan", run=tmp_path / "run", code=2).err
