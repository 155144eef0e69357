"""Co-teaching: what is picked, by hand, and both networks' steps against steps that are written out."""

from copy import deepcopy

import pytest
import torch
from data_makers import EveryState, start_of
from torch import nn
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.weighting.co_teaching import CoTeachingRun, Peer, picked, reinitialised
from metaselect.training.loop import backward
from metaselect.training.optimiser import OptimiserSettings, make_optimiser

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
DRAW = torch.Generator().manual_seed(8)
INPUTS = torch.randn(2, 8, 5, generator=DRAW)
RATE = 0.1


def test_the_smallest_losses_and_all_bought_samples_are_picked() -> None:
    losses = torch.tensor([3.0, 1.0, 2.0, 0.5, 9.0])
    bought = torch.tensor([False, False, False, False, True])
    assert picked(losses, bought, 0.5).tolist() == [False, True, False, True, True]
    assert picked(losses, bought, 1.0).all()
    assert picked(losses, ~bought, 0.1).all()  # at least one of the others, of which there is one
    assert picked(losses, torch.zeros(5, dtype=torch.bool), 0.1).tolist() == [False] * 3 + [True, False]
    assert picked(torch.arange(10.0), torch.zeros(10, dtype=torch.bool), 1 - 0.3).sum() == 7
    assert picked(torch.zeros(4), torch.zeros(4, dtype=torch.bool), 0.5).tolist() == [
        True,
        True,
        False,
        False,
    ]


def begun(*options: str) -> CoTeachingRun:
    run: CoTeachingRun = configure(REWEIGHTERS["co-teaching"], options).begin(start_of(LABELS))
    return run


def test_the_share_falls_over_the_ramp_to_what_is_clean() -> None:
    run = begun("rate=0.4", "ramp=4")
    shares = []
    for epoch in range(1, 7):
        shares.append(run.share)
        run.epoch_end(epoch)
    assert shares == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.6])


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def losses_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(inputs), LABELS, reduction="none")


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_each_network_takes_its_step_on_what_the_other_one_picks(name: str) -> None:
    """Of two batches, whose mean gradient makes one step."""
    settings = OptimiserSettings(name, RATE, 0.9, 0.01)
    model, run = network(), begun("rate=0.5", "ramp=1")
    optimiser = make_optimiser(model, settings)
    run.epoch_end(1)
    models = [deepcopy(model)]
    for number, inputs in enumerate(INPUTS):
        forward = Forward(model, optimiser, Batch(inputs, LABELS), seed=7)
        step = run.step(forward, None, torch.arange(8), RATE)
        if number == 0:
            assert run.peer is not None
            models.append(deepcopy(run.peer.model))
        backward(forward, step, 0.5)
    optimiser.step()
    run.after_step({})
    optimisers = [make_optimiser(each, settings) for each in models]
    for each in optimisers:
        each.zero_grad()
    for inputs in INPUTS:
        both = [losses_of(each, inputs) for each in models]
        for mine, other in ((0, 1), (1, 0)):
            easy = both[other].detach().argsort()[:4]
            (both[mine][easy].mean() / 2).backward()
    for each in optimisers:
        each.step()
    assert run.peer is not None
    for found, expected in zip((model, run.peer.model), models, strict=True):
        for value, wanted in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(value, wanted)


def test_the_second_network_is_another_one_and_follows_from_the_seed() -> None:
    model = network()
    optimiser = make_optimiser(model, OptimiserSettings("sgd", RATE, 0.0, 0.0))
    first, again, other = (reinitialised(model, optimiser, seed) for seed in (3, 3, 4))
    for mine, same, another, original in zip(
        *(net.parameters() for net in (first, again, other, model)), strict=True
    ):
        assert torch.equal(mine, same)
        assert not torch.equal(mine, another)
        assert not torch.equal(mine, original)


def test_what_is_frozen_or_pre_trained_stays() -> None:
    model = EveryState()
    optimiser = make_optimiser(model, OptimiserSettings("sgd", RATE, 0.0, 0.0, body_rate=0.5))
    peer = reinitialised(model, optimiser, 3)
    changed = {
        name for name, value in peer.state_dict().items() if not torch.equal(value, model.state_dict()[name])
    }
    assert changed == {"layers.5.weight", "layers.5.bias"}
    optimiser = make_optimiser(model, OptimiserSettings("sgd", RATE, 0.0, 0.0))
    model.layers[0].requires_grad_(requires_grad=False)
    peer = reinitialised(model, optimiser, 3)
    before = model.state_dict()
    assert torch.equal(peer.state_dict()["layers.0.weight"], before["layers.0.weight"])
    assert not torch.equal(peer.state_dict()["layers.5.weight"], before["layers.5.weight"])


def test_each_group_of_the_second_network_has_the_rate_of_the_first() -> None:
    model = EveryState()
    optimiser = make_optimiser(model, OptimiserSettings("sgd", RATE, 0.0, 0.0, body_rate=0.5))
    draw = torch.Generator().manual_seed(0)
    forward = Forward(model, optimiser, Batch(torch.randn(6, 1, 8, 8, generator=draw), LABELS[:6]))
    peer = Peer(forward)
    assert [len(group["params"]) for group in peer.optimiser.param_groups] == [2, 4]
    run = begun()
    run.step(forward, None, torch.arange(6), RATE)
    run.after_step({})
    assert run.peer is not None
    assert [group["lr"] for group in run.peer.optimiser.param_groups] == [RATE, RATE / 2]


@pytest.mark.parametrize("pair", ["rate=1", "rate=-0.1", "rate=nan", "ramp=0"])
def test_options_outside_their_range_are_refused(pair: str) -> None:
    with pytest.raises(UsageError, match=f"--option {pair.split('=')[0]}="):
        configure(REWEIGHTERS["co-teaching"], [pair])
