"""FSR's arithmetic on tensors: the virtual step in closed form, soft targets, pushers, the dictionary."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from metaselect.models.build import build_model
from metaselect.reweighting.fsr.dictionary import balanced_batch, best_of_each_class, slots
from metaselect.reweighting.fsr.last_layer import (
    Features,
    Layer,
    LookAhead,
    VirtualStep,
    buffers_of,
    layer_of,
    look_ahead,
    relu_weights,
    shifted_weights,
)
from metaselect.reweighting.fsr.pushers import PUSHERS, History, Visit, pusher_for
from metaselect.reweighting.soft_targets import (
    mixed,
    mixing_factors,
    pseudo_labels,
    renewed,
    smoothed,
    soft_cross_entropy,
)

CPU = torch.device("cpu")
WIDTH, CLASSES, COUNT, META = 5, 3, 6, 4
STEP = VirtualStep(0.3, 0.9, 0.05)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(count: int, seed: int) -> Features:
    return Features(drawn(count, WIDTH, seed=seed), drawn(count, CLASSES, seed=seed + 1).softmax(1))


BATCH, META_BATCH = features(COUNT, 1), features(META, 3)


def linear(bias: bool, seed: int = 5) -> Layer:
    return Layer(drawn(CLASSES, WIDTH, seed=seed), drawn(CLASSES, seed=seed + 1) if bias else None)


def virtual_by_autograd(layer: Layer, buffers: Layer | None, weights: torch.Tensor) -> list[torch.Tensor]:
    """The layer after a step of torch's own SGD rule (without Nesterov) on the weighted loss."""
    values = [value.clone().requires_grad_() for value in layer if value is not None]
    losses = soft_cross_entropy(F.linear(BATCH.hidden, *values), BATCH.targets)
    gradients = torch.autograd.grad((weights * losses).sum(), values)
    before = [torch.zeros_like(value) for value in values] if buffers is None else buffers
    return [
        (value - 0.3 * (0.9 * buffer + gradient + 0.05 * value)).detach()
        for value, gradient, buffer in zip(values, gradients, before, strict=False)
    ]


def meta_loss(layer: Layer, buffers: Layer | None, weights: torch.Tensor) -> torch.Tensor:
    ahead = virtual_by_autograd(layer, buffers, weights)
    return soft_cross_entropy(F.linear(META_BATCH.hidden, *ahead), META_BATCH.targets).mean()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("moved", [True, False])
def test_closed_form_equals_finite_differences(bias: bool, moved: bool) -> None:
    layer, buffers = linear(bias), linear(bias, 9) if moved else None
    look = look_ahead(layer, BATCH, META_BATCH, STEP, buffers)
    uniform = torch.full((COUNT,), 1 / COUNT, dtype=torch.float64)
    for sample in range(COUNT):
        nudge = torch.zeros(COUNT, dtype=torch.float64)
        nudge[sample] = 1e-5
        slope = (
            meta_loss(layer, buffers, uniform + nudge) - meta_loss(layer, buffers, uniform - nudge)
        ) / 2e-5
        assert float(look.g[sample]) == pytest.approx(float(slope), rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("bias", [True, False])
def test_losses_before_and_behind_the_virtual_step(bias: bool) -> None:
    layer, buffers = linear(bias), linear(bias, 9)
    look = look_ahead(layer, BATCH, META_BATCH, STEP, buffers)
    ahead = virtual_by_autograd(layer, buffers, torch.full((COUNT,), 1 / COUNT, dtype=torch.float64))
    torch.testing.assert_close(look.logits, F.linear(BATCH.hidden, *layer))
    torch.testing.assert_close(look.loss, soft_cross_entropy(look.logits, BATCH.targets))
    behind = soft_cross_entropy(F.linear(BATCH.hidden, *ahead), BATCH.targets)
    torch.testing.assert_close(look.loss_ahead, behind)


def test_the_layer_and_its_buffers_are_the_optimisers() -> None:
    module = nn.Linear(WIDTH, CLASSES)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    assert buffers_of(module, optimiser) is None
    module(torch.ones(2, WIDTH)).square().sum().backward()
    optimiser.step()
    buffers, layer = buffers_of(module, optimiser), layer_of(module)
    assert buffers is not None
    for name in ("weight", "bias"):
        assert torch.equal(getattr(buffers, name), getattr(module, name).grad)
        assert torch.equal(getattr(layer, name), getattr(module, name))
        assert not getattr(layer, name).requires_grad


def test_relu_weights_by_hand() -> None:
    g = torch.tensor([-3.0, 1.0, 0.0, -1.0])
    torch.testing.assert_close(relu_weights(g, 1.0), torch.tensor([3.0, 0, 0, 1]) / 4.00001)
    torch.testing.assert_close(relu_weights(g, 2.0), torch.tensor([6.0, 0, 0, 2]) / 8.00001)
    assert relu_weights(g.abs(), 1.0).tolist() == [0, 0, 0, 0]


def test_shifted_weights_by_hand() -> None:
    g = torch.tensor([-3.0, 1.0, 0.0, -1.0])
    torch.testing.assert_close(shifted_weights(g, 1.0), torch.tensor([4.25, 0.25, 1.25, 2.25]) / 8.00001)
    torch.testing.assert_close(shifted_weights(torch.ones(4), 1.0), torch.full((4,), 0.25), rtol=1e-4, atol=0)


def test_smoothed_labels_and_their_loss_are_torchs_own() -> None:
    logits, labels = drawn(4, CLASSES, seed=2).float(), torch.tensor([0, 2, 1, 1])
    for smoothing in (0.0, 0.1, 1.0):
        found = soft_cross_entropy(logits, smoothed(labels, CLASSES, smoothing))
        expected = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(found, expected)


def test_mixing_factors_are_the_folded_stand_in_for_beta() -> None:
    factors = mixing_factors(200_000, torch.Generator().manual_seed(1))
    assert factors.min() >= 0.5
    assert factors.max() <= 1
    assert float(factors.mean()) == pytest.approx(5 / 6, abs=1e-3)
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(factors, 1 - uniform.square() / 2)


def test_mixing_by_hand() -> None:
    values = torch.tensor([[[0.0, 4.0]], [[8.0, 0.0]]])
    found = mixed(values, torch.tensor([0.75, 0.5]), torch.tensor([1, 1]))
    assert found.tolist() == [[[2.0, 3.0]], [[8.0, 0.0]]]
    labels = mixed(torch.eye(2), torch.tensor([0.75, 0.5]), torch.tensor([1, 0]))
    assert labels.tolist() == [[0.75, 0.25], [0.5, 0.5]]


def test_relabelling_by_hand() -> None:
    kept = torch.tensor([[3.0, -1.0], [1.0, 1.0]])  # root mean square sqrt(12 / 4)
    torch.testing.assert_close(pseudo_labels(kept, 1.0), (kept / math.sqrt(3)).softmax(1))
    torch.testing.assert_close(pseudo_labels(kept, 0.5), (2 * kept / math.sqrt(3)).softmax(1))
    logits = torch.tensor([[10.0, 0.0], [0.0, 20.0]])
    torch.testing.assert_close(renewed(kept, logits, 0.1), 0.1 * kept / math.sqrt(3) + 0.9 * logits)
    unseen = torch.zeros(2, 4)
    assert torch.equal(pseudo_labels(unseen, 1.0), torch.full((2, 4), 0.25))
    torch.testing.assert_close(renewed(unseen, torch.ones(2, 4), 0.1), torch.full((2, 4), 0.9))


LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
LABELS = torch.tensor([0, 2])
PROBS = LOGITS.softmax(1)
VISIT = Visit(LOGITS, LABELS, torch.tensor([1.0, 4.0]), torch.tensor([0.5, 5.0]))
BY_HAND = {
    "meta-margin": torch.tensor([0.5, -1.0]),
    "negative-loss": torch.stack([PROBS[0, 0].log(), PROBS[1, 2].log()]),
    "max-margin": torch.stack([PROBS[0, 0] - PROBS[0, 2], PROBS[1, 1] - PROBS[1, 0]]),
}
IDS = torch.tensor([3, 1])


@pytest.mark.parametrize("pusher", BY_HAND)
def test_momentum_pushers_by_hand(pusher: str) -> None:
    history = History(5, pusher, 0.9, CPU)
    history.update(IDS, VISIT)
    torch.testing.assert_close(history.scores[IDS], 0.1 * BY_HAND[pusher])
    history.update(IDS, VISIT)
    torch.testing.assert_close(history.scores[IDS], 0.19 * BY_HAND[pusher])
    assert history.scores[[0, 2, 4]].tolist() == [0, 0, 0]
    assert history.visits.tolist() == [0, 2, 0, 2, 0]


def test_area_under_the_margin_is_a_running_mean() -> None:
    history = History(5, "area-under-margin", 0.9, CPU)
    history.update(IDS, VISIT)
    assert history.scores[IDS].tolist() == [1.0, -3.0]
    history.update(IDS, VISIT._replace(logits=LOGITS * 4))
    assert history.scores[IDS].tolist() == [2.5, -7.5]
    history.update(IDS, VISIT._replace(logits=LOGITS * 4))
    torch.testing.assert_close(history.scores[IDS], torch.tensor([3.0, -9.0]))


def test_forgetting_counts_falls_from_right_to_wrong() -> None:
    history = History(4, "forgetting", 0.9, CPU)
    # By sample: learnt and kept, forgotten twice, learnt late, never learnt.
    rights = ["1111111", "1010111", "0001111", "0000000"]
    for visit in range(7):
        right = torch.tensor([row[visit] == "1" for row in rights])
        logits = torch.where(right[:, None], torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        history.update(torch.arange(4), Visit(logits, torch.zeros(4, dtype=torch.int64), *torch.zeros(2, 4)))
    assert history.scores.tolist() == [0, -2, 0, -math.inf]


@pytest.mark.parametrize(("model", "pusher"), [("linear", "negative-loss"), ("mlp", "meta-margin")])
def test_the_pusher_is_that_of_the_model_by_default(model: str, pusher: str) -> None:
    assert pusher_for(build_model(model, (5,), 3, seed=0)) == pusher


def test_every_pusher_is_tested_by_hand() -> None:
    assert set(PUSHERS) == {*BY_HAND, "area-under-margin", "forgetting"}


def test_a_step_that_lowers_a_loss_gives_a_positive_margin() -> None:
    look: LookAhead = look_ahead(linear(True), BATCH, META_BATCH, VirtualStep(0.01), None)
    assert float(look.loss.mean()) > float(look.loss_ahead.mean())


def test_dictionary_update_by_hand() -> None:
    #                       0    1    2    3    4    5    6    7
    labels = torch.tensor([0, 1, 0, 1, 0, 2, 1, 0])
    scores = torch.tensor([0.1, 0.5, 0.9, 0.2, 0.9, -3.0, 0.5, 5.0])
    candidates = torch.arange(7)  # 7 was never visited
    found = best_of_each_class(scores, labels, candidates, torch.tensor([2, 2, 2]))
    assert found.tolist() == [2, 4, 1, 6, 5]  # the tie of 2 and 4 goes to the lower; class 2 is short
    found = best_of_each_class(scores, labels, candidates, torch.tensor([1, 0, 1]))
    assert found.tolist() == [2, 5]


@settings(max_examples=40)
@given(st.data())
def test_dictionary_is_the_best_of_all_choices(data: st.DataObject) -> None:
    """Eq. 4 by brute force, over every choice of two a class."""
    n = data.draw(st.integers(1, 7))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    scores = torch.tensor(data.draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n))).float()
    found = best_of_each_class(scores, labels, torch.arange(n), torch.tensor([2, 2, 2]))
    best = sum(
        max(
            sum(scores[list(choice)].tolist())
            for choice in itertools.combinations(members, min(2, len(members)))
        )
        for members in ([i for i in range(n) if labels[i] == label] for label in range(3))
    )
    assert float(scores[found].sum()) == best
    assert len(set(found.tolist())) == len(found)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(1, 40), st.integers(0, 99))
def test_reward_batches_are_balanced_over_the_classes_that_occur(
    classes: list[int], size: int, seed: int
) -> None:
    labels = torch.tensor(classes)
    members = torch.arange(len(classes)) * 10
    found = balanced_batch(members, labels, size, torch.Generator().manual_seed(seed))
    assert len(found) == size
    assert set(found.tolist()) <= set(members.tolist())
    drawn_labels = labels[found // 10].tolist()
    counts = [drawn_labels.count(label) for label in set(classes)]
    assert max(counts) - min(counts) <= 1
    for label in set(classes):
        uses = [found.tolist().count(10 * i) for i in range(len(classes)) if classes[i] == label]
        assert max(uses) - min(uses) <= 1  # nobody comes up twice before everybody came up once


def test_every_member_of_a_class_comes_up_alike() -> None:
    draw = torch.Generator().manual_seed(3)
    members, labels = torch.arange(6), torch.tensor([0, 0, 0, 0, 1, 1])
    counts = torch.zeros(6)
    for _ in range(3000):
        counts += torch.bincount(balanced_batch(members, labels, 3, draw), minlength=6)
    expected = torch.tensor([1.5 / 4] * 4 + [1.5 / 2] * 2) * 3000
    assert ((counts - expected).abs() < 150).all()


@pytest.mark.parametrize(
    ("size", "share", "classes", "trained", "each"),
    [(2000, 1.0, 10, 50_000, 200), (2000, 0.1, 10, 1437, 14), (25, 1.0, 10, 100, 2), (5, 1.0, 10, 100, 1)],
)
def test_slots(size: int, share: float, classes: int, trained: int, each: int) -> None:
    assert slots(size, share, classes, trained) == each
