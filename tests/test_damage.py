"""Damaged artefacts, records and layouts: found, named, and never worked with."""

import json
import os
import shutil
from pathlib import Path

import pytest
from command_line import (
    EVALUATE,
    REWEIGHT,
    SELECT,
    SIMULATE,
    UNIFORM,
    WARMUP,
    flip_byte,
    metaselect,
    states,
    tree,
)

DAMAGE = {
    "data/samples.parquet": WARMUP,
    "data/classes.json": ("annotate", "export", "--show-given", "--all", "-o", "-"),
    "data/preprocess.json": REWEIGHT,
    "data/pixels.npy": SELECT,
    "warmup/history.csv": WARMUP,
    "warmup/model.json": REWEIGHT,
    "warmup/checkpoints/epoch-0006.safetensors": EVALUATE,
    "select/round-1/selected.csv": SIMULATE,
    "select/round-1/clusters.parquet": SELECT,
    "select/round-1/gradients-epoch-0003.parquet": SELECT,
    "annotate/votes.csv": SIMULATE,
    "annotate/meta_set.csv": REWEIGHT,
    "reweight/auto/history.csv": REWEIGHT,
    "reweight/auto/model.safetensors": EVALUATE,
    "reweight/auto/model.json": EVALUATE,
    "reweight/auto/weights.parquet": EVALUATE,
    "evaluate/test/metrics.json": EVALUATE,
    "evaluate/test/predictions.parquet": EVALUATE,
}
"""Artefacts, and a command that depends on each."""


@pytest.mark.parametrize("name", DAMAGE)
def test_a_flipped_byte_is_found_and_named(finished: Path, name: str) -> None:
    flip_byte(finished / name)
    for words in (DAMAGE[name], ("verify",)):
        refused = metaselect(*words, run=finished, code=4)
        assert refused.out == ""
        assert str(finished / name) in refused.err
        assert "damaged" in refused.err
    found = states(finished, 1)
    state, why = next(found[stage] for stage in found if name.startswith(stage))
    assert state == "damaged"
    assert str(finished / name) in why


@pytest.mark.parametrize(
    "name",
    ["select/round-1/selected.csv", "reweight/auto/model.safetensors", "annotate/votes.csv"],
)
@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_truncated_or_missing_artefact_is_found_and_named(finished: Path, name: str, how: str) -> None:
    if how == "missing":
        (finished / name).unlink()
    else:
        (finished / name).write_bytes((finished / name).read_bytes()[:-9])
    for words in (DAMAGE[name], ("verify",)):
        assert str(finished / name) in metaselect(*words, run=finished, code=4).err
    assert "damaged" in {state for state, _ in states(finished, 1).values()}


def test_a_byte_changed_behind_size_and_time_is_found_by_verify(finished: Path) -> None:
    path = finished / "warmup/checkpoints/epoch-0003.safetensors"
    status = path.stat()
    flip_byte(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    metaselect("status", run=finished)
    assert str(path) in metaselect("verify", run=finished, code=4).err


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["warmup", "select/round-1", "reweight/auto"])
def test_a_damaged_record_is_named_and_force_makes_it_anew(
    bought: Path, finished_once: Path, stage: str
) -> None:
    shutil.rmtree(bought / "annotate")
    shutil.copytree(finished_once / "run/reweight", bought / "reweight")
    (bought / stage / "stage.json").write_text('{"options": ')
    words = {"warmup": WARMUP, "select/round-1": SELECT, "reweight/auto": (*UNIFORM, "--name", "auto")}
    assert str(bought / stage / "stage.json") in metaselect(*words[stage], run=bought, code=4).err
    assert states(bought, 1)[stage][0] == "damaged"
    metaselect(*words[stage], "--force", run=bought)
    assert states(bought, 1)[stage] == ("done", "")


@pytest.mark.slow
def test_a_damaged_round_that_was_answered_cannot_be_forced_away(finished: Path) -> None:
    flip_byte(finished / "select/round-1/selected.csv")
    before = tree(finished)
    for force in ((), ("--force",)):
        assert "restore it from a copy" in metaselect(*SELECT, *force, run=finished, code=4).err
    assert tree(finished) == before


def test_the_remedy_of_a_damaged_stage_is_its_own_command(finished: Path) -> None:
    flip_byte(finished / "reweight/uniform/model.safetensors")
    remedy = "metaselect reweight --method uniform --epochs 2 --force --run "
    assert remedy in metaselect(*EVALUATE, run=finished, code=4).err
    assert metaselect("status", "--json", run=finished, code=1).json["next"] == f"{remedy}{finished}"


@pytest.mark.parametrize("words", [("status",), ("verify",), WARMUP, SIMULATE], ids=lambda w: w[0])
def test_another_layout_is_refused(finished: Path, words: tuple[object, ...]) -> None:
    path = finished / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layout_version": 99}))
    assert "layout version 99" in metaselect(*words, run=finished, code=4).err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"layout_version": 1}'])
def test_a_damaged_description_of_the_run_is_refused(finished: Path, text: str) -> None:
    (finished / "run.json").write_text(text)
    for words in (("status",), SELECT):
        assert "run.json is damaged" in metaselect(*words, run=finished, code=4).err
