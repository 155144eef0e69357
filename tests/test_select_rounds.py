"""Later rounds of select: replacements, features that are taken over, a killed second round, and the order of rows."""

import csv
import errno
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import LIMIT, SELECT, SIMULATE, TRAIN, TRUTH, WARMUP, flip_byte, metaselect, tree
from filelock import FileLock
from test_interruption import interrupt, results

from metaselect.features.warmup_features import _link
from metaselect.registry import SELECTORS

GBC = ("select", "--method", "gbc", "--budget", 6)
NEXT = ("select", "--round", "next")
REPLACE = (*NEXT, "--replace-unusable")
EPOCHS = (3, 6)  # that the warm-up of the shared run keeps


def chosen(run: Path, number: int) -> list[str]:
    with (run / f"select/round-{number}/selected.csv").open(newline="") as stream:
        return [row["sample_id"] for row in csv.DictReader(stream)]


def feature_files(run: Path, number: int) -> list[Path]:
    return [run / f"select/round-{number}/gradients-epoch-{epoch:04d}.parquet" for epoch in EPOCHS]


def inodes(run: Path, number: int) -> list[int]:
    return [path.stat().st_ino for path in feature_files(run, number)]


def answered(run: Path, path: Path, ids: list[str], unusable: list[str], *more: str) -> None:
    """Import true labels for samples, except for those that are called unusable."""
    with TRUTH.open(newline="") as stream:
        truth = {row["sample_id"]: row["clean_label"] for row in csv.DictReader(stream)}
    rows = [f"{i},,bad_sample" if i in unusable else f"{i},{truth[i]},done" for i in ids]
    path.write_text("\n".join(["sample_id,clean_label,status", *rows]) + "\n")
    metaselect("annotate", "import", path, *more, run=run)


@pytest.mark.slow
def test_unusable_samples_are_replaced_once(bought: Path, tmp_path: Path) -> None:
    run, file = bought, tmp_path / "answers.csv"
    shutil.rmtree(run / "annotate")
    first = chosen(run, 1)
    pool = pq.read_table(run / "data/samples.parquet")["sample_id"].to_pylist()
    outside = next(sample_id for sample_id in pool if sample_id not in first)
    answered(run, file, first, first[3:5])
    # A label that was not paid for in a round needs no replacement.
    answered(run, file, [outside], [outside], "--outside-round")
    done = metaselect(*REPLACE, "--json", run=run)
    assert "Unusable samples to replace: 2." in done.err
    assert (done.json["selected"], done.json["total"]) == (2, 23)
    assert "select/round-2 is up to date" in metaselect(*REPLACE, run=run).err
    refused = metaselect(*REPLACE, "--budget", 3, run=run, code=4)
    assert "budget: 2 -> 5" in refused.err
    done = metaselect(*REPLACE, "--budget", 3, "--force", run=run)
    assert done.out.endswith("selected.csv: 5 samples chosen by rbc (26 with earlier ones)\n")
    assert "Using the features of epoch 6 of select/round-1." in done.err
    assert inodes(run, 2) == inodes(run, 1)
    metaselect("annotate", "export", "--no-images", run=run)
    metaselect(*SIMULATE, run=run)
    refused = metaselect(*REPLACE, run=run, code=2)
    assert "There is nothing to replace" in refused.err
    # Somebody could read one of the two after all; what was bought in its place is not taken off later budgets.
    answered(run, file, [first[3]], [])
    assert "There is nothing to replace" in metaselect(*REPLACE, run=run, code=2).err
    metaselect(*REPLACE, "--budget", 4, "--method", "random", run=run)
    rounds = [chosen(run, number) for number in (1, 2, 3)]
    assert [len(ids) for ids in rounds] == [20, 5, 4]
    every = [outside, *(sample_id for ids in rounds for sample_id in ids)]
    assert len(set(every)) == 30


@pytest.mark.slow
def test_replacements_and_budgets_must_fit_into_the_pool(finished: Path, tmp_path: Path) -> None:
    shutil.rmtree(finished / "annotate")
    first = chosen(finished, 1)
    answered(finished, tmp_path / "answers.csv", first, first[:2])
    for budget, said in (
        (179, "from 1 to 178."),
        (0, "--budget 0 is not possible"),
        (-1, "--budget -1 is not"),
    ):
        refused = metaselect(*REPLACE, "--budget", budget, run=finished, code=2)
        assert said in refused.err
        assert "20 of them already chosen, and 2 unusable ones are to be replaced." in refused.err
    floor = metaselect(*REPLACE, "--budget", 5, "--min-per-class", 1, run=finished, code=2)
    assert "Give --budget 8 or more" in floor.err  # with the two replacements, 10 for 10 classes


@pytest.mark.slow
def test_features_of_an_earlier_round_are_taken_where_their_recipe_is_the_same(warm: Path) -> None:
    metaselect(*GBC, run=warm)
    metaselect("annotate", "export", "--no-images", run=warm)
    again = (*GBC, "--round", "next")
    said = metaselect(*again, run=warm).err
    for epoch in EPOCHS:
        assert f"Using the features of epoch {epoch} of select/round-1." in said
    assert inodes(warm, 2) == inodes(warm, 1)
    assert not set(chosen(warm, 1)) & set(chosen(warm, 2))
    metaselect("verify", run=warm)
    whole = [path.read_bytes() for path in feature_files(warm, 1)]
    for other in (("--seed", 1), ("--gradient", "full"), ("--option", "width=64")):
        said = metaselect(*again, *other, "--force", run=warm).err
        assert not re.search(r"Using the features of epoch \d+ of ", said)
        made = [path.read_bytes() for path in feature_files(warm, 2)]
        assert all(one != new for one, new in zip(whole, made, strict=True))
    said = metaselect(*again, "--option", "width=64", "--option", "starts=1", "--force", run=warm).err
    assert "of select/round-2." in said  # the clustering is no part of the recipe
    middle, end = feature_files(warm, 1)
    flip_byte(middle)
    end.write_bytes(end.read_bytes()[:-100])  # not even its recipe can be read
    assert not re.search(r"Using the features of epoch \d+ of ", metaselect(*again, "--force", run=warm).err)
    assert [path.read_bytes() for path in feature_files(warm, 2)] == whole


def test_features_are_copied_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    (tmp_path / "made").write_bytes(b"features")
    _link(tmp_path / "made", tmp_path / "linked")
    monkeypatch.setattr(os, "link", no_links)
    _link(tmp_path / "made", tmp_path / "copied")
    assert (tmp_path / "linked").samefile(tmp_path / "made")
    assert not (tmp_path / "copied").samefile(tmp_path / "made")
    assert (tmp_path / "copied").read_bytes() == b"features"


@pytest.mark.slow
def test_a_killed_second_round_ends_in_the_same_bytes(warm: Path, tmp_path: Path) -> None:
    metaselect("select", "--budget", 10, run=warm)
    metaselect("annotate", "export", "--no-images", run=warm)
    metaselect(*SIMULATE, run=warm)
    undisturbed = Path(shutil.copytree(warm, tmp_path / "undisturbed"))
    words = (*NEXT, "--budget", 10, "--method", "gbc", "--seed", 1)
    work = warm / ".work/select/round-2"
    killed = interrupt(words, warm, lambda: any(work.glob("gradients-epoch-*.parquet")))
    assert killed.code == -signal.SIGKILL
    assert not (warm / "select/round-2").exists()
    kept = sorted(work.glob("gradients-epoch-*.parquet"))
    shown = metaselect("status", "--json", run=warm).json
    assert {row["stage"]: row["state"] for row in shown["stages"]}["select/round-2"] == "interrupted"
    assert shown["next"] == f"metaselect {shlex.join(map(str, words))} --run {warm}"
    said = metaselect(*shlex.split(shown["next"])[1:]).err
    found = re.findall(r"Using the features of epoch (\d+) that exist already", said)
    assert [int(epoch) for epoch in found] == [int(path.stem[-4:]) for path in kept]
    metaselect(*words, run=undisturbed)
    assert len(chosen(warm, 2)) == 10
    assert not set(chosen(warm, 1)) & set(chosen(warm, 2))
    assert results(warm) == results(undisturbed)
    metaselect("verify", run=warm)


@pytest.fixture(scope="session")
def shuffled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is warmed up on the rows of the shared one in another order; shared by all workers, read only."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shuffled"
    with FileLock(f"{folder}.lock"):
        if not (folder / "whole").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            table = pq.read_table(TRAIN)
            order = np.random.default_rng(8).permutation(len(table))
            pq.write_table(table.take(order), folder / "rows.parquet", row_group_size=77)
            metaselect("ingest", folder / "rows.parquet", "--limit", LIMIT, run=folder / "run")
            metaselect(*WARMUP, run=folder / "run")
            (folder / "whole").touch()
    return folder / "run"


MORE = {"ta-vaal": ("--option", "iterations=20", "--option", "batch=16", "--option", "latent=4")}
"""Options that keep a method's test short."""


@pytest.mark.slow
@pytest.mark.parametrize("method", SELECTORS)
def test_the_order_of_rows_never_changes_the_choice(
    warm: Path, shuffled_once: Path, tmp_path: Path, method: str
) -> None:
    shuffled = Path(shutil.copytree(shuffled_once, tmp_path / "shuffled"))
    words = (*SELECT, "--method", method, "--control", 0.1, *MORE.get(method, ()))
    for run in (warm, shuffled):
        metaselect(*words, run=run)
    first, second = (tree(run / "select", leave=("stage.json",)) for run in (warm, shuffled))
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert len(set(chosen(shuffled, 1))) == 20
