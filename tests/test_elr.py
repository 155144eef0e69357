"""Early-learning regularisation: by hand, its gradient in closed form, and its targets over several epochs."""

import math

import pytest
import torch
from data_makers import METHODS, plan, start_of, trained
from torch import nn
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.base import StepObjective
from metaselect.reweighting.losses.elr import (
    EarlyLearningRun,
    clamped_probs,
    early_learning_losses,
    moved_targets,
)
from metaselect.training.batches import Batches

LABELS = torch.tensor([0, 1, 2, 0])


def begun(*options: str, bought: torch.Tensor | None = None) -> EarlyLearningRun:
    method = configure(REWEIGHTERS["elr"], options)
    run = method.begin(start_of(LABELS, method=method, bought=bought))
    assert isinstance(run, EarlyLearningRun)
    run.targets = run.targets.double()
    return run


def visit(run: EarlyLearningRun, probs: list[list[float]], ids: list[int]) -> StepObjective:
    """A step in which the model gives these probabilities to these samples."""
    model = nn.Sequential(nn.Identity(), nn.Linear(3, 3, bias=False)).double()
    nn.init.eye_(model[1].weight)
    batch = Batch(torch.tensor(probs, dtype=torch.float64).log(), LABELS[ids])
    forward = Forward(model, torch.optim.SGD(model.parameters(), lr=0.1), batch)
    return run.step(forward, None, torch.tensor(ids), 0.1)


def test_targets_and_losses_by_hand() -> None:
    run = begun()
    weights, targets, losses = visit(run, [[0.5, 0.25, 0.25], [0.2, 0.6, 0.2]], [0, 2])
    assert targets is None
    assert losses is not None
    assert weights.tolist() == [0.5, 0.5]
    # t = 0.3 p, <p, t> = 0.3 (0.25 + 0.0625 + 0.0625) = 0.1125 and 0.3 (0.04 + 0.36 + 0.04) = 0.132
    first = [-math.log(0.5) + 3 * math.log(0.8875), -math.log(0.2) + 3 * math.log(0.868)]
    assert losses.tolist() == pytest.approx(first, rel=1e-12)
    assert run.targets[0].tolist() == pytest.approx([0.15, 0.075, 0.075], rel=1e-12)
    assert run.targets[2].tolist() == pytest.approx([0.06, 0.18, 0.06], rel=1e-12)
    assert not run.targets[[1, 3]].any()
    # t = 0.7 (0.15, 0.075, 0.075) + 0.3 (0.1, 0.8, 0.1)
    losses = visit(run, [[0.1, 0.8, 0.1]], [0]).losses
    assert losses is not None
    assert run.targets[0].tolist() == pytest.approx([0.135, 0.2925, 0.0825], rel=1e-12)
    assert losses.item() == pytest.approx(-math.log(0.1) + 3 * math.log(1 - 0.25575), rel=1e-12)
    assert not run.targets.requires_grad


def test_targets_of_bought_samples_are_their_labels_and_stay() -> None:
    run = begun(bought=torch.tensor([1, 3]))
    for _ in range(3):
        losses = visit(run, [[0.5, 0.25, 0.25]] * 4, [0, 1, 2, 3]).losses
        assert losses is not None
        assert run.targets[[1, 3]].tolist() == [[0, 1, 0], [1, 0, 0]]
    expected = [-math.log(0.25) + 3 * math.log(0.75), -math.log(0.5) + 3 * math.log(0.5)]
    assert losses[[1, 3]].tolist() == pytest.approx(expected, rel=1e-12)
    share = 0.3 * (1 + 0.7 + 0.49)
    assert run.targets[0].tolist() == pytest.approx([0.5 * share, 0.25 * share, 0.25 * share], rel=1e-12)


def test_the_gradient_in_closed_form() -> None:
    """dL/dz = p - e_y + lambda p (<p, t> - t) / (1 - <p, t>), with t held fixed."""
    draw = torch.Generator().manual_seed(5)
    logits = torch.randn(6, 4, generator=draw, dtype=torch.float64).requires_grad_()
    old = torch.rand(6, 4, generator=draw, dtype=torch.float64).softmax(1)
    labels = torch.arange(6) % 4
    targets = moved_targets(old, clamped_probs(logits), 0.7)
    losses = early_learning_losses(logits, labels, targets, 3.0)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    p = logits.detach().softmax(1)
    agreement = (p * targets).sum(1, keepdim=True)
    expected = p - F.one_hot(labels, 4) + 3 * p * (agreement - targets) / (1 - agreement)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(lambda z: early_learning_losses(z, labels, targets, 3.0), (logits,))


def test_certain_predictions_have_finite_losses_and_no_gradient_of_the_regularisation() -> None:
    logits = torch.tensor([[1000.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    probs = clamped_probs(logits)
    assert probs.tolist() == [[1 - 1e-4, 1e-4, 1e-4]]
    targets = moved_targets(torch.zeros(1, 3, dtype=torch.float64), probs, 0.0)
    assert targets.sum().item() == pytest.approx(1, rel=1e-12)
    certain = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    losses = early_learning_losses(logits, torch.tensor([0]), certain, 3.0)
    assert losses.item() == pytest.approx(3 * math.log(1e-4), rel=1e-9)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert torch.equal(gradient, torch.zeros_like(logits))


def test_without_strength_it_is_cross_entropy() -> None:
    losses = visit(begun("strength=0"), [[0.5, 0.25, 0.25], [0.2, 0.6, 0.2]], [0, 1]).losses
    assert losses is not None
    assert losses.tolist() == pytest.approx([-math.log(0.5), -math.log(0.6)], rel=1e-12)


def test_targets_over_epochs_of_a_real_training(tiny_batches: Batches) -> None:
    """A rate of next to nothing, so that the model stays: after k visits a target is (1 - beta^k) p."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    inputs, _ = tiny_batches.get(torch.arange(24))
    with torch.no_grad():
        probs = model(inputs).softmax(1)
    bought = torch.tensor([2, 3, 10])
    resolved = plan(epochs=3, lr=1e-12, momentum=0.0, augment="none")
    state, history = trained(METHODS["elr"], model, tiny_batches, resolved, bought=bought)
    targets = state.method.state_dict()["targets"]
    others = torch.tensor([i for i in range(24) if i not in bought])
    torch.testing.assert_close(targets[others], (1 - 0.7**3) * probs[others], rtol=1e-4, atol=1e-5)
    assert torch.equal(targets[bought], F.one_hot(bought % 3, 3).float())
    used = (1 - 0.7**2) * probs
    used[bought] = F.one_hot(bought % 3, 3).float()
    losses = early_learning_losses(probs.log(), torch.arange(24) % 3, used, 3.0)
    assert history[1].loss == pytest.approx(losses.mean().item(), rel=1e-4)


@pytest.mark.parametrize("pair", ["beta=1", "beta=-0.1", "beta=nan", "strength=-1", "strength=inf"])
def test_bad_hyper_parameters_are_refused_by_name(pair: str) -> None:
    with pytest.raises(UsageError, match=f"--option {pair.partition('=')[0]}=") as refused:
        configure(REWEIGHTERS["elr"], [pair])
    assert "The default is" in refused.value.hint
