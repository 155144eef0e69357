"""Fine-tuning: the rates of head and body, frozen parts, and the meta gradient with both, in float64."""

import copy
from collections.abc import Iterator

import pytest
import torch
from data_makers import plan
from nets import CLASSES, no_flash
from test_metagrad_forward import (
    DROPOUT_SEED,
    LR,
    NETS,
    OPTIMISERS,
    begun,
    close,
    make_scene,
    random_batch,
    some_weights,
    take_step,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.head import head_of
from metaselect.models.parameters import parameters_in
from metaselect.random import seeded_globals
from metaselect.reweighting.l2rw import rectify_and_normalise
from metaselect.reweighting.uniform import UniformRun
from metaselect.training.fine_tuning import FineTuning, freeze_below, set_train_mode
from metaselect.training.loop import TrainState, start_training
from metaselect.training.optimiser import OptimiserSettings, make_optimiser, set_rate

BODY_RATE = 0.3
SIZE = 1e-5  # of a finite difference


@pytest.fixture(autouse=True)
def attention_by_products() -> Iterator[None]:
    with no_flash():
        yield


class Tuned:
    """A model some steps into its fine-tuning, and copies of it."""

    def __init__(self, net: str, optimiser: str, part: str = "all", lr: float = LR) -> None:
        self.settings = {
            "plain": OptimiserSettings("sgd", lr, 0.0, 0.0, BODY_RATE),
            "nesterov": OptimiserSettings("sgd", lr, 0.8, 0.01, BODY_RATE),
            "adam": OptimiserSettings("adam", lr, 0.0, 0.01, BODY_RATE),
            "adamw": OptimiserSettings("adamw", lr, 0.0, 0.01, BODY_RATE),
        }[optimiser]
        factory, shape = NETS[net]
        with seeded_globals(1):
            self.model = factory().double()
        freeze_below(self.model, part)
        set_train_mode(self.model)
        self.optimiser = make_optimiser(self.model, self.settings)
        set_rate(self.optimiser, lr)
        for number in range(3):
            self.step(random_batch(shape, 7, 100 + number), torch.full((7,), 1 / 7, dtype=torch.float64))
        self.batch, self.meta_batch = random_batch(shape, 7, 1), random_batch(shape, 9, 2)

    def step(self, batch: Batch, weights: torch.Tensor) -> None:
        self.optimiser.zero_grad()
        with seeded_globals(DROPOUT_SEED):
            losses = F.cross_entropy(self.model(batch.inputs), batch.labels, reduction="none")
        (weights * losses).sum().backward()
        self.optimiser.step()

    def meta_loss_after(self, weights: torch.Tensor) -> float:
        """After torch's own optimiser took a step with these weights, on a copy."""
        twin = copy.deepcopy(self)  # model and optimiser share their parameters in the copy too
        twin.step(self.batch, weights)
        with torch.no_grad(), seeded_globals(DROPOUT_SEED):
            return float(F.cross_entropy(twin.model(self.meta_batch.inputs), self.meta_batch.labels))

    def slopes(self, at: torch.Tensor) -> torch.Tensor:
        """(B,) d meta loss / d weights, by central differences of real steps."""
        moves = SIZE * torch.eye(len(at), dtype=torch.float64)
        found = [self.meta_loss_after(at + move) - self.meta_loss_after(at - move) for move in moves]
        return torch.tensor(found, dtype=torch.float64) / (2 * SIZE)

    def forward(self) -> Forward:
        return Forward(self.model, self.optimiser, self.batch, seed=DROPOUT_SEED)


@pytest.mark.parametrize(
    ("net", "part"),
    [
        ("batchnorm", "all"),
        ("batchnorm", "top"),
        ("dropout", "all"),
        ("transformer", "all"),
        ("transformer", "top"),
    ],
)
@pytest.mark.parametrize("optimiser", ["plain", "nesterov", "adam", "adamw"])
def test_the_meta_gradient_is_that_of_real_steps_at_two_rates(net: str, optimiser: str, part: str) -> None:
    tuned, at = Tuned(net, optimiser, part, LR if "adam" not in optimiser else 0.003), some_weights(7)
    expected = tuned.slopes(at)
    forward = tuned.forward()
    s = forward.jvp(forward.meta_grad(tuned.meta_batch, forward.virtual_step(at)))
    assert close(-forward.virtual_rate * s, expected, 1e-6)
    # The oracle tells two rates from one.
    for group in tuned.optimiser.param_groups:
        group["lr"] = tuned.settings.lr
    one_rate = tuned.forward()
    other = one_rate.jvp(one_rate.meta_grad(tuned.meta_batch, one_rate.virtual_step(at)))
    assert not close(-one_rate.virtual_rate * other, expected, 1e-3)


@pytest.mark.parametrize("part", ["all", "top"])
def test_l2rw_looks_ahead_by_gradient_descent_at_both_rates(part: str) -> None:
    """At weights 0 plain SGD has no momentum and no decay to add."""
    tuned = Tuned("batchnorm", "plain", part)
    u = -tuned.slopes(torch.zeros(7, dtype=torch.float64))
    run = begun("l2rw", 7)
    step = run.step(tuned.forward(), tuned.meta_batch, torch.arange(7), LR)
    assert close(step.weights, rectify_and_normalise(u), 1e-6)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_group_of_the_same_rate_changes_no_bit(optimiser: str) -> None:
    """Groups as such: the same step as with one."""
    scene, at = make_scene("batchnorm", optimiser), some_weights(7)
    forward = scene.forward()
    whole = forward.jvp(forward.meta_grad(scene.meta_batch, forward.virtual_step(at)))
    group = scene.optimiser.param_groups[0]
    head = list(head_of(scene.model).parameters())
    body = [value for value in group["params"] if all(value is not each for each in head)]
    scene.optimiser.param_groups[:] = [{**group, "params": head}, {**group, "params": body}]
    forward = scene.forward()
    assert torch.equal(forward.jvp(forward.meta_grad(scene.meta_batch, forward.virtual_step(at))), whole)
    expected = take_step(scene, begun("mw-net", 7)).weights
    assert len(expected) == 7


@pytest.mark.parametrize("lr", [0.2, 0.05])
def test_head_and_body_move_at_their_rates(lr: float) -> None:
    """Plain SGD: each parameter by its own rate times its gradient, whatever the schedule makes of the rate."""
    factory, shape = NETS["lenet"]
    model = factory().double()
    optimiser = make_optimiser(model, OptimiserSettings("sgd", 0.1, 0.0, 0.0, BODY_RATE))
    set_rate(optimiser, lr)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    batch = random_batch(shape, 5, 1)
    F.cross_entropy(model(batch.inputs), batch.labels).backward()
    optimiser.step()
    head = parameters_in(model, "last")
    for name, value in model.named_parameters():
        rate = lr if name in head else lr * BODY_RATE
        assert value.grad is not None
        torch.testing.assert_close(value.detach(), before[name] - rate * value.grad)


class Norms(nn.Module):
    """Three blocks with BatchNorm, the first of them without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(4, affine=False),
            *(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()) for _ in range(5)),
        )
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(x))
        return logits


def trained(part: str) -> tuple[dict[str, torch.Tensor], TrainState]:
    """The model's tensors before, and its state after some steps of gradient descent."""
    with seeded_globals(1):
        model = Norms()
    before = copy.deepcopy(model.state_dict())
    state = start_training(model, plan(fine_tuning=FineTuning(part, 0.5)), UniformRun())
    for number in range(3):
        set_train_mode(state.model)
        inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(number)) + 1
        state.optimiser.zero_grad()
        F.cross_entropy(model(inputs), torch.arange(6) % CLASSES).backward()
        state.optimiser.step()
    return before, state


def test_below_the_top_neither_parameters_nor_statistics_change() -> None:
    before, state = trained("top")
    after = state.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Six layers of weights in all; the last two and what follows them are the top.
    top = ("layers.5.", "head.")
    free = {"layers.0.running_mean", "layers.0.running_var", "layers.0.num_batches_tracked"}
    assert changed == free | {name for name in before if name.startswith(top)}
    assert any(isinstance(layer, _BatchNorm) and not layer.training for layer in state.model.modules())


def test_of_the_whole_model_everything_changes() -> None:
    before, state = trained("all")
    after = state.model.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert all(layer.training for layer in state.model.modules())
