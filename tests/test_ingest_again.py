"""`ingest` after a kill, on data that is there already, and on other data."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_makers import (
    CLASSES,
    Listener,
    Picture,
    encode,
    ids_of,
    made,
    pictures,
    samples_table,
    stage_bytes,
    write_images,
    write_struct,
)

import metaselect.data.ingest as blocks
from metaselect.data import target
from metaselect.data.images import to_pixels
from metaselect.data.store import load_pool
from metaselect.data_options import IngestOptions
from metaselect.errors import ArtefactError, UsageError
from metaselect.run.layout import Run
from metaselect.stages.ingest import ingest, same_data

NOISE = np.random.default_rng(11)


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("fatal", [3, 4, 9, 13])
def test_a_killed_ingest_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int, policy: str
) -> None:
    samples, ids = pictures(14), ids_of(14)[::-1]
    if policy == "skip":
        for number in (1, 8, 13):
            samples[number] = Picture("", "cat", b"broken")
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids, group=5)
    whole = made(data, tmp_path / "whole", on_bad_sample=policy)
    monkeypatch.setattr(blocks, "BLOCK", 4)
    real = blocks.prepare
    calls: list[Any] = []

    def killed(content: Any, target: Any) -> Any:
        if len(calls) == fatal:
            raise KeyboardInterrupt
        calls.append(content)
        return real(content, target)

    monkeypatch.setattr(blocks, "prepare", killed)
    with pytest.raises(KeyboardInterrupt):
        made(data, tmp_path / "r", on_bad_sample=policy)
    assert not Run(tmp_path / "r").exists
    again = []

    def counted(content: Any, target: Any) -> Any:
        again.append(content)
        return real(content, target)

    monkeypatch.setattr(blocks, "prepare", counted)
    ears = Listener()
    run = made(data, tmp_path / "r", ears, on_bad_sample=policy)
    done = fatal // 4 * 4
    assert len(again) == 14 - done
    assert any("Resuming at sample" in note for note in ears.notes) == (done > 0)
    if done:
        assert ("Ingesting", done, 14) in ears.tracked
    assert stage_bytes(run.path("data")) == stage_bytes(whole.path("data"))
    assert run.info() == whole.info()
    assert not [name for name in os.listdir(run.path("data")) if name.startswith("resume")]
    assert len(samples_table(run)) == (14 if policy == "stop" else 11)


def test_other_data_after_a_kill_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_struct(tmp_path / "d.parquet", pictures(6), ids=ids_of(6))
    monkeypatch.setattr(blocks, "BLOCK", 2)
    calls = iter(range(4))
    with monkeypatch.context() as patch:
        patch.setattr(target, "to_pixels", lambda image, *rest: [next(calls), to_pixels(image, *rest)][1])
        with pytest.raises(StopIteration):
            made(data, tmp_path / "r")
    assert json.loads((tmp_path / "r/.work/data/resume.json").read_text())["done"] == 4
    write_struct(data, pictures(6, side=4), ids=ids_of(6))
    ears = Listener()
    run = made(data, tmp_path / "r", ears)
    assert load_pool(run).inputs.shape == (6, 1, 4, 4)
    assert "An unfinished data had other options or inputs; starting again." in ears.notes


# When it is done already


def test_the_same_data_is_up_to_date_and_touches_nothing(tmp_path: Path) -> None:
    data = write_struct(tmp_path / "d.parquet", pictures(6), ids=ids_of(6))
    run = made(data, tmp_path / "r")
    before = {path: path.stat().st_mtime_ns for path in run.path("data").iterdir()}
    ears = Listener()
    outcome = ingest(data, run, IngestOptions(seed=5), ears)
    assert ears.notes == [f"{run.path('data')} is up to date."]
    assert ears.tracked == []
    assert outcome.result["n"] == 6
    assert ingest(None, run, IngestOptions(), Listener()).result == outcome.result
    assert before == {path: path.stat().st_mtime_ns for path in run.path("data").iterdir()}


def test_copied_and_touched_data_is_compared_by_content_once(tmp_path: Path) -> None:
    samples = pictures(6)
    data = write_images(tmp_path / "d", samples)
    run = made(data, tmp_path / "r")
    held = stage_bytes(run.path("data"))
    copied = Path(shutil.copytree(data, tmp_path / "copied", copy_function=shutil.copyfile))
    ears = Listener()
    ingest(copied, run, IngestOptions(), ears)
    assert ears.notes[-1] == f"{run.path('data')} is up to date."
    assert [what for what, _, _ in ears.tracked] == ["Comparing"]
    assert stage_bytes(run.path("data")) == held
    again = Listener()
    ingest(copied, run, IngestOptions(), again)
    assert again.tracked == []
    details = json.loads(run.path("data/stage.json").read_text())["details"]
    assert details["root"] == str(copied)


@pytest.mark.parametrize("change", ["pixels", "label", "id", "class"])
def test_other_data_is_refused_and_force_replaces_it(tmp_path: Path, change: str) -> None:
    samples, ids = pictures(6), ids_of(6)
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids, names=CLASSES)
    run = made(data, tmp_path / "r")
    held = stage_bytes(run.path("data"), leave=())
    names: tuple[str, ...] = CLASSES
    if change == "pixels":
        samples[2] = Picture(
            samples[2].path, samples[2].label, encode(NOISE.integers(0, 256, (6, 6), np.uint8))
        )
    elif change == "label":
        samples[2] = Picture(samples[2].path, "cat", samples[2].raw)
    elif change == "id":
        ids[2] = "other"
    else:
        names = (*CLASSES, "pig")
    write_struct(data, samples, ids=ids, names=names)
    with pytest.raises(ArtefactError, match=f"holds other data .* than {data}"):
        ingest(data, run, IngestOptions(), Listener())
    assert stage_bytes(run.path("data"), leave=()) == held
    ingest(data, run, IngestOptions(force=True), Listener())
    assert stage_bytes(run.path("data"), leave=()) != held


def test_other_options_and_damage_are_refused(tmp_path: Path) -> None:
    data = write_struct(tmp_path / "d.parquet", pictures(6), ids=ids_of(6))
    run = made(data, tmp_path / "r", limit=4)
    with pytest.raises(ArtefactError, match="limit: 4 -> 5; seed: 0 -> 1"):
        ingest(data, run, IngestOptions(limit=5, seed=1), Listener())
    with run.path("data/pixels.npy").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\xff\xff")
    with pytest.raises(ArtefactError, match=r"pixels\.npy is damaged"):
        ingest(data, run, IngestOptions(limit=4), Listener())


def test_same_data_compares_as_the_run_read_it(tmp_path: Path) -> None:
    samples = pictures(9)
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids_of(9))
    run = made(data, tmp_path / "r", limit=5, seed=2)
    ears = Listener()
    same_data(data, run, IngestOptions(), ears)
    assert ears.tracked == []
    data.touch()
    same_data(data, run, IngestOptions(), ears)
    assert [what for what, _, _ in ears.tracked] == ["Comparing"]
    with pytest.raises(ArtefactError, match="limit: 5 -> 6"):
        same_data(data, run, IngestOptions(limit=6), Listener())
    write_struct(data, samples[::-1], ids=ids_of(9))
    with pytest.raises(ArtefactError, match="holds other data"):
        same_data(data, run, IngestOptions(), Listener())
    with pytest.raises(ArtefactError, match="has not been run"):
        same_data(data, Run(tmp_path / "none"), IngestOptions(), Listener())
    with pytest.raises(UsageError, match="There is no data"):
        ingest(None, Run(tmp_path / "none"), IngestOptions(), Listener())


def test_limit_takes_a_seeded_subset_with_all_classes_frozen(tmp_path: Path) -> None:
    data = write_struct(tmp_path / "d.parquet", pictures(30), ids=ids_of(30))
    run = made(data, tmp_path / "r", limit=2, seed=4)
    ranked = sorted(ids_of(30), key=lambda name: hashlib.sha256(f"4:{name}".encode()).hexdigest())
    pool = load_pool(run)
    assert list(pool.sample_ids) == sorted(ranked[:2])
    assert pool.classes == CLASSES
    other = load_pool(made(data, tmp_path / "s", limit=2, seed=5))
    assert list(other.sample_ids) != list(pool.sample_ids)
