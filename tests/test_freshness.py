"""What is up to date, what is stale, what is refused: through the command line."""

import csv
import os
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import (
    EVALUATE,
    PIPELINE,
    REWEIGHT,
    SELECT,
    SIMULATE,
    TEST,
    TRAIN,
    UNIFORM,
    WARMUP,
    flip_byte,
    metaselect,
    seen,
    states,
)
from filelock import FileLock

AGAIN = {
    "ingest": "data is up to date",
    "warmup": "warmup is up to date",
    "select": "Round 1 is closed and stays as it is",
    "simulate": "Every sample of round 1 is answered",
    "reweight": "reweight/auto is up to date",
    "uniform": "reweight/uniform is up to date",
    "evaluate": "evaluate/test is up to date",
}


def answer(run: Path, path: Path, annotator: str, change: int = 0) -> list[str]:
    """Import an annotator's answers for the samples of the meta set, the first ``change`` of them others."""
    with (run / "annotate/meta_set.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sample_id", "clean_label", "annotator"])
        for number, row in enumerate(rows):
            label = str((int(row["clean_label"]) + (number < change)) % 10)
            writer.writerow([row["sample_id"], label, annotator])
    metaselect("annotate", "import", path, run=run)
    return [row["sample_id"] for row in rows]


@pytest.mark.parametrize("name", AGAIN)
def test_the_same_command_again_writes_nothing(finished: Path, name: str) -> None:
    before = seen(finished)
    assert AGAIN[name] in metaselect(*PIPELINE[name], run=finished).err
    assert seen(finished) == before


@pytest.mark.slow
def test_an_open_round_is_up_to_date_too(warm: Path) -> None:
    metaselect(*SELECT, "--method", "random", run=warm)
    before = seen(warm)
    assert "select/round-1 is up to date" in metaselect(*SELECT, "--method", "random", run=warm).err
    assert "up to date" in metaselect("select", "--method", "random", run=warm).err  # the budget is known
    assert seen(warm) == before
    refused = metaselect(*SELECT, "--method", "random", "--seed", 1, run=warm, code=4).err
    assert "seed: 0 -> 1" in refused
    metaselect(*SELECT, "--method", "random", "--seed", 1, "--force", run=warm)
    assert "seed" in (warm / "select/round-1/stage.json").read_text()


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ((*PIPELINE["ingest"], "--limit", 150), "limit: 200 -> 150"),
        ((*WARMUP, "--epochs", 7), "epochs: 6 -> 7"),
        ((*WARMUP, "--augment", "none", "--seed", 1), "seed: 0 -> 1"),
        ((*REWEIGHT, "--lr", 0.03), "lr: 0.02 -> 0.03"),
        ((*REWEIGHT, "--option", "share=0.4"), "option share: 0.5 -> 0.4"),
        ((*UNIFORM, "--name", "auto"), 'method: "auto" -> "uniform"'),
        ((*EVALUATE, "--k", 5), "k: null -> 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_changed_option_is_named_and_refused(
    finished: Path, words: tuple[object, ...], change: str
) -> None:
    before = seen(finished)
    refused = metaselect(*words, run=finished, code=4)
    assert refused.out == ""
    assert change in refused.err
    assert "--force" in refused.err
    assert seen(finished) == before


@pytest.mark.slow
def test_force_recomputes_and_what_follows_is_stale(finished: Path) -> None:
    metaselect(*WARMUP, "--epochs", 4, "--force", run=finished)
    found = states(finished, 1)
    assert found["warmup"] == ("done", "")
    assert found["select/round-1"][0] == "done"  # it was paid for
    for name in ("reweight/auto", "reweight/uniform", "evaluate/test"):
        assert found[name][0] == "stale"
        assert "warmup/model.json" in found[name][1]
    done = metaselect(*UNIFORM, run=finished)
    assert "Recomputing reweight/uniform: " in done.err
    assert "warmup/model.json" in done.err
    assert states(finished, 1)["reweight/uniform"] == ("done", "")


@pytest.mark.slow
def test_a_changed_answer_makes_its_followers_stale_and_they_recompute(
    finished: Path, tmp_path: Path
) -> None:
    answer(finished, tmp_path / "answers.csv", "simulated", change=3)
    shown = metaselect("status", "--json", run=finished, code=1).json
    found = {row["stage"]: (row["state"], row["why"] or "") for row in shown["stages"]}
    stale = ("stale", "annotate/meta_set.csv changed since")
    assert found["reweight/auto"] == found["reweight/uniform"] == stale
    assert shown["next"].startswith("metaselect reweight --epochs 8 --lr 0.02")
    assert metaselect("status", run=finished, code=1).err.startswith("Warning: ")
    done = metaselect(*UNIFORM, "--json", run=finished)
    assert done.json["ok"]
    assert "Recomputing reweight/uniform: annotate/meta_set.csv changed since." in done.err
    assert "up to date" in metaselect(*UNIFORM, run=finished).err
    shutil.rmtree(finished / "reweight/auto")
    assert states(finished, 1)["evaluate/test"][0] == "stale"
    after = metaselect("status", "--json", run=finished, code=1).json["next"]
    assert after.startswith("metaselect evaluate ")
    done = metaselect(*shlex.split(after)[1:])
    assert "Recomputing evaluate/test: " in done.err
    assert metaselect("status", "--json", run=finished).json["next"] is None


def test_a_second_answer_that_agrees_leaves_everything_up_to_date(finished: Path, tmp_path: Path) -> None:
    answer(finished, tmp_path / "answers.csv", "anna")
    assert {state for state, _ in states(finished, 0).values()} == {"done"}
    before = seen(finished)
    assert "up to date" in metaselect(*REWEIGHT, run=finished).err
    assert seen(finished) == before


@pytest.mark.slow
def test_a_copied_run_stands_by_itself(warm: Path, tmp_path: Path) -> None:
    metaselect(*SELECT, "--method", "certain", run=warm)
    copied = tmp_path / "a copy"
    shutil.copytree(warm, copied, copy_function=shutil.copyfile)  # without times
    before = seen(warm)
    assert metaselect("status", "--json", run=copied).json["next"].endswith(f"--run '{copied}'")
    assert "up to date" in metaselect("warmup", TRAIN, *WARMUP[1:], run=copied).err
    metaselect(*SELECT, "--method", "uncertain", "--force", run=copied)
    assert seen(warm) == before
    chosen = "select/round-1/selected.csv"
    assert (copied / chosen).read_bytes() != (warm / chosen).read_bytes()
    flip_byte(copied / "select/round-1/clusters.parquet")
    remedy = metaselect("status", "--json", run=copied, code=1).json["next"]
    metaselect(*shlex.split(remedy)[1:])
    metaselect("verify", run=copied)
    assert seen(warm) == before


@pytest.mark.parametrize("name", ["reweight", "evaluate", "status"])
def test_touched_files_are_still_up_to_date(finished: Path, name: str) -> None:
    for path in finished.rglob("*"):
        os.utime(path)
    done = metaselect(*PIPELINE[name], run=finished)
    assert name == "status" or "up to date" in done.err


@pytest.mark.slow
def test_a_test_set_that_was_only_moved_is_still_up_to_date(warm: Path, tmp_path: Path) -> None:
    path = tmp_path / "exam.parquet"
    shutil.copyfile(TEST, path)
    metaselect("evaluate", path, run=warm)
    before = seen(warm)
    os.utime(path, (1, 1))
    assert "evaluate/exam is up to date" in metaselect("evaluate", path, run=warm).err
    moved = tmp_path / "elsewhere" / "exam.parquet"
    moved.parent.mkdir()
    shutil.copyfile(path, moved)
    assert "up to date" in metaselect("evaluate", moved, run=warm).err
    assert seen(warm) == before
    pq.write_table(pq.read_table(TEST).slice(0, 50), path)
    assert "TEST is other data" in metaselect("evaluate", path, run=warm, code=4).err


def test_other_data_is_refused(finished: Path) -> None:
    before = seen(finished)
    for words in (("warmup", TEST, *WARMUP[1:]), ("ingest", TEST, "--limit", 200)):
        assert "other data" in metaselect(*words, run=finished, code=4).err
    assert seen(finished) == before


@pytest.mark.slow
def test_another_test_set_stands_beside_the_first(finished: Path, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(TEST).slice(0, 50), tmp_path / "other exam.parquet")
    before = seen(finished)
    result = metaselect("evaluate", tmp_path / "other exam.parquet", "--json", run=finished).json
    assert result["test"] == "other-exam"
    after = seen(finished)
    assert {name: after[name] for name in before} == before
    assert {state for state, _ in states(finished, 0).values()} == {"done"}
    again = metaselect(*EVALUATE, "--name", "other-exam", run=finished, code=4).err
    assert "TEST is other data" in again


@pytest.mark.slow
def test_a_closed_round_stays_and_the_next_one_has_other_samples(finished: Path) -> None:
    before = seen(finished)
    for words in (("--budget", 10), ("--budget", 20, "--force")):
        refused = metaselect("select", *words, run=finished, code=4).err
        assert "Round 1 is closed" in refused
        assert "--round next" in refused
    assert seen(finished) == before
    metaselect("select", "--round", "next", "--budget", 15, run=finished)
    first, second = (ids_of(finished / f"select/round-{number}/selected.csv") for number in (1, 2))
    assert (len(first), len(second)) == (20, 15)
    assert not first & second
    again = metaselect("select", "--round", "next", "--budget", 15, run=finished).err
    assert "select/round-2 is up to date" in again
    assert states(finished, 0)["select/round-2"] == ("done", "")
    too_many = metaselect("select", "--budget", 181, "--force", run=finished, code=2).err
    assert "--budget 181 is not possible: the pool has 200 samples, 20 of them already chosen" in too_many


def ids_of(path: Path) -> set[str]:
    with path.open(newline="") as stream:
        return {row["sample_id"] for row in csv.DictReader(stream)}


def test_an_open_round_must_go_out_before_the_next(warm: Path) -> None:
    metaselect(*SELECT, "--method", "random", run=warm)
    refused = metaselect("select", "--round", "next", "--budget", 5, run=warm, code=2).err
    assert "annotate export" in refused


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (SELECT, "metaselect warmup --run"),
        (REWEIGHT, "metaselect warmup --run"),
        ((*REWEIGHT, "--method", "direct"), "metaselect warmup --run"),
        (UNIFORM, "metaselect warmup --run"),
        (EVALUATE, "metaselect warmup --run"),
        (("annotate", "export"), "metaselect warmup --run"),  # select would ask for it
        (SIMULATE, "metaselect warmup --run"),
    ],
    ids=["select", "reweight", "direct", "uniform", "evaluate", "export", "simulate"],
)
def test_a_stage_out_of_order_names_the_command_that_is_missing(
    warm: Path, words: tuple[object, ...], remedy: str
) -> None:
    shutil.rmtree(warm / "warmup")
    before = seen(warm)
    refused = metaselect(*words, run=warm, code=4)
    assert refused.out == ""
    assert remedy in refused.err
    assert seen(warm) == before


@pytest.mark.parametrize(
    "words", [("status",), ("verify",), ("warmup",), SELECT, EVALUATE, SIMULATE], ids=lambda w: w[0]
)
def test_a_place_without_a_run_names_the_command_that_makes_one(
    tmp_path: Path, words: tuple[object, ...]
) -> None:
    refused = metaselect(*words, run=tmp_path / "my run", code=4).err
    assert f"metaselect ingest DATA --run '{tmp_path}/my run'" in refused


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    assert f"metaselect ingest DATA --run {tmp_path}" in metaselect("status", run=tmp_path, code=4).err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ingest", "warmup", "select", "simulate"])
def test_a_locked_run_is_left_alone(finished: Path, name: str) -> None:
    before = seen(finished)
    with FileLock(finished / ".lock"):
        refused = metaselect(*PIPELINE[name], run=finished, code=4).err
        assert "Another metaselect command is working in" in refused
        metaselect("status", run=finished)  # reading is free
    assert seen(finished) == before
