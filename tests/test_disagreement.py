"""The selector disagreement: its score against brute force, and what it buys on pools where the answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.registry import SELECTORS, configure
from metaselect.selection.base import Choice, PoolFeatures
from metaselect.selection.disagreement import head_probs, jensen_shannon

NONE = torch.empty(0, dtype=torch.int64)


def blobs(sizes: tuple[int, ...], spread: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 8) rows around the axes, of any length, and the class of each."""
    draw = torch.Generator().manual_seed(1)
    classes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows = torch.eye(8)[classes] + spread * torch.randn(len(classes), 8, generator=draw)
    return rows * (0.5 + torch.rand(len(classes), 1, generator=draw)), classes


def choose(
    rows: torch.Tensor,
    given: torch.Tensor,
    budget: int,
    bought: torch.Tensor = NONE,
    bought_labels: torch.Tensor | None = None,
    *options: str,
) -> Choice:
    pool = PoolFeatures((), (rows,), given, bought_labels=bought_labels)
    method = configure(SELECTORS["disagreement"], options)
    found: Choice = method.choose(pool, budget, bought, torch.Generator().manual_seed(3))
    return found


def entropy_of(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in row if p > 0)


def test_jensen_shannon_by_hand() -> None:
    """Of views that agree 0; of one-hot rows that all differ log T; between them, entropies written out."""
    draw = torch.Generator().manual_seed(0)
    views = [torch.randn(5, 3, generator=draw).softmax(1) for _ in range(3)]
    found = jensen_shannon(views)
    for i in range(5):
        rows = [view[i].tolist() for view in views]
        mean = [sum(column) / 3 for column in zip(*rows, strict=True)]
        expected = entropy_of(mean) - sum(map(entropy_of, rows)) / 3
        assert float(found[i]) == pytest.approx(expected, abs=1e-6)
    assert jensen_shannon([views[0], views[0]]).max() < 1e-6
    one, two = F.one_hot(torch.tensor([0]), 3).float(), F.one_hot(torch.tensor([2]), 3).float()
    assert float(jensen_shannon([one, two])) == pytest.approx(math.log(2))


def test_the_head_is_a_logistic_regression_and_gives_classes_without_a_label_nothing() -> None:
    rows, classes = blobs((12, 12, 12, 12), spread=0.4)
    unit = F.normalize(rows)
    labelled = torch.tensor([0, 3, 12, 15, 16, 40, 41])
    found = head_probs(unit, labelled, classes[labelled], 5)
    twin = LogisticRegression(C=30.0, tol=1e-8, max_iter=10_000).fit(unit[labelled], classes[labelled])
    assert twin.classes_.tolist() == [0, 1, 3]
    np.testing.assert_allclose(found[:, [0, 1, 3]], twin.predict_proba(unit), atol=2e-3)
    assert not found[:, [2, 4]].any()


def test_a_class_that_was_never_bought_comes_first() -> None:
    """The head knows two of three classes; of the third, the neighbours and the given labels speak."""
    rows, classes = blobs((40, 40, 40))
    bought = torch.tensor([0, 1, 40, 41])
    choice = choose(rows, classes, 4, bought, classes[bought], "share=0.3")
    assert set(classes[choice.ranked].tolist()) == {2}


def test_wrong_labels_are_bought_where_head_and_neighbours_contradict_them() -> None:
    rows, classes = blobs((40, 40, 40))
    given = classes.clone()
    wrong = torch.tensor([7, 22, 49, 58, 90, 111])
    given[wrong] = (given[wrong] + 1) % 3
    bought = torch.tensor([0, 1, 40, 41, 80, 81])
    choice = choose(rows, given, 6, bought, classes[bought], "share=0.05")
    assert set(choice.ranked.tolist()) == set(wrong.tolist())
    assert set(choice.similarity.topk(6).indices.tolist()) == set(wrong.tolist())


def test_the_head_counters_a_wrong_majority() -> None:
    """In a class of mostly wrong labels, samples with the right one are as suspect to a vote; the head knows better."""
    rows, classes = blobs((30, 30, 30))
    given = (classes + 1) % 3  # all wrong
    right = torch.tensor([4, 35, 71])
    given[right] = classes[right]
    bought = torch.tensor([0, 30, 60])
    scores = choose(rows, given, 3, bought, classes[bought]).similarity
    votes_alone = choose(rows, given, 3).similarity
    others = torch.ones(90, dtype=torch.bool)
    others[torch.cat([right, bought])] = False
    assert votes_alone[right].min() > votes_alone[others].max() + 0.3
    # With the head, every sample has two views against one.
    assert (scores[right].mean() - scores[others].mean()).abs() < 0.15


def test_bought_labels_replace_the_given_ones_among_the_neighbours() -> None:
    """Half of a class was bought and is of another one; one class alone was bought, so that there is no head."""
    rows, classes = blobs((20, 20))
    bought = torch.arange(10)
    plain, changed = (
        choose(rows, classes, 2, bought, torch.full((10,), label)).similarity for label in (0, 1)
    )
    assert plain[10:20].max() < 1e-6
    assert changed[10:20].mean() > 0.1
    torch.testing.assert_close(changed[20:], plain[20:])


def test_samples_without_an_answer_have_no_part_in_the_head() -> None:
    rows, classes = blobs((20, 20, 20), spread=0.3)
    bought = torch.tensor([0, 20, 40, 41])
    labels = classes[bought].clone()
    labels[3] = -1
    with_unusable = choose(rows, classes, 5, bought, labels)
    without = choose(rows, classes, 5, bought[:3], labels[:3])
    assert with_unusable.details["labels_of_the_head"] == 3
    torch.testing.assert_close(with_unusable.similarity, without.similarity)
    assert not set(with_unusable.ranked.tolist()) & set(bought.tolist())


def test_a_sample_without_a_label_has_an_even_view_of_it() -> None:
    rows, classes = blobs((10, 10, 10))
    given = classes.clone()
    given[3] = -1
    views = [[1 / 3] * 3, [1.0, 0.0, 0.0]]  # all its neighbours are of its class
    mean = [sum(column) / 2 for column in zip(*views, strict=True)]
    expected = entropy_of(mean) - sum(map(entropy_of, views)) / 2
    assert float(choose(rows, given, 4).similarity[3]) == pytest.approx(expected, abs=1e-6)
    none_given = torch.full_like(given, -1)
    for bought in (NONE, torch.tensor([0]), torch.tensor([0, 10])):
        picks = choose(rows, none_given, 4, bought, classes[bought]).ranked.tolist()
        assert len({*picks, *bought.tolist()}) == 4 + len(bought)


def test_the_picks_are_spread_over_the_clusters_of_the_suspects() -> None:
    """Of 12 wrong labels in four tight groups, one of each group is bought, though scores tie."""
    rows, classes = blobs((40, 40, 40, 40), spread=0.02)
    given = classes.clone()
    wrong = torch.tensor([1, 2, 3, 41, 42, 43, 81, 82, 83, 121, 122, 123])
    given[wrong] = (given[wrong] + 1) % 4
    bought = torch.tensor([0, 40, 80, 120])
    choice = choose(rows, given, 4, bought, classes[bought], "share=0.077")
    assert choice.details["clustered"] == 12
    assert sorted(classes[choice.ranked].tolist()) == [0, 1, 2, 3]
    assert set(choice.ranked.tolist()) <= set(wrong.tolist())


def test_around_a_wrong_bought_label_more_is_bought_and_no_class_is_left_out() -> None:
    """One of 20 answers is wrong: what looks like it contradicts it, which is where the next labels help."""
    rows, classes = blobs((60, 60, 60, 60), spread=0.2)
    bought = torch.cat([torch.arange(5) + 60 * number for number in range(4)])
    labels = classes[bought].clone()
    right = choose(rows, classes, 12, bought, labels)
    labels[7] = 3  # of class 1
    found = choose(rows, classes, 12, bought, labels)
    means = [
        [float(each.similarity[classes == number].mean()) for number in range(4)] for each in (right, found)
    ]
    assert means[1][1] > 2 * means[0][1]
    assert means[1][1] > 2 * max(means[1][0], means[1][2], means[1][3])
    counts = [torch.bincount(classes[each.ranked], minlength=4) for each in (right, found)]
    assert counts[1][1] > counts[0][1]
    assert counts[1].min() > 0


@pytest.mark.parametrize("option", ["share=0", "share=1.5", "starts=0", "share=half"])
def test_bad_options_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match="--option"):
        configure(SELECTORS["disagreement"], [option])
