"""The selector k-means against brute force: the member closest to the mean of its cluster, one of each."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from metaselect.errors import UsageError
from metaselect.registry import SELECTORS, configure
from metaselect.selection.base import Choice, PoolFeatures
from metaselect.selection.clustering import euclidean
from metaselect.selection.clustering.euclidean import cosines_with_centres

NONE = torch.empty(0, dtype=torch.int64)


def groups(sizes: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 6) rows of any length around orthogonal directions of either sign, and the group of each."""
    draw = torch.Generator().manual_seed(seed)
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    axes = torch.cat([torch.eye(6), -torch.eye(6)])[[0, 6, 1, 7, 2]]
    rows = axes[group] + 0.1 * torch.randn(len(group), 6, generator=draw)
    return rows * (0.1 + torch.rand(len(group), 1, generator=draw)), group


def choose(rows: torch.Tensor, budget: int, bought: torch.Tensor = NONE, seed: int = 3) -> Choice:
    pool = PoolFeatures((), (rows,), torch.zeros(len(rows), dtype=torch.int64))
    method = configure(SELECTORS["k-means"], [])
    found: Choice = method.choose(pool, budget, bought, torch.Generator().manual_seed(seed))
    return found


def by_cosine(rows: torch.Tensor, members: torch.Tensor) -> list[int]:
    """The members by falling cosine with the mean of their directions, sample by sample."""
    directions = [row / np.linalg.norm(row) for row in rows[members].double().numpy()]
    centre = np.mean(directions, 0)
    cosines = [float(row @ centre) for row in directions]
    return [int(members[i]) for i in np.argsort(-np.array(cosines), kind="stable")]


@pytest.mark.parametrize("products", [0, 2**33])
def test_the_member_closest_to_each_centre_the_largest_cluster_first(
    monkeypatch: pytest.MonkeyPatch, products: int
) -> None:
    """By mini-batches as well; opposite directions are clusters of their own."""
    monkeypatch.setattr(euclidean, "MAX_FULL_BATCH_PRODUCTS", products)
    rows, group = groups((12, 30, 9, 21, 15))
    choice = choose(rows, 5)
    middle = [by_cosine(rows, (group == number).nonzero()[:, 0])[0] for number in (1, 3, 4, 0, 2)]
    assert choice.ranked.tolist() == middle
    np.testing.assert_allclose(choice.mass[choice.cluster[choice.ranked]], np.array([30, 21, 15, 12, 9]) / 87)


@pytest.mark.parametrize("block", [7, 2**20])
def test_cosines_with_the_centres_by_hand(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(euclidean, "BLOCK_ENTRIES", block)
    unit = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [1, 0], [-1, 0], [0, 0]])
    cluster = torch.tensor([0, 0, 3, 1, 1, 3])
    found = cosines_with_centres(unit, cluster, 5)
    # Cluster 0 points to (1, 1); the rows of cluster 1 cancel, and it has no direction.
    torch.testing.assert_close(found, torch.tensor([0.5**0.5, 0.5**0.5, 1, 0, 0, 0]))


def test_a_later_round_goes_to_clusters_without_a_bought_sample() -> None:
    rows, group = groups((30, 20, 12, 10, 8))
    bought = torch.cat([(group == number).nonzero()[:2, 0] for number in (0, 2)])
    choice = choose(rows, 3, bought)
    assert len(choice.mass) == 7
    owners = set(choice.cluster[bought].tolist())
    clusters = choice.cluster[choice.ranked].tolist()
    assert not owners & set(clusters)
    assert len(set(clusters)) == 3
    sizes = [int((choice.cluster == number).sum()) for number in clusters]
    assert sizes == sorted(sizes, reverse=True)
    for pick, number in zip(choice.ranked.tolist(), clusters, strict=True):
        assert pick == by_cosine(rows, (choice.cluster == number).nonzero()[:, 0])[0]


def test_of_equal_rows_the_lowest_index_is_chosen_and_every_distinct_row_comes_before_a_second_copy() -> None:
    rows = groups((1, 1, 1, 1, 1))[0][torch.arange(25) % 5]
    ranked = choose(rows, 8).ranked.tolist()
    assert sorted(ranked[:5]) == [0, 1, 2, 3, 4]
    assert sorted(ranked[5:]) == [index + 5 for index in sorted(each % 5 for each in ranked[5:])]


def test_order_and_length_of_well_parted_rows_change_nothing() -> None:
    rows, _ = groups((12, 30, 9, 21, 15))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(4))
    expected = choose(rows, 5).ranked
    assert torch.equal(order[choose(rows[order], 5).ranked], expected)
    assert torch.equal(choose(rows * torch.linspace(0.5, 8, len(rows))[:, None], 5).ranked, expected)


def test_samples_far_from_all_others_are_not_chosen() -> None:
    """K-means gives a few far samples no cluster of their own while the groups are large."""
    rows, group = groups((40, 40, 40))
    far = normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(9)))
    ranked = choose(torch.cat([rows, far]), 3).ranked
    assert sorted(group[ranked].tolist()) == [0, 1, 2]


def test_a_start_less_than_one_is_refused() -> None:
    with pytest.raises(UsageError, match="starts=0 must be at least 1"):
        configure(SELECTORS["k-means"], ["starts=0"])
