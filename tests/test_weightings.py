"""The methods that weigh or draw samples by a rule: by hand, by counting, and at the ends of their options."""

import math

import pytest
import torch
from data_makers import METHODS, EveryState, plan, start_of, trained
from torch import nn

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.base import Labels
from metaselect.reweighting.bought_only import BoughtOnlyRun
from metaselect.reweighting.weighting.class_frequency import effective_number_weights
from metaselect.reweighting.weighting.hard_mining import hard_weights
from metaselect.reweighting.weighting.oracle import oracle_weights
from metaselect.reweighting.weighting.random import rectified_weights
from metaselect.reweighting.weighting.resample import balanced_order
from metaselect.reweighting.weighting.self_paced import MentorNetRun, Threshold, curriculum
from metaselect.training.batches import Batches


def forward_of(labels: torch.Tensor, seed: int = 0) -> Forward:
    """A pass of two features a sample through a linear model of zeros: every loss is log K."""
    model = nn.Linear(2, int(labels.max()) + 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    return Forward(model, optimiser, Batch(torch.ones(len(labels), 2), labels), seed=seed)


def weights_of(name: str, labels: torch.Tensor, *options: str, seed: int = 0) -> torch.Tensor:
    run = configure(REWEIGHTERS[name], options).begin(start_of(labels))
    weights: torch.Tensor = run.step(forward_of(labels, seed), None, torch.arange(len(labels)), 0.1).weights
    return weights


def test_random_weights_are_rectified_normals() -> None:
    found = rectified_weights(torch.tensor([1.0, -5.0, 3.0]))
    assert found.tolist() == [0.25, 0, 0.75]
    assert rectified_weights(torch.tensor([-1.0, -2.0])).tolist() == [0.5, 0.5]
    labels = torch.zeros(4000, dtype=torch.int64)
    one, other = (weights_of("random", labels, seed=seed) for seed in (1, 2))
    assert one.sum() == pytest.approx(1, rel=1e-5)
    assert (one == 0).double().mean() == pytest.approx(0.5, abs=0.05)
    # E z^2 / (E z)^2 of a rectified normal is pi.
    assert float(one.square().mean() / one.mean() ** 2) == pytest.approx(math.pi, rel=0.1)
    assert not torch.equal(one, other)
    assert torch.equal(one, weights_of("random", labels, seed=1))


ORACLE_LABELS = Labels(torch.tensor([0, 0, 0, 0, 1, -1]), 3, torch.tensor([0, 1, 2, 4]), torch.tensor([1]))
"""The fourth is not trained on, and the last has no label."""


def test_oracle_weights_by_hand() -> None:
    """Of the samples with label 0 that are trained on, one of three is right; the truth of the third is not known."""
    truth = torch.tensor([0, 2, -1, 0, 1, -1])
    assert oracle_weights(ORACLE_LABELS, truth, by_class=False).tolist() == [1, 0, 0, 1, 1, 0]
    found = oracle_weights(ORACLE_LABELS, truth, by_class=True)
    assert found.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 3, 1, 0])


@pytest.mark.parametrize(("classes", "rate"), [(4, 0.5), (5, 0.25)])
def test_oracle_weights_of_background_noise_follow_the_formula(classes: int, rate: float) -> None:
    """(1/K) / (r + (1 - r)/K) for the background, 1 for all others."""
    truth = torch.arange(classes * 40) % classes
    wrong = torch.arange(len(truth)) // classes < rate * 40
    labels = Labels(torch.where(wrong, 0, truth), classes, torch.arange(len(truth)), torch.arange(0))
    found = oracle_weights(labels, truth, by_class=True)
    share = (1 / classes) / (rate + (1 - rate) / classes)
    assert found[labels.given == 0].tolist() == pytest.approx([share] * int((labels.given == 0).sum()))
    assert found[labels.given > 0].min() == 1


def test_oracle_weights_of_a_batch_sum_to_one_or_are_all_zero() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    for truth, expected in (([0, 1, 0, 1], [0.5, 0.5, 0, 0]), ([1, 2, 0, 1], [0.0] * 4)):
        start = start_of(labels)._replace(truth=torch.tensor(truth))
        step = METHODS["weighted"].begin(start).step(forward_of(labels), None, torch.arange(4), 0.1)
        assert step.weights.tolist() == expected


def test_proportion_gives_each_class_the_same_sum() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    weights = weights_of("proportion", labels)
    assert weights.tolist() == pytest.approx([1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 6, 1 / 6])


def test_effective_numbers_by_hand() -> None:
    """With beta = 1/2, 1, 2 and 3 samples count as 1, 1.5 and 1.75; the mean over the classes is 1."""
    found = effective_number_weights(torch.tensor([1.0, 2.0, 3.0, 0.0]), 0.5)
    inverse = [1, 1 / 1.5, 1 / 1.75]
    assert found.tolist() == pytest.approx([3 * each / sum(inverse) for each in inverse] + [0])


def test_effective_numbers_go_from_equal_weights_to_inverse_frequencies() -> None:
    counts = torch.tensor([10.0, 1000.0])
    assert effective_number_weights(counts, 0.0).tolist() == [1, 1]
    found = effective_number_weights(counts, 1 - 1e-9)
    assert float(found[0] / found[1]) == pytest.approx(100, rel=1e-3)
    labels = torch.tensor([0, 0, 0, 1])
    factors = effective_number_weights(torch.tensor([3.0, 1.0]), 0.999)
    assert torch.allclose(weights_of("class-balanced", labels), factors[labels] / 4)


def test_every_round_has_each_class_once() -> None:
    labels = torch.tensor([0] * 90 + [1] * 9 + [3])
    ids = 1000 + torch.randperm(100, generator=torch.Generator().manual_seed(0))
    order = balanced_order(ids, labels, torch.Generator().manual_seed(1))
    label_of = dict(zip(ids.tolist(), labels.tolist(), strict=True))
    drawn = [label_of[each] for each in order.tolist()]
    assert len(drawn) == 100
    assert all(sorted(drawn[start : start + 3]) == [0, 1, 3] for start in range(0, 99, 3))
    assert len({each for each in order.tolist() if label_of[each] == 1}) == 9  # 33 draws of 9
    assert not torch.equal(order, balanced_order(ids, labels, torch.Generator().manual_seed(2)))


def test_hard_samples_of_the_largest_class_by_hand() -> None:
    losses = torch.tensor([0.1, 0.9, 0.5, 0.3, 7.0, 0.0])
    largest = torch.tensor([True, True, True, True, False, False])
    assert hard_weights(losses, largest, 1).tolist() == [0, 0.25, 0.25, 0, 0.25, 0.25]
    assert hard_weights(losses, largest, 2).tolist() == pytest.approx([0, 1 / 3, 0, 0, 1 / 3, 1 / 3])
    assert hard_weights(losses[:4], largest[:4], 1).tolist() == [0, 1, 0, 0]  # none of the others is here
    assert hard_weights(losses[4:], largest[4:], 1).tolist() == [0.5, 0.5]
    equal = hard_weights(torch.zeros(6), largest, 1)
    assert equal.tolist() == [0.25, 0.25, 0, 0, 0.25, 0.25]


def test_the_threshold_is_a_running_mean_of_percentiles() -> None:
    threshold = Threshold(0.5, 0.75, torch.device("cpu"))
    assert float(threshold.moved(torch.tensor([0.0, 1.0, 2.0]))) == 1
    assert float(threshold.moved(torch.tensor([4.0, 5.0, 6.0]))) == 0.75 * 1 + 0.25 * 5


def test_self_paced_weighs_the_samples_below_the_threshold() -> None:
    """All losses are equal, so all are at the percentile; a run that has seen smaller ones takes none."""
    labels = torch.tensor([0, 1, 2])
    assert weights_of("self-paced", labels).tolist() == pytest.approx([1 / 3] * 3)
    run = METHODS["self-paced"].begin(start_of(labels))
    run.load_state_dict({"threshold": torch.tensor(0.1)})
    assert run.step(forward_of(labels), None, torch.arange(3), 0.1).weights.tolist() == [0, 0, 0]


def test_the_curriculum_by_hand() -> None:
    losses, threshold = torch.tensor([0.0, 1.0, 1.5, 2.5]), torch.tensor(1.0)
    assert curriculum(losses, threshold, 0.1).tolist() == [1, 1, 1, 1]
    assert curriculum(losses, threshold, 0.5).tolist() == [1, 1, 0, 0]
    assert curriculum(losses, threshold, 0.95).tolist() == [1, 1, 0.5, 0]


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.5), (17, 0.95), (18, 0.95), (95, 0.95)])
def test_mentornet_leaves_out_samples_at_random(epoch: int, share: float) -> None:
    labels = torch.arange(4000) % 2
    run = METHODS["mentornet"].begin(start_of(labels, epochs=100))
    assert isinstance(run, MentorNetRun)
    run.epoch_end(epoch)
    weights = run.step(forward_of(labels), None, torch.arange(4000), 0.1).weights * 4000
    assert set(weights.tolist()) <= {0, 1}
    assert weights.mean() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("name", "anew"), [("finetune", False), ("clean-only", True)])
def test_bought_samples_alone_are_trained_on(name: str, anew: bool, tiny_batches: Batches) -> None:
    """Whatever the other labels are, the model is the same; and each epoch has as many samples as the pool."""
    bought = torch.tensor([2, 3, 11])
    run = METHODS[name].begin(start_of(tiny_batches.labels, bought=bought))
    assert isinstance(run, BoughtOnlyRun)
    assert run.starts_anew == anew
    order = run.order(torch.arange(24), torch.Generator().manual_seed(0)).tolist()
    assert [sorted(order[start : start + 3]) for start in range(0, 24, 3)] == [[2, 3, 11]] * 8
    others = tiny_batches.labels.clone()
    others[[0, 1, 5, 20]] = (others[[0, 1, 5, 20]] + 1) % (int(others.max()) + 1)
    ends = []
    for batches in (tiny_batches, tiny_batches.relabelled(others.numpy())):
        torch.manual_seed(0)
        state, _ = trained(METHODS[name], EveryState(), batches, plan(epochs=2), bought=bought)
        ends.append(state.model.state_dict())
    assert all(torch.equal(ends[0][each], ends[1][each]) for each in ends[0])


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("class-balanced", "beta=1"),
        ("self-paced", "percentile=0"),
        ("self-paced", "decay=1"),
        ("mentornet", "percentile=1.1"),
    ],
)
def test_options_outside_their_range_are_refused(name: str, pair: str) -> None:
    with pytest.raises(UsageError, match=f"--option {pair.split('=')[0]}="):
        configure(REWEIGHTERS[name], [pair])
