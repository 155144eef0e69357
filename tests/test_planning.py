"""Hypotheses, simulated purchases and forecasts, against closed forms and pools whose truth is known."""

import csv
from itertools import permutations
from math import sqrt
from pathlib import Path

import pytest
import torch
from noisy_clusters import Pool, pool, stream

from metaselect.planning.forecast import (
    RISK,
    WORTH,
    Draw,
    Estimate,
    Row,
    Z,
    estimate,
    forecast,
    quantile,
    worth_buying,
)
from metaselect.planning.hypotheses import (
    AS_GIVEN,
    BOUGHT,
    PLAUSIBLE,
    SWAPPED,
    Hypothesis,
    hypotheses,
    swapped_classes,
)
from metaselect.planning.measured import MEASURED, errors_at
from metaselect.planning.purchases import Known, Scores, learn, simulate
from metaselect.reweighting.auto.label_model import FitSize
from metaselect.reweighting.auto.transition import symmetric_transition

SIZE = FitSize(rows=300, cross_rows=200, folds=2, folds_of_many=2)
NONE = torch.empty(0, dtype=torch.int64)
SHIFT = torch.roll(torch.eye(4), 1, 1)  # every class is given as the next one


def found(data: Pool, count: int = 0) -> list[Hypothesis]:
    bought = data.bought[:count]
    return hypotheses(data.evidence, bought, data.true[bought], SIZE, stream())


def simulated(data: Pool, hypothesis: Hypothesis, counts: tuple[int, ...], seed: int = 0) -> Scores:
    order = torch.randperm(len(data.true), generator=torch.Generator().manual_seed(3))[: counts[-1]]
    generator = torch.Generator().manual_seed(seed)
    return simulate(data.evidence, hypothesis, Known(NONE, NONE, order), counts, SIZE, generator)


def test_swapped_classes_are_the_best_permutation() -> None:
    """By brute force over all permutations; and the odds by hand."""
    for seed in range(20):
        draw = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)) ** 3 + torch.eye(4)
        transition = draw / draw.sum(1, keepdim=True)

        def score(order: tuple[int, ...], transition: torch.Tensor = transition) -> float:
            shares = [transition[k, j] * (PLAUSIBLE if k == j else 1) for k, j in enumerate(order)]
            return float(torch.stack(shares).double().log().sum())

        best = max(permutations(range(4)), key=score)
        order, odds = swapped_classes(transition)
        assert order.tolist() == list(best)
        moved = [k for k in range(4) if best[k] != k]
        ratios = [float(transition[k, best[k]] / transition[k, k]) for k in moved]
        expected = torch.tensor(ratios).prod() ** (1 / len(ratios)) if moved else torch.tensor(0.0)
        assert odds == pytest.approx(min(float(expected), 1.0), rel=1e-5)


def test_only_a_frequent_other_label_may_be_the_right_one() -> None:
    order, odds = swapped_classes(0.6 * torch.eye(4) + 0.4 * SHIFT)
    assert order.tolist() == [1, 2, 3, 0]
    assert odds == pytest.approx(2 / 3)
    for transition in (torch.eye(4), symmetric_transition(0.4, 4), 0.8 * torch.eye(4) + 0.2 * SHIFT):
        order, odds = swapped_classes(transition)
        assert (order.tolist(), odds) == ([0, 1, 2, 3], 0.0)
    # Two classes may have changed places, though the others did not.
    pair = torch.eye(4)
    pair[:2, :2] = torch.tensor([[0.6, 0.4], [0.4, 0.6]])
    assert swapped_classes(pair)[0].tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize("noise", ["none", "uniform 10", "uniform 40"])
def test_a_pool_with_a_majority_of_right_labels_has_one_hypothesis(noise: str) -> None:
    data = pool(noise, n=600, classes=4)
    (only,) = found(data)
    assert (only.name, only.weight) == (AS_GIVEN, 1.0)
    assert float((only.probs.argmax(1) == data.true).float().mean()) > 0.98
    right = only.classes(data.evidence.given).gather(1, data.evidence.given[:, None]).mean()
    assert float(right) == pytest.approx(float((data.evidence.given == data.true).float().mean()), abs=0.05)


def test_labels_that_may_be_wrong_in_most_samples_have_two_and_bought_ones_decide() -> None:
    data = pool("shift 60", n=600, classes=4)
    first, second = found(data)
    assert [first.name, second.name] == [AS_GIVEN, SWAPPED]
    assert first.weight + second.weight == pytest.approx(1)
    assert 0.3 < second.weight < 0.5  # odds of about 0.4 to 0.6
    assert float((first.probs.argmax(1) == data.true).float().mean()) < 0.02
    assert float((second.probs.argmax(1) == data.true).float().mean()) > 0.98
    # The truth is the second one here, the first where the bought labels are as the groups' most frequent ones.
    (decided,) = found(data, 5)
    assert (decided.name, decided.weight) == (SWAPPED, 1.0)
    bought = data.bought[:5]
    others = hypotheses(data.evidence, bought, first.probs.argmax(1)[bought], SIZE, stream())
    assert [each.name for each in others] == [AS_GIVEN]


def test_bought_labels_are_followed_where_groups_of_given_ones_say_nothing() -> None:
    """Given labels at random: only bought ones know the classes."""
    data = pool("none", n=600, classes=4, bought=60)
    at_random = torch.randint(4, (600,), generator=stream())
    evidence = data.evidence._replace(given=at_random, probs=torch.full((600, 4), 0.25))
    found = hypotheses(evidence, data.bought, data.true[data.bought], SIZE, stream())
    assert [each.name for each in found] == [BOUGHT]
    assert float((found[0].probs.argmax(1) == data.true).float().mean()) > 0.95


def test_clean_labels_gain_nothing() -> None:
    data = pool("none", n=300)
    (only,) = found(data)
    scores = simulated(data, only, (0, 12, 40))
    assert min(scores.accuracy + scores.right) > 0.97
    assert scores.corrects == [False, False, False]
    rows = forecast([Draw(1.0, scores.accuracy, scores.right)], (0, 12, 40), 0)
    assert worth_buying(rows).labels == 0


def test_separable_classes_with_wrong_labels_are_repaired_and_more_labels_are_never_worse() -> None:
    data = pool("uniform 40", n=400, classes=4)
    (only,) = found(data)
    counts = (0, 5, 15, 60)
    draws = [simulated(data, only, counts, seed) for seed in range(3)]
    for scores in draws:
        assert scores.right[0] == pytest.approx(0.6, abs=0.1)
        assert scores.right[1] == pytest.approx(scores.right[0], abs=1e-6)  # too few to correct by
        assert scores.accuracy[-1] > 0.97
        assert scores.right[-1] > 0.97
        assert all(
            later > earlier - 0.02 for earlier, later in zip(scores.right, scores.right[1:], strict=False)
        )
    rows = forecast([Draw(1 / 3, each.accuracy, each.right) for each in draws], counts, 0)
    assert worth_buying(rows).labels == 60  # the means are as good at 15, whose measured error is far larger


def test_few_labels_leave_everything_as_it_is() -> None:
    data = pool("uniform 40", bought=5)
    learnt = learn(data.evidence, data.bought, data.true[data.bought], SIZE, stream())
    assert not learnt.corrects
    assert torch.equal(learnt.predicted, data.evidence.probs.argmax(1))
    expected = data.evidence.given.clone()
    expected[data.bought] = data.true[data.bought]
    assert torch.equal(learnt.labels, expected)


def test_bought_labels_are_kept_in_a_draw_and_not_judged() -> None:
    """All but two samples are bought with labels that no hypothesis would draw."""
    data = pool("none", n=60, classes=3)
    bought = torch.arange(58)
    known = Known(bought, (data.true[bought] + 1) % 3, torch.tensor([58]))
    sure = Hypothesis(AS_GIVEN, 1.0, torch.nn.functional.one_hot(data.true, 3).float(), torch.eye(3))
    scores = simulate(data.evidence, sure, known, (0,), SIZE, stream())
    assert scores.accuracy[0] in (0.0, 1.0)  # of the last sample alone


@pytest.mark.slow
def test_the_intervals_cover_what_the_model_itself_generates() -> None:
    """Limits of 6 draws hold a seventh one with probability 5/7: 8.6 of 12, with a standard deviation of 1.6."""
    data = pool("uniform 40", n=200, classes=4, apart=3.5)
    only = found(data)[0]
    counts = (0, 14)
    draws = [Draw(1 / 6, *simulated(data, only, counts, seed)[:2]) for seed in range(6)]
    rows = [
        (
            estimate([d.accuracy[i] for d in draws], [1.0] * 6, 0),
            estimate([d.right[i] for d in draws], [1.0] * 6, 0),
        )
        for i in range(2)
    ]
    inside = [0, 0]
    for seed in range(100, 112):
        scores = simulated(data, only, counts, seed)
        inside[0] += rows[1][0].low <= scores.accuracy[1] <= rows[1][0].high
        inside[1] += rows[0][1].low <= scores.right[0] <= rows[0][1].high
    assert min(inside) >= 5


def test_the_same_generator_gives_the_same_scores() -> None:
    data = pool("shift 60", n=150)
    one, two = found(data), found(data)
    assert [each.name for each in one] == [each.name for each in two]
    assert all(torch.equal(a.probs, b.probs) for a, b in zip(one, two, strict=True))
    assert simulated(data, one[0], (0, 12)) == simulated(data, two[0], (0, 12))


def test_quantiles_and_intervals_by_hand() -> None:
    values, weights = [0.4, 0.1, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]
    assert [quantile(values, weights, share) for share in (0.01, 0.25, 0.5, 0.51, 1.0)] == [
        0.1,
        0.1,
        0.2,
        0.3,
        0.4,
    ]
    assert quantile([1.0, 2.0], [3.0, 1.0], 0.75) == 1.0
    assert quantile([1.0, 2.0], [3.0, 1.0], 0.76) == 2.0
    assert estimate([0.5], [1.0], 0) == Estimate(0.5, 0.5, 0.5)
    assert estimate([0.5], [1.0], 0.1) == pytest.approx((0.5, 0.5 - Z * 0.1, 0.5 + Z * 0.1))
    low, high = 0.5 - sqrt(0.1**2 + (Z * 0.02) ** 2), 0.5 + sqrt(0.1**2 + (Z * 0.02) ** 2)
    assert estimate([0.4, 0.6], [1.0, 1.0], 0.02) == pytest.approx((0.5, low, high))
    assert estimate([0.02, 0.98], [0.5, 0.5], 0.5) == Estimate(0.5, 0.0, 1.0)
    assert estimate([-0.2, 0.2], [1, 1], 0, low=-1.0) == pytest.approx((0.0, -0.2, 0.2))


def test_a_forecast_is_of_paired_draws_and_widened_by_the_measured_errors() -> None:
    draws = [Draw(0.75, (0.5, 0.7), (0.6, 0.9)), Draw(0.25, (0.9, 0.9), (0.9, 0.9))]
    start, later = forecast(draws, (0, 20), 0)
    assert start.accuracy.mean == pytest.approx(0.6)
    assert start.accuracy_gain == Estimate(0, 0, 0)
    assert later.accuracy_gain.mean == pytest.approx(0.15)
    assert later.right_gain.mean == pytest.approx(0.75 * 0.3)
    errors, gain = errors_at(20), errors_at(20).with_start(errors_at(0))
    assert gain.right == pytest.approx(sqrt(errors_at(0).right ** 2 + errors.right**2))
    assert later.right_gain.high - later.right_gain.mean == pytest.approx(
        sqrt(0.075**2 + (Z * gain.right) ** 2)
    )
    assert later.accuracy.low == pytest.approx(
        max(later.accuracy.mean - sqrt(0.05**2 + (Z * errors.accuracy) ** 2), 0)
    )


def test_the_measured_errors_are_those_of_the_benchmarks_table() -> None:
    table = Path(__file__).resolve().parents[1] / "benchmarks/plan.csv"
    with table.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["start"] == "warm-up"]
    assert {int(row["labels"]) for row in rows} == set(MEASURED)
    for labels, errors in MEASURED.items():
        for name, error in errors._asdict().items():
            of = [row for row in rows if int(row["labels"]) == labels]
            squares = [(float(row[name]) - float(row[f"{name}_reached"])) ** 2 for row in of]
            assert error == pytest.approx(sqrt(sum(squares) / len(squares)), abs=0.00051)


def test_errors_are_those_of_the_next_smaller_number_of_labels() -> None:
    assert errors_at(0) == MEASURED[0]
    assert errors_at(19) == MEASURED[10]
    assert errors_at(20) == MEASURED[20]
    assert errors_at(5000) == MEASURED[100]


@pytest.mark.parametrize(
    ("accuracies", "rights", "labels"),
    [
        ((0.5, 0.5, 0.5), (0.9, 0.9, 0.9), 0),
        ((0.5, 0.5 + WORTH / 2, 0.5 + WORTH / 2), (0.9, 0.9, 0.9), 0),
        ((0.5, 0.6, 0.6 + WORTH / 2), (0.9, 0.9, 0.9), 10),
        ((0.5, 0.6, 0.62), (0.9, 0.9, 0.9), 20),
        ((0.5, 0.4, 0.3), (0.9, 0.8, 0.7), 0),
        ((0.9, 0.9, 0.9), (0.6, 0.95, 0.95), 10),
    ],
)
def test_the_fewest_labels_close_to_the_best_are_worth_it(
    accuracies: tuple[float, ...], rights: tuple[float, ...], labels: int
) -> None:
    nothing = Estimate(0, 0, 0)
    rows = [
        Row(count, Estimate(a, a, a), Estimate(r, r, r), nothing, nothing)
        for count, a, r in zip((0, 10, 20), accuracies, rights, strict=True)
    ]
    assert worth_buying(rows).labels == labels


def test_a_mean_that_may_be_far_off_is_no_reason_to_stop() -> None:
    nothing, sure = Estimate(0, 0, 0), Estimate(0.98, 0.95, 1)
    start, unsure = Estimate(0.6, 0.5, 0.7), Estimate(0.975, 0.95 - 2 * RISK, 1)
    rows = [
        Row(count, accuracy, accuracy, nothing, nothing)
        for count, accuracy in ((0, start), (10, unsure), (20, sure))
    ]
    assert worth_buying(rows).labels == 20
    assert worth_buying([rows[0]._replace(accuracy=unsure, right=unsure), *rows[1:]]).labels == 0
    apart = [rows[0], Row(5, sure, start, nothing, nothing), Row(9, start, sure, nothing, nothing)]
    assert worth_buying(apart).labels in (5, 9)
