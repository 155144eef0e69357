"""The contract that every selector keeps, and each method against brute force."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from metaselect import registry
from metaselect.errors import UsageError
from metaselect.models.build import build_model
from metaselect.registry import MODELS, REWEIGHTERS, SELECTORS, configure
from metaselect.selection.base import Choice, Gradients, ImagePool, PoolFeatures, lowest_unbought
from metaselect.selection.clustering import representatives as clustering
from metaselect.selection.clustering.factored import FactoredRows
from metaselect.selection.clustering.kmeans import kmeans
from metaselect.selection.rbc import FEATURE_KINDS, factored_gradients
from metaselect.selection.uncertainty import entropy

NONE = torch.empty(0, dtype=torch.int64)
RBCS = ("rbc", "rbc-k")
QUICK = {"ta-vaal": {"iterations": 3}}
"""Options of what trains; the contract holds however short the training."""


def pool_features(n: int = 40, seed: int = 0, checkpoints: int = 2) -> PoolFeatures:
    """Softmax rows in 4 classes, representations behind a ReLU and gradients, of unequal width; small images."""
    draw = torch.Generator().manual_seed(seed)
    widths = (6, 9, 5)[:checkpoints]
    hidden = tuple(torch.randn(n, width, generator=draw).relu() for width in widths)
    probs = tuple((2 * torch.randn(n, 4, generator=draw)).softmax(1) for _ in widths)
    labels = torch.randint(4, (n,), generator=draw)
    gradients = tuple(
        Gradients(
            1 + torch.rand(n, generator=draw),
            torch.nn.functional.normalize(torch.randn(n, 2 * width, generator=draw)).half(),
        )
        for width in widths
    )
    pixels = torch.randn(n, 1, 8, 8, generator=draw)
    images = ImagePool(
        lambda ids: pixels[ids], lambda: build_model("mlp", (1, 8, 8), 4, seed=seed), (1, 8, 8)
    )
    return PoolFeatures(probs, hidden, labels, gradients, images)


def choose(
    name: str, pool: PoolFeatures, budget: int, bought: torch.Tensor = NONE, seed: int = 3, **options: Any
) -> Choice:
    options = {**QUICK.get(name, {}), **options}
    if pool.bought_labels is None:
        pool = pool._replace(bought_labels=torch.arange(len(bought)) % 4 - 1)  # one in four has none
    method = configure(SELECTORS[name], [f"{key}={value}" for key, value in options.items()])
    return method.choose(pool, budget, bought, torch.Generator().manual_seed(seed))


def check(choice: Choice, n: int, budget: int, bought: torch.Tensor) -> None:
    """Everything that ``Choice`` and ``Selector`` promise."""
    ranked = choice.ranked.tolist()
    assert choice.ranked.dtype == torch.int64
    assert len(ranked) == len(set(ranked)) == budget
    assert min(ranked) >= 0
    assert max(ranked) < n
    assert not set(ranked) & set(bought.tolist())
    assert choice.cluster.shape == choice.similarity.shape == (n,)
    assert choice.cluster.dtype == torch.int64
    assert choice.cluster.min() >= -1
    assert choice.cluster.max() < max(len(choice.mass), 1)
    assert torch.isfinite(choice.similarity).all()
    total = float(choice.mass.sum())
    assert total == pytest.approx(1, abs=1e-5) or not choice.mass.any()
    json.dumps(choice.details, allow_nan=False)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("budget", [1, 2, 7, 39, 40])
def test_exactly_budget_distinct_samples(name: str, budget: int) -> None:
    check(choose(name, pool_features(), budget), 40, budget, NONE)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("budget", [1, 5, 17, 30])
def test_none_that_was_bought(name: str, budget: int) -> None:
    bought = torch.tensor([39, 0, 7, 8, 20, 21, 22, 30, 31, 5])
    check(choose(name, pool_features(), budget, bought), 40, budget, bought)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_pool_of_one(name: str) -> None:
    check(choose(name, pool_features(1), 1), 1, 1, NONE)


@pytest.mark.parametrize("name", SELECTORS)
def test_same_seed_same_answer_and_inputs_are_left_alone(name: str) -> None:
    features, bought = pool_features(), torch.tensor([4, 2])
    before = [tensor.clone() for tensor in (*features.probs, *features.hidden, features.labels)]
    torch.manual_seed(1)
    once = choose(name, features, 6, bought)
    torch.manual_seed(2)
    again = choose(name, pool_features(), 6, torch.tensor([4, 2]))
    for left, right in zip(once[:4], again[:4], strict=True):
        assert torch.equal(left, right)
    assert once.details == again.details
    for tensor, kept in zip((*features.probs, *features.hidden, features.labels), before, strict=True):
        assert torch.equal(tensor, kept)
    assert bought.tolist() == [4, 2]


def degenerate(kind: str) -> PoolFeatures:
    features = pool_features(24)
    rows = torch.arange(24)
    if kind == "duplicates":
        rows = rows % 5
    elif kind == "identical":
        rows = rows * 0
    features = features.subset(rows)
    probs, hidden, gradients = features.probs, features.hidden, features.gradients
    if kind == "zero":
        hidden = tuple(values * 0 for values in hidden)
        gradients = tuple(Gradients(block.norms * 0, block.directions * 0) for block in gradients)
    elif kind == "one zero checkpoint":
        hidden = (hidden[0] * 0, hidden[1] * torch.logspace(-4, 0, 24)[:, None])
        gradients = (Gradients(gradients[0].norms * 0, gradients[0].directions * 0), gradients[1])
    elif kind == "zero rows":
        for values in (*hidden, *(part for block in gradients for part in block)):
            values[::2] = 0
    elif kind == "empty class":
        features = features._replace(labels=features.labels.clamp(max=2))
    elif kind == "one-hot":
        probs = tuple(torch.eye(4)[values.argmax(1)] for values in probs)
    return features._replace(probs=probs, hidden=hidden, gradients=gradients)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize(
    "kind",
    ["duplicates", "identical", "zero", "one zero checkpoint", "zero rows", "empty class", "one-hot"],
)
@pytest.mark.parametrize("budget", [1, 8, 20])
def test_degenerate_pools(name: str, kind: str, budget: int) -> None:
    bought = torch.tensor([1, 6])
    check(choose(name, degenerate(kind), budget), 24, budget, NONE)
    check(choose(name, degenerate(kind), budget, bought), 24, budget, bought)


def test_random_depends_on_nothing_but_the_seed_and_is_uniform() -> None:
    assert torch.equal(
        choose("random", pool_features(seed=0), 5).ranked, choose("random", pool_features(seed=1), 5).ranked
    )
    counts = np.zeros(12)
    for seed in range(600):
        counts[choose("random", pool_features(12), 4, seed=seed).ranked] += 1
    expected = 600 * 4 / 12
    # Chi-squared with 11 degrees of freedom, thinned by drawing without replacement; 40 is past 1 in 10,000.
    assert ((counts - expected) ** 2 / expected).sum() < 40


@pytest.mark.parametrize("bought", [NONE, torch.tensor([3, 11])])
def test_certain_and_uncertain_by_sorting(bought: torch.Tensor) -> None:
    features = pool_features()
    entropies = [-sum(p * math.log(p) for p in row if p > 0) for row in features.probs[-1].double().tolist()]
    left = [j for j in range(40) if j not in bought.tolist()]
    by_entropy = sorted(left, key=lambda j: (entropies[j], j))
    assert choose("certain", features, 9, bought).ranked.tolist() == by_entropy[:9]
    assert choose("uncertain", features, 9, bought).ranked.tolist() == by_entropy[::-1][:9]
    np.testing.assert_allclose(choose("uncertain", features, 9).similarity, entropies, rtol=1e-4)


def test_entropy_by_hand_and_ties_to_the_lowest_index() -> None:
    probs = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.0, 1.0]])
    expected = [math.log(2), 0, 0.25 * math.log(4) + 0.75 * math.log(4 / 3), 0]
    np.testing.assert_allclose(entropy(probs), expected, rtol=1e-6)
    features = PoolFeatures((probs,), (probs,), torch.zeros(4, dtype=torch.int64))
    assert choose("certain", features, 2).ranked.tolist() == [1, 3]
    assert lowest_unbought(torch.tensor([2.0, 1, 1, 0]), 3, torch.tensor([3])).tolist() == [1, 2, 0]


@pytest.mark.parametrize("name", ["certain", "uncertain", "low-self-confidence"])
def test_scores_do_not_depend_on_the_order_of_the_pool(name: str) -> None:
    features = pool_features()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    shuffled = features.subset(order)
    assert torch.equal(order[choose(name, shuffled, 8).ranked], choose(name, features, 8).ranked)


@pytest.mark.parametrize("name", RBCS)
def test_a_pick_is_the_member_closest_to_its_centroid_heaviest_cluster_first(name: str) -> None:
    choice = choose(name, pool_features(), 6)
    norms = factored_gradients(pool_features(), "product").norms
    clusters = choice.cluster[choice.ranked].tolist()
    assert sorted(clusters) == list(range(6))
    for cluster, pick in zip(clusters, choice.ranked.tolist(), strict=True):
        members = (choice.cluster == cluster).nonzero()[:, 0]
        assert choice.similarity[pick] == choice.similarity[members].max()
        assert float(choice.mass[cluster]) == pytest.approx(
            float(norms[members].sum() / norms.sum()), rel=1e-4
        )
    masses = choice.mass[clusters].tolist()
    assert masses == sorted(masses, reverse=True)


@pytest.mark.parametrize("name", RBCS)
def test_the_next_round_looks_at_the_half_far_from_what_was_bought(name: str) -> None:
    features, bought = pool_features(), torch.tensor([2, 9, 30, 31])
    rows = factored_gradients(features, "product")
    dense = rows.dense(torch.arange(40)).double().numpy()
    nearest = np.abs(dense @ dense[bought].T).max(1)
    left = [j for j in np.argsort(nearest, kind="stable").tolist() if j not in bought.tolist()]
    choice = choose(name, features, 5, bought)
    looked_at = (choice.cluster >= 0).nonzero()[:, 0].tolist()
    assert looked_at == sorted(left[: (40 - 4) // 2])
    assert set(choice.ranked.tolist()) <= set(looked_at)


@pytest.mark.parametrize("name", RBCS)
@pytest.mark.parametrize("kind", FEATURE_KINDS)
@pytest.mark.parametrize("factor", [2.0**-20, 64.0, 3.7])
def test_the_size_of_a_checkpoint_changes_nothing(name: str, kind: str, factor: float) -> None:
    features = pool_features()
    scaled = features._replace(hidden=(features.hidden[0] * factor, features.hidden[1]))
    expected, found = (choose(name, each, 6, features=kind) for each in (features, scaled))
    assert torch.equal(found.ranked, expected.ranked)
    assert torch.equal(found.cluster, expected.cluster)


@pytest.mark.parametrize("name", RBCS)
def test_only_full_gradients_look_at_the_labels(name: str) -> None:
    features = pool_features()
    relabelled = features._replace(labels=(features.labels + 1) % 4)
    for kind in ("product", "representation"):
        expected, found = (choose(name, each, 6, features=kind) for each in (features, relabelled))
        assert torch.equal(found.ranked, expected.ranked)
        assert torch.equal(found.similarity, expected.similarity)
    full = configure(SELECTORS[name], [], gradient="full")
    expected, found = (
        full.choose(each, 6, NONE, torch.Generator().manual_seed(3)) for each in (features, relabelled)
    )
    assert not torch.equal(found.similarity, expected.similarity)


@pytest.mark.parametrize("kind", FEATURE_KINDS)
def test_factored_gradients_are_those_of_equation_11(kind: str) -> None:
    features = pool_features(7)
    rows = factored_gradients(features, kind).dense(torch.arange(7))
    blocks = []
    for probs, hidden in zip(features.probs, features.hidden, strict=True):
        left = {"product": probs, "representation": torch.ones(7, 1), "full": probs.clone()}[kind]
        if kind == "full":
            left[torch.arange(7), features.labels] -= 1
        block = (left[:, :, None] * hidden[:, None, :]).flatten(1)
        blocks.append(block / block.norm(dim=1).mean())
    expected = torch.nn.functional.normalize(torch.cat(blocks, 1))
    torch.testing.assert_close(rows, expected)


def test_the_ablation_differs_in_the_weighting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(rows: FactoredRows, clusters: int, **options: Any) -> Any:
        del options["progress"]
        seen.append((clusters, rows.norms, options))
        return kmeans(rows, clusters, **options)

    monkeypatch.setattr(clustering, "kmeans", watched)
    for name in RBCS:
        choose(name, pool_features(), 6, starts=1)
    (clusters, norms, options), (clusters_k, norms_k, options_k) = seen
    assert clusters == clusters_k
    assert torch.equal(norms, norms_k)
    assert options.pop("weighted")
    assert not options_k.pop("weighted")
    assert options == options_k


def test_the_weighting_matters() -> None:
    assert any(
        not torch.equal(choose("rbc", features, 8).cluster, choose("rbc-k", features, 8).cluster)
        for features in (pool_features(seed=seed) for seed in range(5))
    )


def test_more_starts_are_never_worse() -> None:
    for seed in range(5):
        one, many = (choose("rbc", pool_features(seed=seed), 6, starts=starts) for starts in (1, 6))
        assert many.details["objective"][-1] >= one.details["objective"][-1]


def test_picks_are_not_merely_the_outliers_that_clustering_starts_from() -> None:
    """In a pool of three loose groups, what is bought is the middle of each group."""
    draw = torch.Generator().manual_seed(1)
    hidden = (2 * torch.eye(8)[torch.arange(300) % 3] + 0.5 * torch.randn(300, 8, generator=draw)).relu()
    pool = PoolFeatures((torch.full((300, 2), 0.5),), (hidden,), torch.zeros(300, dtype=torch.int64))
    choice = choose("rbc", pool, 3)
    assert sorted((choice.ranked % 3).tolist()) == [0, 1, 2]
    for pick in choice.ranked.tolist():
        members = hidden[pick % 3 :: 3]
        middle = members.sum(0, keepdim=True)  # each unit row weighs as much as its norm
        assert pick // 3 == int(torch.cosine_similarity(members, middle).argmax())


@pytest.mark.parametrize(
    "pair",
    ["features=all", "starts=0", "iterations=0", "starts=two", "starts", "seed=1", "=3", "checkpoints=all"],
)
@pytest.mark.parametrize("name", RBCS)
def test_bad_options_are_refused(name: str, pair: str) -> None:
    with pytest.raises(UsageError) as refused:
        configure(SELECTORS[name], [pair])
    assert refused.value.exit_code == 2
    assert str(refused.value).startswith("--option")
    if pair == "starts":
        assert refused.value.hint == "For example starts=3"
    if pair in ("seed=1", "=3", "checkpoints=all"):
        assert refused.value.hint.startswith(
            "Options: features=product, starts=3, iterations=100 (--option help"
        )


@pytest.mark.parametrize("name", ["random", "low-self-confidence"])
def test_methods_without_options_say_so(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        configure(SELECTORS[name], ["starts=2"])
    assert refused.value.hint == "Options: none"


@dataclass(frozen=True)
class EveryKind:
    """Hyper-parameters of every type that ``configure`` reads."""

    count: int = 3
    rate: float = 0.5
    name: str = "a"
    flag: bool = False


def test_options_are_read_by_the_type_of_their_default() -> None:
    path = f"{__name__}:EveryKind"
    assert configure(path, []) == EveryKind()
    found = configure(path, ["count=4", "rate=1e-3", "name=b=c", "flag=True"])
    assert found == EveryKind(4, 1e-3, "b=c", True)
    assert registry.settings(found) == {"count": 4, "rate": 1e-3, "name": "b=c", "flag": True}
    assert configure(path, ["count=4", "count=5", "flag=false"]) == EveryKind(5)
    for pair in ("count=4.0", "count=", "rate=fast", "flag=1"):
        with pytest.raises(UsageError, match="is no") as refused:
            configure(path, [pair])
        assert refused.value.hint.startswith("The default is ")


def test_the_registry_names_things_that_exist_and_needs_no_torch() -> None:
    for path in (*SELECTORS.values(), *REWEIGHTERS.values(), *MODELS.values()):
        assert callable(registry.load(path))
    code = "import sys, metaselect.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", SELECTORS)
def test_selectors_declare_the_checkpoints_that_they_want(name: str) -> None:
    method = configure(SELECTORS[name], [])
    assert method.checkpoints in ("all", "last")
    assert set(method.required_features) <= {"probs", "hidden", "gradients", "images", "bought_labels"}
