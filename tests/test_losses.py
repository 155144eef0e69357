"""Methods that change the loss: by hand, against closed forms and finite differences, and at the ends of options."""

import math

import pytest
import torch
from data_makers import METHODS, EveryState, evidence_of, plan, start_of, trained
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.losses.balanced_softmax import balanced_softmax_losses
from metaselect.reweighting.losses.focal import focal_losses
from metaselect.reweighting.losses.forward_correction import TransitionRun, anchored_transition
from metaselect.reweighting.losses.glc import gold_transition
from metaselect.reweighting.losses.reed import hard_bootstrapping, soft_bootstrapping
from metaselect.reweighting.losses.s_model import SModelRun
from metaselect.reweighting.losses.transition_loss import transition_losses
from metaselect.training.batches import Batches

FOUR_FIFTHS = torch.tensor([[math.log(4), 0.0], [math.log(4), 0.0]], dtype=torch.float64)
"""Two samples with p = (4, 1) / 5."""
LABELS = torch.tensor([0, 1])
LOG = math.log


def random_logits(count: int = 6, classes: int = 4) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return (3 * torch.randn(count, classes, generator=draw, dtype=torch.float64)).requires_grad_()


def approx(values: list[float]) -> object:
    return pytest.approx(values, rel=1e-13)


def test_focal_by_hand() -> None:
    """0.2^2 log 1.25 and 0.8^2 log 5."""
    losses = focal_losses(FOUR_FIFTHS, LABELS, 2.0)
    assert losses.tolist() == approx([0.04 * LOG(1.25), 0.64 * LOG(5)])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_the_gradient_of_its_closed_form(gamma: float) -> None:
    logits, labels = random_logits(), torch.arange(6) % 4
    assert torch.autograd.gradcheck(lambda z: focal_losses(z, labels, gamma), (logits,))
    if gamma == 0:
        expected = F.cross_entropy(logits, labels, reduction="none")
        torch.testing.assert_close(focal_losses(logits, labels, 0), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_of_a_sure_sample_has_no_pull_and_no_nan(gamma: float) -> None:
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(focal_losses(logits, torch.tensor([0, 1]), gamma).sum(), logits)
    assert torch.equal(gradient, torch.zeros(2, 2))


def test_balanced_softmax_by_hand() -> None:
    """Counts 1 and 4: n p = (4, 4), so that both losses are log 2; an empty class has no part."""
    counts = torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64)
    logits = torch.cat([FOUR_FIFTHS, torch.full((2, 1), 9.0)], 1).requires_grad_()
    losses = balanced_softmax_losses(logits, LABELS, counts)
    assert losses.tolist() == approx([LOG(2), LOG(2)])
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient[:, 2].tolist() == [0, 0]
    assert gradient.isfinite().all()


def test_balanced_softmax_of_equal_counts_is_cross_entropy() -> None:
    logits, labels = random_logits(), torch.arange(6) % 4
    losses = balanced_softmax_losses(logits, labels, torch.full((4,), 7.0))
    torch.testing.assert_close(losses, F.cross_entropy(logits, labels, reduction="none"))


def test_bootstrapping_by_hand() -> None:
    entropy = 0.8 * LOG(1.25) + 0.2 * LOG(5)
    soft = soft_bootstrapping(FOUR_FIFTHS, LABELS, 0.75)
    assert soft.tolist() == approx([0.75 * LOG(1.25) + entropy / 4, 0.75 * LOG(5) + entropy / 4])
    hard = hard_bootstrapping(FOUR_FIFTHS, LABELS, 0.75)
    assert hard.tolist() == approx([LOG(1.25), 0.75 * LOG(5) + LOG(1.25) / 4])


@pytest.mark.parametrize("losses", [soft_bootstrapping, hard_bootstrapping])
def test_bootstrapping_has_the_gradient_of_its_formula(losses: object) -> None:
    """Of the soft form through the target too."""
    assert callable(losses)
    logits, labels = random_logits(), torch.arange(6) % 4
    assert torch.autograd.gradcheck(lambda z: losses(z, labels, 0.6), (logits,))
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses(logits, labels, 1.0), expected)


def test_the_loss_behind_a_transition_by_hand() -> None:
    """p^T T = (0.8 x 0.9 + 0.2 x 0.3, 0.8 x 0.1 + 0.2 x 0.7); a known label is taken as it is."""
    transition = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    known = torch.tensor([False, False])
    losses = transition_losses(FOUR_FIFTHS, LABELS, transition, known)
    assert losses.tolist() == approx([-LOG(0.78), -LOG(0.22)])
    assert transition_losses(FOUR_FIFTHS, LABELS, transition, ~known).tolist() == approx([LOG(1.25), LOG(5)])


def test_the_loss_behind_a_transition_has_its_gradients_and_none_that_is_no_number() -> None:
    logits, labels, known = random_logits(), torch.arange(6) % 4, torch.arange(6) < 2
    transition = random_logits(4).detach().softmax(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, t: transition_losses(z, labels, t, known), (logits, transition))
    identity = torch.eye(4, dtype=torch.float64)
    losses = transition_losses(logits, labels, identity, known)
    torch.testing.assert_close(losses, F.cross_entropy(logits, labels, reduction="none"))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient.isfinite().all()


def test_anchors_are_the_most_certain_samples_behind_those_that_are_dropped() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
    assert anchored_transition(probs, 0.0).tolist() == [probs[0].tolist(), probs[3].tolist()]
    assert anchored_transition(probs, 0.25).tolist() == [probs[1].tolist(), probs[2].tolist()]
    assert anchored_transition(probs[:1], 0.9).tolist() == [probs[0].tolist()] * 2


def test_gold_rows_are_means_of_predictions() -> None:
    probs = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])
    found = gold_transition(probs, torch.tensor([0, 0, 2]))
    torch.testing.assert_close(found, torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]]))


@pytest.mark.parametrize("name", ["forward", "glc"])
def test_corrections_take_the_matrix_of_the_evidence_and_begin_anew(name: str) -> None:
    labels, bought = torch.arange(24) % 3, torch.tensor([0, 1, 5])
    evidence = evidence_of(labels, bought)
    run = METHODS[name].begin(start_of(labels, method=METHODS[name], bought=bought, evidence=evidence))
    assert isinstance(run, TransitionRun)
    assert run.starts_anew
    if name == "forward":
        expected = anchored_transition(evidence.probs, 0.03)
    else:
        expected = gold_transition(evidence.probs[bought], labels[bought])
    assert torch.equal(run.transition, expected)
    assert run.is_bought.nonzero()[:, 0].tolist() == bought.tolist()


def test_the_layer_of_the_s_model_takes_gradient_steps(tiny_batches: Batches) -> None:
    """One step of the loop moves B by the rate times the gradient of the mean loss."""
    resolved = plan(epochs=1, batch_size=24, lr=0.5, momentum=0.0, weight_decay=0.0, augment="none")
    inputs, labels = tiny_batches.get(torch.arange(24))
    torch.manual_seed(0)
    net = EveryState()
    net.layers[4].p = 0.0  # type: ignore[assignment]  # no dropout
    logits = net.train()(inputs).detach()
    torch.manual_seed(0)
    net = EveryState()
    net.layers[4].p = 0.0  # type: ignore[assignment]
    state, _ = trained(METHODS["s-model"], net, tiny_batches, resolved)
    classes = logits.shape[1]
    before = torch.full((classes, classes), LOG(0.1 / (classes - 1)))
    before.fill_diagonal_(LOG(0.9)).requires_grad_()
    unknown = torch.zeros(24, dtype=torch.bool)
    loss = transition_losses(logits, labels, before.softmax(1), unknown).mean()
    (gradient,) = torch.autograd.grad(loss, before)
    run = state.method
    assert isinstance(run, SModelRun)
    torch.testing.assert_close(run.scores.detach(), before.detach() - 0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_mixtures_have_one_share_a_batch_in_inputs_and_targets() -> None:
    """Inputs that are their own one-hot targets stay so, with the same two shares in each row."""
    labels = torch.arange(12) % 4
    inputs = F.one_hot(labels, 4).float()
    model = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.eye_(model.weight)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    shares = set()
    for seed in range(20):
        forward = Forward(model, optimiser, Batch(inputs, labels), seed=seed)
        objective = METHODS["mixup"].begin(start_of(labels)).step(forward, None, torch.arange(12), 0.1)
        assert objective.targets is not None
        torch.testing.assert_close(forward.logits.detach(), objective.targets * 12)
        whole = objective.targets.sum(1) * 12
        torch.testing.assert_close(whole, torch.ones(12))
        partial = {round(float(value), 4) for value in (objective.targets * 12).flatten()} - {0.0, 1.0}
        assert len(partial) <= 2
        shares |= {max(partial)} if partial else set()
    assert len(shares) > 15
    assert max(shares) - min(shares) > 0.3


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("focal", "gamma=-1"),
        ("focal", "gamma=inf"),
        ("reed-soft", "beta=1.5"),
        ("reed-hard", "beta=nan"),
        ("s-model", "smoothing=0"),
        ("forward", "dropped=1"),
        ("mixup", "alpha=0"),
    ],
)
def test_options_outside_their_range_are_refused(name: str, pair: str) -> None:
    with pytest.raises(UsageError, match=f"--option {pair.split('=')[0]}="):
        configure(REWEIGHTERS[name], [pair])
