"""What is said before a long warm-up, and what --dry-run says of its time."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import metaselect, tree
from data_makers import Listener, Picture, encode, made, pictures, write_images, write_struct

import metaselect.stages.warmup.warmup as warmup_stage
from metaselect.cli.main import main
from metaselect.data.store import load_pool
from metaselect.options import WarmupOptions
from metaselect.run.layout import Run
from metaselect.stages.warmup.duration import advice, estimated_seconds, may_be_long
from metaselect.stages.warmup.plan import WarmupPlan, plan_warmup
from metaselect.training.duration import LONG, spoken


def plan_of(run: Run, **options: object) -> WarmupPlan:
    device = torch.device("cpu")
    return plan_warmup(load_pool(run), WarmupOptions(**options), device, Listener())  # type: ignore[arg-type]


def photographs(count: int, side: int) -> list[Picture]:
    noise = np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return [Picture(f"{'ab'[n % 2]}/{n}.png", "ab"[n % 2], encode(each)) for n, each in enumerate(noise)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("large"), photographs(24, 72))


def test_the_estimate_is_linear_in_epochs_and_folds(tmp_path: Path) -> None:
    run = made(write_struct(tmp_path / "d.parquet", pictures(600, side=16)), tmp_path / "r")
    once = estimated_seconds(plan_of(run, epochs=10, folds=0))
    many = estimated_seconds(plan_of(run, epochs=100, folds=0))
    crossed = estimated_seconds(plan_of(run, epochs=100, folds=2))
    assert once is not None
    assert many is not None
    assert crossed is not None
    # Ten times and three times, but for the noise of a machine that others use too.
    assert 3 < many / once < 30
    assert 1 < crossed / many < 9


@pytest.mark.slow
def test_the_estimate_is_near_what_training_takes(tmp_path: Path) -> None:
    run = made(write_struct(tmp_path / "d.parquet", pictures(600, side=16)), tmp_path / "r")
    estimated = estimated_seconds(plan_of(run, epochs=10, folds=0))
    assert estimated is not None
    started = time.monotonic()
    metaselect("warmup", "--epochs", 10, "--folds", 0, run=tmp_path / "r")
    taken = time.monotonic() - started
    assert taken / 5 - 5 < estimated < 5 * taken


def test_a_probe_leaves_no_trace(tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--epochs", 1, "--folds", 0, "--model", "convnet")
    said = metaselect("warmup", large, *options, run=tmp_path / "r")
    assert "images of 72 x 72 pixels takes about" in said.err
    run = made(large, tmp_path / "other")
    before = torch.random.get_rng_state()
    estimated_seconds(plan_of(run, epochs=1, folds=0, model="convnet"))
    assert torch.equal(before, torch.random.get_rng_state())
    needs = metaselect("warmup", *options, "--dry-run", "--json", run=tmp_path / "other").json["needs"]
    assert needs["seconds"] > 0
    monkeypatch.setattr(warmup_stage, "may_be_long", lambda plan: False)
    assert main(["warmup", *map(str, options), "--quiet", "--run", str(tmp_path / "other")]) == 0
    probed, other = (tree(tmp_path / name / "warmup", leave=("stage.json",)) for name in ("r", "other"))
    assert probed == other


def test_small_trainings_and_linear_ones_are_not_probed(tmp_path: Path) -> None:
    run = made(write_struct(tmp_path / "d.parquet", pictures(40)), tmp_path / "r")
    assert not may_be_long(plan_of(run))
    solved = plan_of(run, model="linear")
    assert not may_be_long(solved)
    assert estimated_seconds(solved) is None
    dry = metaselect("warmup", "--model", "linear", "--dry-run", "--json", run=run.root)
    assert dry.json["needs"]["seconds"] is None


def test_quicker_ways_are_named_where_it_is_long(tmp_path: Path, large: Path) -> None:
    run = made(large, tmp_path / "r")
    plan = plan_of(run)
    assert "Quicker" not in advice(plan, LONG - 1, run)
    said = advice(plan, 8.5 * 3600, run)
    assert said.startswith(
        "The training of resnet18 on 22 images of 72 x 72 pixels takes about 8.5 hours. Quicker: "
    )
    for way in (f"metaselect embed --run {run.root}", "--image-size 64", "--folds 0", "a GPU", "--epochs"):
        assert way in said
    assert "--folds" not in advice(plan_of(run, folds=0), 2 * LONG, run)
    both = advice(plan_of(run, on="images"), 2 * LONG, run)
    assert "--on features" in both
    assert "metaselect embed" not in both


@pytest.mark.parametrize("options", [{"model": "resnet18"}, {"epochs": 3}])
def test_fine_tuning_is_named_where_it_is_quicker(
    tmp_path: Path, large: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Than training at the defaults, from random weights, and where it is installed."""
    monkeypatch.setattr("metaselect.encoders.efficientnet_lite.is_installed", lambda: True)
    run = made(large, tmp_path / "r")
    assert "--pretrained" in advice(plan_of(run), 2 * LONG, run)
    assert "--pretrained" not in advice(plan_of(run, **options), 2 * LONG, run)
    monkeypatch.setattr("metaselect.encoders.efficientnet_lite.is_installed", lambda: False)
    assert "--pretrained" not in advice(plan_of(run), 2 * LONG, run)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 second"), (40, "40 seconds"), (89.9, "90 seconds"), (720, "12 minutes"), (30600, "8.5 hours")],
)
def test_durations_are_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
