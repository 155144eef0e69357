"""Training on the model of another re-weighting: where it starts, what is refused, and that it follows that one."""

import shutil
from pathlib import Path

import pytest
import torch
from command_line import UNIFORM, flip_byte, metaselect, states
from data_makers import Listener
from safetensors.torch import load_file

from metaselect.options import ReweightOptions
from metaselect.run.layout import Run
from metaselect.stages.reweight.setup import resolve_setup
from metaselect.stages.reweight.training import start_model

TUNED = ("reweight", "--method", "finetune", "--init", "uniform", "--name", "a-tuned", "--epochs", 1)
"""Its name is before that of its start in the order of names."""


@pytest.fixture
def tuned(finished: Path) -> Path:
    """The finished run with a fine-tuned model of the baseline."""
    for name in ("evaluate", "reweight/auto"):  # neither is what this is about
        shutil.rmtree(finished / name)
    made = metaselect(*TUNED, "--lr", 1e-8, "--json", run=finished)
    assert (
        "No comparison with plain training: the model of uniform has learnt every bought label." in made.err
    )
    assert made.json["comparison"] is None
    return finished


def test_it_starts_from_the_parameters_of_that_model(tuned: Path) -> None:
    expected = load_file(tuned / "reweight/uniform/model.safetensors")
    options = ReweightOptions(method="finetune", init="uniform", device="cpu")
    start = start_model(resolve_setup(Run(tuned), options, Listener())).state_dict()
    assert start.keys() == expected.keys()
    assert all(torch.equal(start[name], expected[name]) for name in expected)
    ended = load_file(tuned / "reweight/a-tuned/model.safetensors")  # after steps of 1e-8
    warmed = load_file(max((tuned / "warmup/checkpoints").iterdir()))
    weights = [name for name in expected if name.endswith("weight")]
    for name in weights:
        torch.testing.assert_close(ended[name], expected[name], rtol=0, atol=1e-4)
    assert any((warmed[name] - expected[name]).abs().max() > 1e-3 for name in weights)


def test_a_model_that_is_not_there_or_damaged_is_named(finished: Path) -> None:
    said = metaselect("reweight", "--method", "finetune", "--init", "direct", run=finished, code=4).err
    assert "--init direct is no finished re-weighting" in said
    assert "there are auto, uniform" in said
    flip_byte(finished / "reweight/uniform/model.safetensors")
    said = metaselect(*TUNED, run=finished, code=4).err
    assert "reweight/uniform/model.safetensors is damaged" in said


def test_a_circle_is_refused(tuned: Path) -> None:
    said = metaselect(*UNIFORM, "--init", "uniform", "--force", run=tuned, code=2).err
    assert "--init uniform cannot be what reweight/uniform starts from" in said
    said = metaselect(*UNIFORM, "--init", "a-tuned", "--force", run=tuned, code=2).err
    assert "--init a-tuned cannot be what reweight/uniform starts from" in said
    said = metaselect(*TUNED[:-2], "--model", "lenet", "--force", run=tuned, code=2).err
    assert "--model lenet cannot start from uniform's" in said


def test_it_can_be_run_again_behind_its_start_and_is_stale_with_another_one(tuned: Path) -> None:
    recomputed = metaselect("verify", "--rerun", "--json", run=tuned).json["recomputed"]
    assert recomputed.index("reweight/a-tuned") > recomputed.index("reweight/uniform")
    metaselect(*UNIFORM, "--seed", 1, "--force", run=tuned)
    state, why = states(tuned, 1)["reweight/a-tuned"]
    assert (state, why) == ("stale", "reweight/uniform/model.safetensors changed since")
    said = metaselect("reweight", "--method", "finetune", "--init", "a-tuned", run=tuned, code=4).err
    assert "reweight/a-tuned is stale" in said
    said = metaselect(*TUNED, "--lr", 1e-8, run=tuned).err
    assert "Recomputing reweight/a-tuned: reweight/uniform/model.safetensors changed since." in said
    assert states(tuned, 0)["reweight/a-tuned"][0] == "done"
