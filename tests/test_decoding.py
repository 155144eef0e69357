"""Processes that decode images ahead: what they give, how they end, and that none is left behind."""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import metaselect, tree
from data_makers import Listener, made, photographs, write_images
from test_interruption import epochs_done, interrupt
from test_ranks import run_all

from metaselect.data.store import load_images
from metaselect.data.stored.images import EncodedImages
from metaselect.errors import ArtefactError, ResourceError
from metaselect.training.decoding import ahead
from metaselect.training.decoding.ahead import decode_ahead

COUNT = 24
LONG = ("warmup", "--epochs", 15, "--folds", 0, "--batch-size", 4)
SETTLE = 10.0  # seconds in which a process that was told to end does so


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose images stay encoded."""
    data = write_images(tmp_path / "d", photographs(COUNT))
    return made(data, tmp_path / "r", Listener(), store="encoded", image_size=8).root


def images_of(run: Path, workers: int) -> EncodedImages:
    from metaselect.run.layout import Run

    images = load_images(Run(run), COUNT, workers)
    assert isinstance(images, EncodedImages)
    return images


def children(parent: int) -> set[int]:
    """Processes that a process has started."""
    found = set()
    for task in Path(f"/proc/{parent}/task").glob("*"):
        with suppress(OSError):  # a thread that ended
            found |= {int(word) for word in (task / "children").read_text().split()}
    return found


def alive(processes: set[int]) -> set[int]:
    """Those that have not ended; one that nobody has waited for has."""
    left = set()
    for process in processes:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            left.add(process)
    return left


def until(condition: Any) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + SETTLE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_chunks_come_in_order_whatever_the_number_of_processes(run: Path, workers: int) -> None:
    images = images_of(run, workers)
    chunks = np.array_split(np.random.default_rng(2).permutation(COUNT), 5)
    before = torch.get_rng_state()
    found = list(decode_ahead(images, [*chunks, np.empty(0, np.int64)]))
    assert len(found) == 6
    for pixels, rows in zip(found, chunks, strict=False):
        np.testing.assert_array_equal(pixels, images.decoded(rows))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(decode_ahead(images, [])) == []
    assert until(lambda: not alive(children(os.getpid())))


def test_whoever_stops_early_leaves_no_process(run: Path) -> None:
    before = children(os.getpid())
    stream = decode_ahead(images_of(run, 2), np.array_split(np.arange(COUNT), 12))
    next(stream)
    assert len(children(os.getpid()) - before) == 2
    del stream
    assert until(lambda: not alive(children(os.getpid()) - before))


def test_an_error_of_a_process_is_the_error_of_the_command(run: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "d").rglob("*.png"):
        path.unlink()
    with pytest.raises(ArtefactError, match="does not exist") as caught:
        list(decode_ahead(images_of(run, 2), np.array_split(np.arange(COUNT), 4)))
    assert "metaselect ingest DATA" in caught.value.hint


def test_a_process_that_the_system_ends_is_no_bug(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(images: EncodedImages, rows: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return rows

    monkeypatch.setattr(EncodedImages, "decoded", ended)
    with pytest.raises(ResourceError, match="decodes images was ended"):
        list(decode_ahead(images_of(run, 1), [np.arange(3)]))


def test_the_default_is_the_cores_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, ranks, expected in ((1, 1, 1), (2, 1, 2), (6, 2, 3), (2, 4, 1), (64, 1, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert ahead.default_workers() == expected
    monkeypatch.setattr(sys, "platform", "darwin")
    assert ahead.default_workers() == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_command_takes_its_processes_along_and_goes_on(
    run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    metaselect(*LONG, "--workers", 0, run=whole)
    helpers: set[int] = set()

    def working() -> bool:
        helpers.update(children(started[0]))
        return epochs_done(run, "warmup") > 2 and len(helpers) > 2

    started: list[int] = []
    done = interrupt((*LONG, "--workers", 2), run, working, number, started=started)
    assert done.code == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in done.err
    assert until(lambda: not alive(helpers)), helpers
    metaselect(*LONG, "--workers", 1, run=run)
    assert tree(run / "warmup", leave=("stage.json",)) == tree(whole / "warmup", leave=("stage.json",))


@pytest.mark.slow
def test_ranks_decode_their_own_rows(run: Path, tmp_path: Path) -> None:
    pixels = made(tmp_path / "d", tmp_path / "p", Listener(), store="pixels", image_size=8).root
    words = ("warmup", "--epochs", 2, "--folds", 0, "--batch-size", 8, "--workers", 1, "--run")
    run_all(2, [(*words, pixels), (*words, run)], tmp_path)
    found = tree(run / "warmup", leave=("stage.json",))
    assert "predictions.parquet" in found
    assert found == tree(pixels / "warmup", leave=("stage.json",))
