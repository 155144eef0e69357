"""What is said before a long re-weighting, and what --dry-run says of its time."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotation_run import call
from command_line import metaselect, tree
from data_makers import KINDS, Listener, Picture, encode, samples_table, write_images, write_rows

import metaselect.stages.reweight.reweight as reweight_stage
from metaselect.cli.main import main
from metaselect.options import ReweightOptions
from metaselect.reweighting.uniform import Uniform
from metaselect.run.layout import Run
from metaselect.stages.reweight import duration as module
from metaselect.stages.reweight.duration import advice, estimated_seconds, may_be_long
from metaselect.stages.reweight.setup import ReweightSetup, resolve_setup
from metaselect.training.duration import LONG, Pace

N, BOUGHT, SIDE = 24, 8, 72
TAKEN = f"images of {SIDE} x {SIDE} pixels takes about"
SHORT = ("--epochs", 1, "--batch-size", 8)


def bought_run(root: Path, side: int) -> Path:
    """A run of noise in two classes, with a short warm-up and the first labels bought."""
    noise = np.random.default_rng(1).integers(0, 256, (N, side, side, 3), dtype=np.uint8)
    samples = [Picture(f"{'ab'[n % 2]}/{n}.png", "ab"[n % 2], encode(each)) for n, each in enumerate(noise)]
    data, run = write_images(root / "data", samples), root / "run"
    metaselect("warmup", data, "--model", "convnet", *SHORT, "--folds", 2, run=run)
    ids = [row["sample_id"] for row in samples_table(Run(run))][:BOUGHT]
    said = [(name, "ab"[n % 2]) for n, name in enumerate(ids)]
    answers = write_rows(root / "answers.csv", ["sample_id", "clean_label"], said)
    assert call(Run(run), "import", str(answers), "--outside-round", "--annotator", "me") == 0
    return run


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bought_run(tmp_path_factory.mktemp("large"), SIDE)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bought_run(tmp_path_factory.mktemp("small"), 16)


def setup_of(run: Path, **options: Any) -> ReweightSetup:
    given = {"epochs": 8, "batch_size": 8, "device": "cpu", **options}
    return resolve_setup(Run(run), ReweightOptions(**given), Listener())


@pytest.mark.parametrize("method", KINDS)
def test_steps_of_every_method_are_timed_and_leave_no_trace(method: str, small: Path) -> None:
    setup = setup_of(small, method=method)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    labels, bought = setup.labels.copy(), setup.meta_set.labels.copy()
    seconds = estimated_seconds(setup, 2)
    assert seconds is not None
    assert 0 < seconds < 600
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads
    assert np.array_equal(labels, setup.labels)
    assert np.array_equal(bought, setup.meta_set.labels)


@pytest.mark.parametrize(("method", "given"), [("direct", {}), ("auto", {}), ("fsr", {"folds": 0})])
def test_the_seconds_are_those_of_all_trainings(
    method: str, given: dict[str, int], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of a clock: a step on a sample takes 1 second, 4 with a meta gradient; a prediction 0.1."""
    monkeypatch.setattr(module, "_pace", lambda setup, method: Pace(1.0 if method == Uniform() else 4.0, 0.1))
    setup = setup_of(small, method=method, **given)
    folds = setup.options.folds
    # The epochs of 4 folds are those of the run, for each of two methods.
    own = 8 * (N - BOUGHT) * 4.0 if method != "auto" else 8 * N * 1.0
    plain = 8 * N * 1.0
    trainings, epochs = (1 + 2 * folds, 3 * 8) if folds else (1, 8)
    predicted = trainings * N + epochs * BOUGHT + (2 * N if method == "auto" else 0)
    expected = own + (own + plain if folds else 0) + 0.1 * predicted
    assert estimated_seconds(setup, folds) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["direct", "uniform"])
def test_the_estimate_is_near_what_training_takes(method: str, large: Path, tmp_path: Path) -> None:
    words = ("reweight", "--method", method, "--epochs", 12, "--batch-size", 8, "--device", "cpu")
    run = Path(shutil.copytree(large, tmp_path / "run"))
    estimated = metaselect(*words, "--dry-run", "--json", run=run).json["needs"]["seconds"]
    started = time.monotonic()
    metaselect(*words, run=run)
    taken = time.monotonic() - started
    assert taken / 5 - 5 < estimated < 5 * taken


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "direct", "fsr"])
def test_a_probe_changes_no_byte(
    method: str, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("reweight", "--method", method, *SHORT, "--device", "cpu")
    probed, other = (Path(shutil.copytree(large, tmp_path / name)) for name in ("probed", "other"))
    said = metaselect(*words, run=probed)
    assert f"The training of convnet by {method} with its comparison on " in said.err
    assert TAKEN in said.err
    monkeypatch.setattr(reweight_stage, "may_be_long", lambda setup, folds: False)
    assert main([*map(str, words), "--quiet", "--run", str(other)]) == 0
    folders = [tree(run / "reweight" / method, leave=("stage.json",)) for run in (probed, other)]
    assert folders[0] == folders[1]


def test_small_trainings_and_solutions_are_not_probed(small: Path, tmp_path: Path) -> None:
    assert not may_be_long(setup_of(small), 4)
    solved = setup_of(small, model="linear", init="scratch")
    assert not may_be_long(solved, 4)
    assert estimated_seconds(solved, 4) is None
    run = Path(shutil.copytree(small, tmp_path / "run"))
    assert "takes about" not in metaselect("reweight", *SHORT, run=run).err
    dry = ("reweight", "--model", "linear", "--init", "scratch", "--name", "solved", "--dry-run", "--json")
    assert metaselect(*dry, run=run).json["needs"]["seconds"] is None


def test_a_training_is_probed_for_the_length_of_its_comparison(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = 3 * 16 * 16 * N * 8  # of the run alone
    monkeypatch.setattr("metaselect.training.duration.LARGE_TRAINING", 2 * numbers)
    setup = setup_of(small, method="gce")
    assert not may_be_long(setup, 0)
    assert may_be_long(setup, 4)


def test_quicker_ways_are_named_where_it_is_long(large: Path) -> None:
    setup = setup_of(large)
    assert "Quicker" not in advice(setup, 4, LONG - 1)
    said = advice(setup, 4, 8.5 * 3600)
    assert said.startswith(
        f"The training of convnet by auto with its comparison on {N} {TAKEN} 8.5 hours. Quicker: "
    )
    for way in (f"metaselect embed --run {large}", "--folds 0", "a GPU", "--epochs"):
        assert way in said
    alone = advice(setup, 0, 2 * LONG)
    assert "comparison" not in alone
    assert "--folds" not in alone
