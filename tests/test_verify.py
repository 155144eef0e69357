"""verify --rerun recomputes and compares; select --discard-round puts aside and loses nothing."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import flip_byte, metaselect, tree

from metaselect.run.environment import environment, environment_differences
from metaselect.run.files import sha256_file


@pytest.mark.slow
def test_rerun_gives_the_same_bytes_and_writes_nothing(finished: Path) -> None:
    before = tree(finished)
    done = metaselect("verify", "--rerun", "--json", run=finished)
    assert set(done.json["recomputed"]) == {
        "warmup",
        "select/round-1",
        "reweight/auto",
        "reweight/uniform",
        "evaluate/test",
    }
    assert tree(finished) == before


@pytest.mark.slow
def test_rerun_finds_a_result_that_its_inputs_do_not_give(bought: Path) -> None:
    """A damaged file whose record was forged passes the hashes, but not the recomputation."""
    path = bought / "select/round-1/selected.csv"
    flip_byte(path)
    record_path = bought / "select/round-1/stage.json"
    record = json.loads(record_path.read_text())
    record["outputs"]["selected.csv"]["sha256"] = sha256_file(path)
    here = record["details"]["versions"]["torch"]
    record["details"]["versions"]["torch"] = "1.0"
    record_path.write_text(json.dumps(record))
    metaselect("verify", run=bought)
    done = metaselect("verify", "--rerun", run=bought, code=1)
    assert "select/round-1 gives other bytes" in done.err
    assert "selected.csv" in done.err
    assert f"It was made with torch 1.0 (here {here}): sums are rounded otherwise there." in done.err


def test_a_record_tells_which_versions_and_processor_would_have_to_be_equal() -> None:
    details: dict[str, Any] = environment()
    assert environment_differences(details) == []
    assert environment_differences({}) == []
    details["versions"] = {**details["versions"], "torch": "1.0", "numpy": None, "a": "2"}
    details["processor"] = {**details["processor"], "instructions": "NEON"}
    torch_here, processor = version("torch"), torch.backends.cpu.get_cpu_capability()
    assert environment_differences(details) == [
        f"torch 1.0 (here {torch_here})",
        f"instructions NEON (here {processor})",
    ]


def test_discarded_round_is_put_aside_with_its_votes(finished: Path) -> None:
    votes = (finished / "annotate/votes.csv").read_bytes()
    chosen = (finished / "select/round-1/selected.csv").read_bytes()
    done = metaselect("select", "--discard-round", 1, "--json", run=finished)
    assert done.json["votes"] == 20
    aside = finished / "discarded/round-1"
    assert (aside / "votes.csv").read_bytes() == votes
    assert (aside / "select/selected.csv").read_bytes() == chosen
    assert not (finished / "select/round-1").exists()
    assert metaselect("status", "--json", run=finished, code=1).json["bought"] == 0
    again = metaselect("select", "--budget", 5, "--method", "random", "--json", run=finished)
    assert again.json["selected"] == 5


def test_only_the_latest_round_can_be_discarded(finished: Path) -> None:
    before = tree(finished)
    done = metaselect("select", "--discard-round", 2, run=finished, code=2)
    assert "the latest is 1" in done.err
    assert tree(finished) == before


@pytest.mark.parametrize("died", ["before the renames", "between them"])
def test_stage_that_died_while_it_was_put_in_place_is_finished_by_the_next_command(
    finished: Path, died: str
) -> None:
    expected = tree(finished)
    work = finished / ".work/select/round-1"
    work.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(finished / "select/round-1", work)
    shutil.rmtree(finished / "annotate")  # so that the round is open
    if died == "before the renames":
        (work / "key.json").write_text("{}")
    else:
        (finished / "select/round-1").rename(work.with_name("round-1.old"))
    done = metaselect("select", "--budget", 20, run=finished)
    assert "up to date" in done.err
    assert tree(finished / "select") == {
        name.removeprefix("select/"): content
        for name, content in expected.items()
        if name.startswith("select/")
    }
    assert not list((finished / ".work").rglob("*.json"))
