"""A run that goes on: more labels, more rounds, a truth file that comes later, and data that was replaced."""

import csv
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from command_line import DATA, EVALUATE, REWEIGHT, TEST, TRAIN, TRUTH, WARMUP, metaselect


def outside_labels(run: Path, count: int, file: Path) -> None:
    """True labels of pool samples that were not selected, as somebody may own them already."""
    with TRUTH.open() as stream:
        truth = {row["sample_id"]: row["clean_label"] for row in csv.DictReader(stream)}
    with (run / "select/round-1/selected.csv").open() as stream:
        selected = {row["sample_id"] for row in csv.DictReader(stream)}
    ids = pq.read_table(run / "data/samples.parquet")["sample_id"].to_pylist()
    free = [sample_id for sample_id in ids if sample_id not in selected][:count]
    rows = [f"{sample_id},{truth[sample_id]}" for sample_id in free]
    file.write_text("\n".join(["sample_id,clean_label", *rows]) + "\n")


def test_more_labels_recompute_what_was_left_to_a_rule(finished: Path, tmp_path: Path) -> None:
    """The meta batch holds every label, so that more of them change an option that nobody gave."""
    direct = ("reweight", "--method", "direct", "--lr", 0.02)
    metaselect(*direct, "--epochs", 8, run=finished)
    outside_labels(finished, 5, tmp_path / "more.csv")
    metaselect("annotate", "import", tmp_path / "more.csv", "--outside-round", run=finished)
    stale = metaselect(*EVALUATE, run=finished)
    assert "reweight/direct is evaluated as it is, but stale" in stale.err
    for words, name in (((*direct, "--epochs", 8), "direct"), (REWEIGHT, "auto")):
        done = metaselect(*words, "--json", run=finished)
        assert f"Recomputing reweight/{name}: annotate/meta_set.csv changed since." in done.err
        assert done.json["bought"] == 25
    metaselect(*direct, "--epochs", 3, run=finished, code=4)


def test_sizes_of_clusters_are_those_of_their_members_in_later_rounds(finished: Path) -> None:
    metaselect("select", "--round", "next", "--budget", 6, run=finished)
    with (finished / "select/round-2/selected.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    clusters = pq.read_table(finished / "select/round-2/clusters.parquet")["cluster"].to_numpy()
    assert (clusters == -1).any()  # the half that is near to what was bought
    for row in rows:
        assert int(row["cluster_size"]) == int(np.sum(clusters == int(row["cluster"])))


def test_a_truth_file_may_come_later(finished: Path) -> None:
    metaselect("evaluate", TEST, "--name", "later", run=finished)
    done = metaselect("evaluate", TEST, "--name", "later", "--truth", TRUTH, "--json", run=finished)
    assert "Recomputing evaluate/later" in done.err
    assert done.json["reweight"]["auto"]["weight_auc"] is not None


def test_replaced_data_stop_every_stage_with_a_sentence(finished: Path) -> None:
    metaselect("ingest", DATA / "test.parquet", "--force", run=finished)
    for words in (("select", "--method", "uncertain", "--budget", 3), REWEIGHT, EVALUATE):
        done = metaselect(*words, run=finished, code=4)
        assert "stale" in done.err or "not for this data" in done.err or "closed" in done.err
    metaselect("warmup", TRAIN, run=finished, code=4)


def test_names_that_others_own_are_refused(bought: Path) -> None:
    for name in ("warmup", "mine.old"):
        assert "not fit for a folder" in metaselect("reweight", "--name", name, run=bought, code=2).err


def test_a_second_round_comes_home_and_can_be_put_aside(finished: Path) -> None:
    """Its answers change what the round was chosen from, which must not count against it."""
    metaselect("select", "--round", "next", "--budget", 6, run=finished)
    metaselect("annotate", "export", "--no-images", run=finished)
    done = metaselect("annotate", "simulate", TRUTH, "--json", run=finished)
    assert (done.json["new_votes"], done.json["bought"]) == (6, 26)
    assert metaselect(*REWEIGHT, "--json", run=finished).json["bought"] == 26
    metaselect("reweight", "--method", "uniform", "--epochs", 2, run=finished)
    metaselect(*EVALUATE, run=finished)
    assert metaselect("status", "--json", run=finished).json["bought"] == 26
    metaselect("verify", run=finished)
    again = metaselect("select", "--budget", 6, run=finished)
    assert "closed and stays" in again.err
    metaselect("select", "--discard-round", 2, run=finished)
    metaselect("select", "--round", "next", "--budget", 6, run=finished)
    metaselect("annotate", "export", "--no-images", run=finished)
    metaselect("annotate", "simulate", TRUTH, run=finished)


def test_a_discarded_round_counts_the_answers_that_stood(finished: Path, tmp_path: Path) -> None:
    """Two people, one of whom was undone: lines of the votes are no answers."""
    metaselect("select", "--round", "next", "--budget", 2, run=finished)
    metaselect("annotate", "export", "-o", tmp_path / "form.csv", run=finished)
    rows = list(csv.reader((tmp_path / "form.csv").read_text().splitlines()))
    label = rows[0].index("clean_label")
    for name in ("anna", "bob"):
        for row in rows[1:]:
            row[label] = "0"
        (tmp_path / f"{name}.csv").write_text("\n".join(",".join(row) for row in rows))
        metaselect("annotate", "import", tmp_path / f"{name}.csv", "--annotator", name, run=finished)
    metaselect("annotate", "undo", run=finished)
    done = metaselect("select", "--discard-round", 2, "--json", run=finished)
    assert (done.json["answers"], done.json["votes"]) == (2, 6)
    assert "with 2 answers" in done.err


def test_a_warm_up_that_is_made_again_names_what_comes_next_in_its_run(
    finished: Path, tmp_path: Path
) -> None:
    shown = metaselect(*WARMUP, "--force", "--batch-size", 32, run=finished)
    step = metaselect("status", "--json", run=finished, code=1).json["next"]
    assert step.startswith("metaselect reweight")  # round 1 is answered, and is not chosen again
    assert shown.err.strip().endswith(f"Next: {step}")
    metaselect("ingest", TRAIN, "--limit", 30, run=tmp_path / "fresh")
    fresh = metaselect("warmup", "--epochs", 1, "--folds", 0, run=tmp_path / "fresh")
    assert fresh.err.strip().endswith(f"Next: metaselect select --budget 50 --run {tmp_path / 'fresh'}")


def test_evaluate_does_not_forget_a_truth_file(finished: Path) -> None:
    done = metaselect("evaluate", TEST, run=finished, code=4)
    assert "truth was given before" in done.err


def test_the_way_to_bought_labels_is_named_step_by_step(tmp_path: Path) -> None:
    """What each command asks for first is a command that then works."""
    run = tmp_path / "run"
    metaselect("ingest", TRAIN, "--limit", 60, run=run)
    steps = []
    for _ in range(3):
        done = metaselect("reweight", "--method", "direct", run=run, code=4)
        step = shlex.split(done.err.rpartition("First run: ")[2])
        steps.append(" ".join(step[1:3]))
        also = metaselect("annotate", "export", run=run, code=0 if steps[-1] == "annotate export" else 4)
        assert steps[-1] == "annotate export" or shlex.split(also.err.rpartition("First run: ")[2]) == step
        extra = ("--epochs", 1, "--folds", 0) if step[1] == "warmup" else ()
        metaselect(*step[1:], *extra, code=0)
    assert steps == ["warmup --run", "select --budget", "annotate export"]
    last = metaselect("reweight", "--method", "direct", run=run, code=4)
    assert "First run: metaselect annotate import FILE" in last.err
