"""Generalised cross-entropy: by hand, against the closed form of its gradient, at both ends of q, and truncated."""

import math

import pytest
import torch
from data_makers import METHODS, EveryState, plan, start_of, trained
from torch import nn
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.base import StepObjective
from metaselect.reweighting.losses.gce import TruncatedRun, generalised_cross_entropy
from metaselect.training.batches import Batches


def logits_of(count: int, classes: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return (3 * torch.randn(count, classes, generator=draw, dtype=torch.float64)).requires_grad_()


def test_losses_by_hand() -> None:
    """p = (4, 1) / 5, so that with q = 1/2 the losses are 2 (1 - sqrt(0.8)) and 2 (1 - sqrt(0.2))."""
    logits = torch.tensor([[math.log(4), 0], [math.log(4), 0]], dtype=torch.float64)
    losses = generalised_cross_entropy(logits, torch.tensor([0, 1]), 0.5)
    expected = [2 * (1 - math.sqrt(0.8)), 2 * (1 - math.sqrt(0.2))]
    assert losses.tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("q", [1e-3, 0.3, 0.7, 1.0])
def test_the_gradient_is_that_of_cross_entropy_times_a_power_of_the_probability(q: float) -> None:
    """dL/dz = p_y^q (p - e_y), and by central differences."""
    logits, labels = logits_of(6, 4), torch.arange(6) % 4
    losses = generalised_cross_entropy(logits, labels, q)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    probs = logits.detach().softmax(1)
    own = probs.gather(1, labels[:, None])
    torch.testing.assert_close(gradient, own**q * (probs - F.one_hot(labels, 4)), rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(lambda z: generalised_cross_entropy(z, labels, q), (logits,))


def test_it_becomes_cross_entropy_as_q_goes_to_zero() -> None:
    logits, labels = logits_of(50, 5).detach(), torch.arange(50) % 5
    expected = F.cross_entropy(logits, labels, reduction="none")
    for q in (1e-2, 1e-4, 1e-6, 1e-8):
        gap = expected - generalised_cross_entropy(logits, labels, q)
        # The next term of the series is q (log p)^2 / 2, and the series alternates.
        assert (gap >= -1e-14).all()
        assert (gap <= q * expected.square() / 2 + 1e-14).all()


def test_at_one_it_is_half_the_absolute_error() -> None:
    logits, labels = logits_of(50, 5).detach(), torch.arange(50) % 5
    absolute = (logits.softmax(1) - F.one_hot(labels, 5)).abs().sum(1)
    torch.testing.assert_close(generalised_cross_entropy(logits, labels, 1.0), absolute / 2)


@pytest.mark.parametrize("q", [0.3, 1.0])
def test_a_hopeless_sample_has_a_bounded_loss_and_no_pull(q: float) -> None:
    logits = torch.tensor([[-1e4, 0.0], [0.0, -1e4]], requires_grad=True)
    losses = generalised_cross_entropy(logits, torch.tensor([0, 1]), q)
    torch.testing.assert_close(losses.detach(), torch.full((2,), 1 / q))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert torch.equal(gradient, torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("pair", "default"),
    [
        *((pair, "0.7") for pair in ("q=0", "q=-0.5", "q=1.1", "q=nan")),
        *((pair, "0") for pair in ("truncation=-0.1", "truncation=1")),
        *(("initial=1", "0.33"), ("interval=0", "0.083"), ("interval=1.1", "0.083")),
    ],
)
def test_options_outside_their_range_are_refused(pair: str, default: str) -> None:
    with pytest.raises(UsageError, match=f"--option {pair.split('=')[0]}=") as refused:
        configure(REWEIGHTERS["gce"], [pair])
    assert refused.value.hint == f"The default is {default}."


def truncated(*options: str, epochs: int) -> TruncatedRun:
    """Of six samples of class 0, of which the last one is bought."""
    method = configure(REWEIGHTERS["gce"], ["truncation=0.5", *options])
    labels, bought = torch.tensor([0] * 6), torch.tensor([5])
    run = method.begin(start_of(labels, method=method, epochs=epochs, bought=bought))
    assert isinstance(run, TruncatedRun)
    return run


def objective(run: TruncatedRun, probs: list[float]) -> StepObjective:
    """Of a step on all samples, with these probabilities of their label out of two classes."""
    inputs = torch.tensor(probs, dtype=torch.float64)[:, None].logit() * torch.tensor([1.0, 0.0])
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    forward = Forward(
        model, torch.optim.SGD(model.parameters(), 0.1), Batch(inputs, torch.zeros(6, dtype=torch.int64))
    )
    return run.step(forward, None, torch.arange(6), 0.1)


def test_samples_whose_loss_was_above_the_limit_are_left_out_but_for_bought_ones() -> None:
    """With q = 1/2, L_q(k) = 2 (1 - sqrt(1/2)), and the loss less this is 2 (sqrt(1/2) - sqrt(p))."""
    run = truncated("q=0.5", "initial=0.1", epochs=10)
    probs = [0.9, 0.51, 0.49, 0.1, 0.7, 0.2]
    step = objective(run, probs)
    assert step.losses is not None
    assert step.losses.tolist() == pytest.approx([2 * (math.sqrt(0.5) - math.sqrt(p)) for p in probs])
    assert step.weights.tolist() == pytest.approx([1 / 6] * 6)
    run.epoch_end(1)
    later = truncated(epochs=10)
    later.load_state_dict(run.state_dict())
    for each in (run, later):
        assert (objective(each, [0.9] * 6).weights * 6).tolist() == pytest.approx([1, 1, 0, 0, 1, 1])


def test_who_is_left_out_is_decided_at_shares_of_the_epochs() -> None:
    """After 4 of 12 epochs and every 3 from then on, by the last epoch; samples come back."""
    run, left_out = truncated("initial=0.3", "interval=0.25", epochs=5), []
    run.set_epochs(12)
    for epoch in range(1, 13):
        objective(run, [0.1 if (epoch + sample) % 2 else 0.9 for sample in range(6)])
        run.epoch_end(epoch)
        left_out.append((~run.kept).nonzero()[:, 0].tolist())
    assert left_out == [[]] * 3 + [[1, 3]] * 3 + [[0, 2, 4]] * 3 + [[1, 3]] * 3


def test_a_truncation_that_leaves_none_out_changes_only_the_loss_that_is_told(tiny_batches: Batches) -> None:
    plain, truncating = (
        trained(configure(REWEIGHTERS["gce"], options), network(), tiny_batches, plan(epochs=3))
        for options in ([], ["truncation=1e-9"])
    )
    for one, other in zip(plain[0].model.parameters(), truncating[0].model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    told = [mine.loss - other.loss for mine, other in zip(plain[1], truncating[1], strict=True)]
    assert told == pytest.approx([(1 - 1e-9**0.7) / 0.7] * 3, rel=1e-5)


def network() -> EveryState:
    torch.manual_seed(0)
    return EveryState()


def test_the_step_and_the_history_are_of_this_loss(tiny_batches: Batches) -> None:
    """One step on the whole pool: the loss of the epoch is that of the model before it."""
    resolved = plan(epochs=1, batch_size=24, lr=0.5, momentum=0.0, weight_decay=0.0, augment="none")
    inputs, labels = tiny_batches.get(torch.arange(24))
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(EveryState())
        nets[-1].layers[4].p = 0.0  # type: ignore[assignment]  # no dropout
    state, (log,) = trained(METHODS["gce"], nets[0], tiny_batches, resolved)
    loss = generalised_cross_entropy(nets[1].train()(inputs), labels, 0.7).mean()
    assert log.loss == pytest.approx(loss.item(), rel=1e-5)
    assert log.mean_weight == pytest.approx(1)
    assert log.zero_batches == 0
    gradients = torch.autograd.grad(loss, list(nets[1].parameters()))
    for after, before, gradient in zip(
        state.model.parameters(), nets[1].parameters(), gradients, strict=True
    ):
        torch.testing.assert_close(after, before - 0.5 * gradient, rtol=1e-4, atol=1e-6)
