"""Near duplicates and outliers against a search by brute force, and by what must not change them."""

import numpy as np
import pytest
import torch

from metaselect.features.near_duplicates import (
    CLOSENESS,
    MOST_SAMPLES,
    NEIGHBOURS,
    SimilarSamples,
    similar_samples,
)

CPU = torch.device("cpu")
WIDTH = 24


def pool_with_copies(n: int = 120) -> np.ndarray:
    """(n, 24) features of 6 clusters; 10-13 are nearly equal, 30 and 90 too, and 50 and 70 are equal."""
    random = np.random.default_rng(0)
    features = random.normal(size=(6, WIDTH))[np.arange(n) % 6] + random.normal(size=(n, WIDTH))
    for copy, original in ((11, 10), (12, 10), (13, 10), (90, 30)):
        features[copy] = features[original] + 0.01 * random.normal(size=WIDTH)
    features[70] = features[50]
    return features.astype(np.float32)


def groups_of(similar: SimilarSamples) -> list[list[int]]:
    """The groups of more than one sample."""
    group = similar.group.tolist()
    return [
        members
        for first in sorted(set(group))
        if len(members := [i for i, g in enumerate(group) if g == first]) > 1
    ]


def by_brute_force(features: np.ndarray) -> tuple[list[int], np.ndarray]:
    """(group of each sample, mean distance to its neighbours), by float64 loops over all pairs of unequal samples."""
    distinct, position = np.unique(features.astype(np.float64), axis=0, return_inverse=True)
    standard = (distinct - distinct.mean(0)) / distinct.std(0)
    unit = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    nearest = np.sort(distance, axis=1)[:, : min(NEIGHBOURS, len(distinct) - 1)]
    tenth = nearest[:, -1]
    component = list(range(len(distinct)))
    for one in range(len(distinct)):
        for other in range(len(distinct)):
            if distance[one, other] < CLOSENESS * min(tenth[one], tenth[other], np.median(tenth)):
                component = [component[one] if c == component[other] else c for c in component]
    of_sample = [component[place] for place in position]
    return [of_sample.index(c) for c in of_sample], nearest.mean(1)[position]


def test_groups_are_those_of_a_search_among_all_pairs() -> None:
    features = pool_with_copies()
    similar = similar_samples(features, CPU)
    expected, _ = by_brute_force(features)
    assert similar.group.tolist() == expected
    assert groups_of(similar) == [[10, 11, 12, 13], [30, 90], [50, 70]]


def test_the_outlier_rank_is_the_share_of_samples_with_closer_neighbours() -> None:
    features = pool_with_copies()
    features[40] = 5 * np.random.default_rng(1).normal(size=WIDTH)
    outlier = similar_samples(features, CPU).outlier
    assert outlier is not None
    _, mean = by_brute_force(features)
    assert outlier.tolist() == pytest.approx([(mean < value).sum() / (len(mean) - 1) for value in mean])
    assert outlier.argmax() == 40
    assert outlier.max() == 1


@pytest.mark.parametrize("tile_entries", [1, 1000, 10**6])
def test_the_size_of_the_blocks_plays_no_part(tile_entries: int) -> None:
    features = pool_with_copies()
    whole, blocked = similar_samples(features, CPU), similar_samples(features, CPU, tile_entries=tile_entries)
    assert torch.equal(whole.group, blocked.group)
    assert whole.outlier is not None
    assert blocked.outlier is not None
    assert torch.equal(whole.outlier, blocked.outlier)


def test_the_order_of_the_samples_and_the_units_of_the_features_play_no_part() -> None:
    features = pool_with_copies()
    order = np.random.default_rng(2).permutation(len(features))
    units = np.random.default_rng(3).lognormal(sigma=3, size=WIDTH).astype(np.float32)
    shuffled = similar_samples(features[order] * units + units, CPU)
    back = [sorted(order[members].tolist()) for members in groups_of(shuffled)]
    assert sorted(back) == groups_of(similar_samples(features, CPU))


def test_equal_samples_count_once_however_many_they_are() -> None:
    """A thousand copies of one sample are one group, and change no other sample's."""
    features = pool_with_copies()
    more = np.concatenate([features, np.repeat(features[20:21], 1000, axis=0)])
    assert groups_of(similar_samples(more, CPU)) == [
        *[[10, 11, 12, 13], [20, *range(len(features), len(more))]],
        *[[30, 90], [50, 70]],
    ]


def test_classes_that_lie_on_points_of_their_own_are_no_near_duplicates() -> None:
    """As the features of a network that was trained to tell them apart, where also a rare class has a point."""
    random = np.random.default_rng(0)
    classes = np.append(np.arange(600) % 5, [5, 5, 5])
    features = 10 * random.normal(size=(6, 64))[classes] + 0.1 * random.normal(size=(603, 64))
    assert groups_of(similar_samples(features, CPU)) == []


@pytest.mark.parametrize("kind", ["gaussian", "heavy tails", "one large column", "images"])
def test_independent_samples_have_no_near_duplicates(kind: str) -> None:
    random = np.random.default_rng(0)
    inputs: np.ndarray
    if kind == "images":
        inputs = random.integers(0, 256, (500, 3, 20, 24), dtype=np.uint8)
    elif kind == "heavy tails":
        inputs = random.lognormal(sigma=1, size=(500, 32))
    else:
        inputs = random.normal(size=(500, 32)) * ([1e6, *[1] * 31] if kind == "one large column" else 1)
    assert groups_of(similar_samples(inputs, CPU)) == []


def test_images_are_compared_by_their_averaged_pixels() -> None:
    """A copy with a little noise in every pixel is found, a mirrored one and a negative are not."""
    random = np.random.default_rng(0)
    images = np.kron(random.integers(20, 236, (80, 3, 5, 5)), np.ones((8, 8))).astype(np.uint8)
    images[30] = images[3] + random.integers(-3, 4, images[3].shape)
    images[40], images[50] = images[4][:, :, ::-1], 255 - images[5]
    assert groups_of(similar_samples(images, CPU)) == [[3, 30]]


def test_of_few_numbers_only_equal_samples_are_alike() -> None:
    features = np.random.default_rng(0).random((500, 2)).astype(np.float32)
    features[7] = features[400]
    similar = similar_samples(features, CPU)
    assert groups_of(similar) == [[7, 400]]
    assert similar.outlier is None


def test_of_too_many_samples_only_equal_ones_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST_SAMPLES, "cpu", 100)
    similar = similar_samples(pool_with_copies(), CPU)
    assert groups_of(similar) == [[50, 70]]
    assert similar.outlier is None


@pytest.mark.parametrize("n", [2, 3, 12])
def test_small_pools(n: int) -> None:
    features = pool_with_copies()[:n]
    assert similar_samples(features, CPU).group.tolist() == by_brute_force(features)[0]


@pytest.mark.parametrize("n", [1, 6])
def test_a_pool_of_equal_samples_is_one_group(n: int) -> None:
    similar = similar_samples(np.ones((n, 20), np.float32), CPU)
    assert similar.group.tolist() == [0] * n
    assert similar.outlier is None
