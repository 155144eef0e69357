"""Re-weighters that choose their meta batch, share a pass with it, and train on soft targets."""

import pytest
import torch
from data_makers import Listener
from torch import nn
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.parameters import Params
from metaselect.random import generator
from metaselect.reweighting.base import MethodRun, StepObjective
from metaselect.training.batches import Batches
from metaselect.training.loop import TrainingConfig, TrainState, final_model, start_training, train

POOL = torch.arange(0, 24, 2)


def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    ).train()


def forward_of(model: nn.Module, batch: Batch) -> Forward:
    return Forward(model, torch.optim.SGD(model.parameters(), lr=0.1), batch)


def test_the_joint_pass_normalises_both_batches_together_and_moves_nothing(tiny_batches: Batches) -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch, meta_batch = tiny_batches.get(torch.arange(6)), tiny_batches.get(torch.arange(10, 15))
    joint = forward_of(model, batch).joint_hidden(meta_batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not joint.hidden.requires_grad
    with torch.no_grad():
        expected = net()[:-1](torch.cat([batch.inputs, meta_batch.inputs]))
    assert torch.equal(joint.hidden, expected[:6])
    assert torch.equal(joint.meta_hidden, expected[6:])


def test_the_step_can_be_taken_on_other_inputs(tiny_batches: Batches) -> None:
    batch, other = tiny_batches.get(torch.arange(6)), tiny_batches.get(torch.arange(6, 12))
    forward = forward_of(net(), batch)
    own = forward.losses
    forward.replace_inputs(other.inputs)
    expected = net()(other.inputs)
    assert torch.equal(forward.logits, expected)
    assert torch.equal(forward.losses, F.cross_entropy(expected, batch.labels, reduction="none"))
    assert not torch.equal(forward.losses, own)


class Chooser(MethodRun):
    """Chooses its meta batch, trains twice on each sample with soft targets, and averages by halves."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.chosen: list[torch.Tensor] = []
        self.shown: list[torch.Tensor] = []
        self.average: Params = {}
        self.steps = 0

    def meta_ids(self, bought: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
        self.chosen.append(POOL[torch.randperm(len(POOL), generator=generator)[:size]])
        return self.chosen[-1]

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        assert meta_batch is not None
        self.shown.append(meta_batch.labels)
        if not self.average:
            self.average = {name: value.detach().clone() for name, value in forward.params.items()}
        forward.replace_inputs(torch.cat([forward.batch.inputs, forward.batch.inputs.flip(-1)]))
        weights = torch.full((len(ids),), self.factor / len(ids))
        return StepObjective(
            weights, self.soft(forward.batch.labels) * torch.cat([weights, weights])[:, None]
        )

    @staticmethod
    def soft(labels: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.one_hot(labels, 3) * 0.7 + 0.1, torch.full((len(labels), 3), 1 / 3)])

    def after_step(self, params: Params) -> None:
        self.steps += 1
        for name, value in self.average.items():
            value.lerp_(params[name].detach(), 0.5)

    def averaged(self) -> Params | None:
        return self.average or None

    def epoch_end(self, epoch: int) -> None:
        assert self.steps == 2 * epoch


def trained(method: Chooser, batches: Batches, **changes: float) -> TrainState:
    settings = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, **changes}
    plan = TrainingConfig(
        epochs=2, batch_size=12, schedule="constant", augment="none", amp=False, seed=0, **settings
    )
    trainee = start_training(net(), plan, method)
    bought = torch.empty(0, dtype=torch.int64)
    for log in train(
        trainee,
        batches,
        plan,
        ids=torch.arange(24),
        bought=bought,
        meta_batch_size=5,
        report=Listener(),
        what="chooser",
    ):
        assert log.mean_weight == pytest.approx(method.factor)
    return trainee


def test_the_method_is_shown_the_samples_that_it_chose(tiny_batches: Batches) -> None:
    method = Chooser()
    trained(method, tiny_batches)
    assert [len(ids) for ids in method.chosen] == [5] * 4
    for ids, labels in zip(method.chosen, method.shown, strict=True):
        assert torch.equal(labels, ids % 3)
    assert len({tuple(ids.tolist()) for ids in method.chosen}) == 4


def test_soft_targets_by_hand(tiny_batches: Batches) -> None:
    method = Chooser()
    found = trained(method, tiny_batches).model
    twin, average = net(), None
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1)
    for epoch in (1, 2):
        for ids in torch.randperm(24, generator=generator(0, "order", epoch)).tensor_split(2):
            inputs, labels = tiny_batches.get(ids)
            average = average or [parameter.detach().clone() for parameter in twin.parameters()]
            both = twin(torch.cat([inputs, inputs.flip(-1)]))
            loss = F.cross_entropy(both, Chooser.soft(labels), reduction="sum") / 12
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            average = [(old + new.detach()) / 2 for old, new in zip(average, twin.parameters(), strict=True)]
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, msg=name)
    for value, expected in zip(method.average.values(), average or [], strict=True):
        torch.testing.assert_close(value, expected)


def test_a_run_is_judged_by_its_average_and_trained_by_its_parameters(tiny_batches: Batches) -> None:
    method = Chooser()
    trainee = trained(method, tiny_batches)
    judged = final_model(trainee)
    assert judged is not trainee.model
    for name, value in judged.named_parameters():
        assert torch.equal(value, method.average[name])
        assert not torch.equal(value, dict(trainee.model.named_parameters())[name])
    for name, value in judged.named_buffers():
        assert torch.equal(value, dict(trainee.model.named_buffers())[name])
    method.average = {}
    assert final_model(trainee) is trainee.model


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.01)])
def test_targets_of_nothing_leave_the_step_to_momentum_and_decay(
    momentum: float, decay: float, tiny_batches: Batches
) -> None:
    trainee = trained(Chooser(0.0), tiny_batches, momentum=momentum, weight_decay=decay)
    for before, after in zip(net().parameters(), trainee.model.parameters(), strict=True):
        # Where a parameter is 0 there is nothing to decay.
        assert torch.equal(before, after) == (momentum == decay == 0 or not before.any())
