"""The number of CPU threads of a training, and that a resumed one keeps it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from command_line import metaselect
from data_makers import METHODS, Listener, made, pictures, plan, start_of, write_images
from torch import nn

from metaselect.__main__ import yield_cores
from metaselect.data_options import IngestOptions
from metaselect.models.build import build_model
from metaselect.options import WarmupOptions
from metaselect.stages.warmup.warmup import warmup
from metaselect.training.batches import Batches
from metaselect.training.checkpoint import load_state, save_state
from metaselect.training.loop import TrainState, start_training
from metaselect.training.threads import GIVEN_BY, SMALL_FLOPS, flops_per_sample, limit_threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of two threads, whose user chose none."""
    for name in GIVEN_BY:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def convnet() -> nn.Module:
    """Of 8 x 8 grey pixels and three classes."""
    return build_model("convnet", (1, 8, 8), 3, seed=0)


def test_flops_of_every_layer(tiny_batches: Batches) -> None:
    model = convnet().train()
    convolutions = 64 * 9 * (1 * 16 + 16 * 32)  # at 8 x 8 positions
    linear = 32 * 16 * 64 + 64 * 3
    assert flops_per_sample(model, tiny_batches) == 2 * (convolutions + linear)
    assert model.training


def test_flops_change_no_state(tiny_batches: Batches) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(64, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    assert flops_per_sample(model, tiny_batches) == 2 * 64 * 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_one_thread_for_a_small_model_alone(tiny_batches: Batches) -> None:
    limit = -(
        -SMALL_FLOPS // flops_per_sample(convnet(), tiny_batches)
    )  # the first batch size that is not small
    limit_threads(convnet(), tiny_batches, limit)
    assert torch.get_num_threads() == 2
    limit_threads(convnet(), tiny_batches, limit - 1)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", GIVEN_BY)
def test_the_user_chooses_first(
    name: str, tiny_batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    monkeypatch.setenv(name, "3")
    torch.set_num_threads(3)
    limit_threads(convnet(), tiny_batches, 1)
    load_state(fresh(), path)
    assert torch.get_num_threads() == 3


def fresh() -> TrainState:
    """Before the first step."""
    return start_training(convnet(), plan(), METHODS["uniform"].begin(start_of(torch.arange(24) % 3)))


def saved(folder: Path) -> Path:
    """The state of a training in two threads."""
    save_state(fresh(), [], folder / "resume.safetensors")
    return folder / "resume.safetensors"


def test_a_resumed_training_keeps_its_threads(tmp_path: Path) -> None:
    path = saved(tmp_path)
    torch.set_num_threads(1)
    load_state(fresh(), path)
    assert torch.get_num_threads() == 2


def test_stages_record_the_number(tmp_path: Path) -> None:
    run = made(write_images(tmp_path / "images", pictures(24, side=8)), tmp_path / "run")
    warmup(
        None,
        run,
        WarmupOptions(model="convnet", epochs=1, batch_size=8, device="cpu"),
        IngestOptions(),
        Listener(),
    )
    assert run.stage("warmup").require().details["threads"] == 1
    torch.set_num_threads(2)
    metaselect(
        "reweight", "--method", "uniform", "--epochs", 1, run=run.root, env={"OMP_NUM_THREADS": ""}, code=0
    )
    record = json.loads(run.path("reweight/uniform/stage.json").read_text())
    assert record["details"]["threads"] == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(
    given: dict[str, str], expected: str | None
) -> None:
    with patch.dict(os.environ, given, clear=True):
        yield_cores()
        assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_the_program_sets_it_before_torch_is_there() -> None:
    code = (
        "import os, sys, metaselect.__main__ as program\n"
        "sys.argv[1:] = ['--version']\n"
        "program.run()\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "10000 False"
