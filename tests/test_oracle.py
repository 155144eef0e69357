"""A re-weighting that was told the true labels: what it needs, and that nobody takes it for a result."""

import csv
import json
from pathlib import Path

from command_line import EVALUATE, TRUTH, metaselect

WEIGHTED = ("reweight", "--method", "weighted", "--epochs", 2, "--oracle-truth", TRUTH)


def test_the_truth_is_for_the_method_that_needs_it_alone(bought: Path) -> None:
    said = metaselect("reweight", "--method", "weighted", run=bought, code=2).err
    assert "--oracle-truth FILE" in said
    said = metaselect("reweight", "--method", "direct", "--oracle-truth", TRUTH, run=bought, code=2).err
    assert "--oracle-truth has no effect on direct" in said
    metaselect("reweight", "--method", "weighted", "--oracle-truth", bought / "none.csv", run=bought, code=3)


def test_an_oracle_is_shown_as_one_and_never_taken(finished: Path) -> None:
    made = metaselect(*WEIGHTED, "--json", run=finished).json
    assert made["oracle"]
    path = finished / "reweight/weighted/stage.json"
    record = json.loads(path.read_text())
    difference = record["details"]["result"]["comparison"]["against_baseline"]["accuracy"]
    difference |= {"difference": 0.9, "standard_error": 0.01}
    path.write_text(json.dumps(record))
    shown = metaselect("status", "--json", run=finished, code=1).json  # the evaluation does not know it yet
    rows = {row["stage"]: (row["state"], row["why"]) for row in shown["stages"]}
    assert rows["reweight/weighted"][0] == "oracle"
    assert "told the true labels" in rows["reweight/weighted"][1]
    assert shown["take"]["model"] != "weighted"
    done = metaselect(*EVALUATE, "--json", run=finished)
    assert done.json["reweight"]["weighted"]["oracle"]
    assert not done.json["reweight"]["uniform"]["oracle"]
    assert done.json["take"]["model"] != "weighted"
    assert "weighted is no result: it was told the true labels" in done.err
    assert "weighted, which was told the true labels, is " in metaselect(*EVALUATE, run=finished).out
    assert "told the true labels" in (finished / "evaluate/test/report.html").read_text()
    # Suggestions by the truth are used only where they are named.
    chosen = metaselect("explain", record_of_first(finished), "--json", run=finished).json
    assert chosen["doubt"]["name"] == "auto"


def record_of_first(run: Path) -> str:
    """The first sample of the run."""
    with (run / "reweight/weighted/issues.csv").open(newline="") as stream:
        return next(csv.DictReader(stream))["sample_id"]


def test_other_truth_is_another_result_and_the_stage_can_be_run_again(bought: Path, tmp_path: Path) -> None:
    metaselect(*WEIGHTED, run=bought)
    assert "is up to date" in metaselect(*WEIGHTED, run=bought).err
    other = tmp_path / "other.csv"
    other.write_text(TRUTH.read_text() + "more,\n")
    said = metaselect(*WEIGHTED[:-1], other, run=bought, code=4).err
    assert "oracle_truth is other data" in said
    done = metaselect("verify", "--rerun", "--json", run=bought)
    assert "reweight/weighted" in done.json["recomputed"]
