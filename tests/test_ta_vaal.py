"""TA-VAAL: its losses by hand, a ranker that is trained, a discriminator that discriminates, and its edges."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.models.build import build_model
from metaselect.random import derive_seed
from metaselect.registry import SELECTORS, configure
from metaselect.selection.base import Choice, ImagePool, PoolFeatures, no_progress
from metaselect.selection.ta_vaal import TAVAAL, rank_pools, train_task_model, train_vae_and_discriminator
from metaselect.selection.ta_vaal_nets import (
    VAE,
    Discriminator,
    Encoding,
    RankedModel,
    adversarial_loss,
    discriminator_logits,
    discriminator_loss,
    pair_differences,
    ranking_loss,
    vae_loss,
)

NONE = torch.empty(0, dtype=torch.int64)
CPU = torch.device("cpu")


def pool_of(
    pixels: torch.Tensor, labels: torch.Tensor, model: Callable[[], nn.Module] | None = None
) -> PoolFeatures:
    """A pool of images (n, C, H, W) with labels (n,), and a small model in its first state."""
    shape = tuple(pixels.shape[1:])
    images = ImagePool(
        lambda ids: pixels[ids], model or (lambda: build_model("mlp", shape, 4, seed=1)), shape
    )
    return PoolFeatures((), (), labels, images=images)


def noisy(n: int = 40, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> PoolFeatures:
    draw = torch.Generator().manual_seed(seed)
    return pool_of(torch.randn(n, *shape, generator=draw), torch.randint(4, (n,), generator=draw))


def dark_and_bright(*, noisy_kind: str = "bright") -> PoolFeatures:
    """100 dark images, then 100 bright ones; one kind keeps to one label, and the other has any."""
    draw = torch.Generator().manual_seed(5)
    bright = torch.arange(200) >= 100
    pixels = 2 * bright[:, None, None, None] - 1 + 0.2 * torch.randn(200, 1, 8, 8, generator=draw)
    labels = torch.where(bright == (noisy_kind == "bright"), torch.randint(4, (200,), generator=draw), 0)
    return pool_of(pixels, labels)


def choose(
    pool: PoolFeatures, budget: int, bought: torch.Tensor = NONE, seed: int = 3, **options: Any
) -> Choice:
    return TAVAAL(**{"iterations": 3, **options}).choose(
        pool, budget, bought, torch.Generator().manual_seed(seed)
    )


def test_the_ranking_loss_by_hand() -> None:
    ranks = torch.tensor([0.5, -1.0, 2.0, 7.0, 0.25, 3.0, 1.5])  # the fourth has no partner
    losses = torch.tensor([2.0, 0.1, 0.7, 9.0, 0.7, 0.3, 1.0])
    # Pairs: (0.5, 1.5) and the first has the larger loss; (-1, 3), the second; (2, 0.25), a draw.
    assert pair_differences(ranks).tolist() == [-1.0, -4.0, 1.75]
    first = math.log(1 + math.exp(1.0))
    second = math.log(1 + math.exp(-4.0))
    draw = (math.log(1 + math.exp(-1.75)) + math.log(1 + math.exp(1.75))) / 2
    assert float(ranking_loss(ranks, losses)) == pytest.approx((first + second + draw) / 3, rel=1e-6)


def test_the_ranking_loss_by_finite_differences() -> None:
    draw = torch.Generator().manual_seed(2)
    ranks = torch.randn(9, dtype=torch.float64, generator=draw, requires_grad=True)
    losses = torch.rand(9, dtype=torch.float64, generator=draw, requires_grad=True)
    ranking_loss(ranks, losses).backward()
    assert losses.grad is None  # nothing is learnt through the true losses
    step = 1e-6
    for row, gradient in enumerate(ranks.grad.tolist()):
        moved = torch.zeros(9, dtype=torch.float64)
        moved[row] = step
        with torch.no_grad():
            slope = ranking_loss(ranks + moved, losses) - ranking_loss(ranks - moved, losses)
        assert float(slope) / (2 * step) == pytest.approx(gradient, abs=1e-8)


def test_the_other_losses_by_hand() -> None:
    images = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(2, 1, 1, 2)
    encoded = Encoding(images + 0.5, torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.zeros(2, 2))
    # MSE 0.25; KL per number mu^2 / 2 at unit variance: (0 + 2 + 0.5 + 0) / 4.
    assert float(vae_loss(images, encoded, 3.0)) == pytest.approx(0.25 + 3 * 0.625)
    logits = torch.tensor([2.0, -1.0, 0.5])  # one labelled
    d = torch.sigmoid(logits).tolist()
    expected = -math.log(d[0]) - (math.log(1 - d[1]) + math.log(1 - d[2])) / 2
    assert float(discriminator_loss(logits, 1)) == pytest.approx(expected, rel=1e-5)
    expected = -math.log(d[0]) - (math.log(d[1]) + math.log(d[2])) / 2
    assert float(adversarial_loss(logits, 1)) == pytest.approx(expected, rel=1e-5)


def ordered(task: RankedModel, pool: PoolFeatures, noisy_kind: str) -> float:
    """Share of the pairs of a dark and a bright image in which the one with a noisy label has the higher rank."""
    with torch.no_grad():
        ranks = task(pool.images.inputs(torch.arange(200)))[1]
    above = float((ranks[100:, None] > ranks[None, :100]).float().mean())
    return above if noisy_kind == "bright" else 1 - above


@pytest.mark.parametrize("seed", [0, 1])
def test_the_ranker_is_trained(seed: int) -> None:
    """The published baseline's never was: its ranks were those of its initialisation, the same for any labels."""
    untrained, trained = [], []
    for kind in ("dark", "bright"):
        pool = dark_and_bright(noisy_kind=kind)
        task = RankedModel(pool.images.model(), CPU, seed=derive_seed(seed, "init", "ranker"))
        untrained.append(ordered(task, pool, kind))
        task, accuracy = train_task_model(TAVAAL(task_epochs=15), pool.images, pool.labels, seed, no_progress)
        trained.append(ordered(task, pool, kind))
        assert not task.training
        # Half of the pairs are within one kind, where the losses can hardly be foretold.
        assert accuracy > 0.6
        choice = choose(pool, 4, seed=seed, task_epochs=15)
        assert choice.details["ranker_accuracy"] > 0.6
    assert sum(untrained) == pytest.approx(1)
    assert min(trained) > 0.9


def test_the_task_model_learns_along_with_its_ranker() -> None:
    pool = dark_and_bright()
    fresh = pool.images.model()
    task, _ = train_task_model(TAVAAL(task_epochs=5), pool.images, pool.labels, 0, no_progress)
    ids = torch.arange(len(pool.labels))
    with torch.no_grad():
        before = F.cross_entropy(fresh(pool.images.inputs(ids)), pool.labels)
        after = F.cross_entropy(task(pool.images.inputs(ids))[0], pool.labels)
    assert after < before - 0.2


def test_ranks_reach_decoder_and_discriminator() -> None:
    draw = torch.Generator().manual_seed(0)
    vae, discriminator = VAE((1, 8, 8), 6).eval(), Discriminator(6)
    images, noise = torch.randn(3, 1, 8, 8, generator=draw), torch.zeros(3, 6)
    low, high = (vae(images, torch.full((3,), rank), noise) for rank in (0.0, 1.0))
    assert torch.equal(low.mu, high.mu)
    assert not torch.allclose(low.recon, high.recon)
    assert not torch.allclose(*(discriminator(low.mu, torch.full((3,), rank)) for rank in (0.0, 1.0)))


def test_normalised_ranks_are_in_the_unit_interval_and_centred() -> None:
    pool = noisy()
    task = RankedModel(pool.images.model(), CPU, seed=0)
    nn.init.constant_(task.module[2].bias, 100.0)  # of no meaning to a ranking
    kinds = rank_pools(task.eval(), pool.images, torch.arange(5), torch.arange(5, 40), 0)
    assert 0.3 < float(kinds.candidates.ranks.min()) < 0.5 < float(kinds.candidates.ranks.max()) < 0.7
    assert len(kinds.labelled.ranks) == 5


@pytest.mark.parametrize("first", ["dark", "bright"])
def test_picks_are_unlike_what_was_bought(first: str) -> None:
    pool = dark_and_bright()
    bought = torch.arange(0, 20) + (100 if first == "bright" else 0)
    options = TAVAAL(iterations=60, batch=32)
    choice = options.choose(pool, 25, bought, torch.Generator().manual_seed(0))
    assert all((pick >= 100) == (first == "dark") for pick in choice.ranked.tolist())
    looks_bright = choice.similarity[100:].sum() - choice.similarity[:100].sum()
    assert (looks_bright > 0) == (first == "dark")


def test_the_discriminator_tells_the_kinds_apart() -> None:
    pool = dark_and_bright()
    options = TAVAAL(iterations=60, batch=32)
    task, _ = train_task_model(options, pool.images, pool.labels, 0, no_progress)
    kinds = rank_pools(task, pool.images, torch.arange(20), torch.arange(100, 200), 0)
    vae, discriminator, loss = train_vae_and_discriminator(options, pool.images, kinds, 0, no_progress)
    real, fake = (discriminator_logits(vae, discriminator, pool.images, kind) for kind in kinds)
    assert real.min() > fake.max()
    assert loss < 2 * math.log(2)  # that of a discriminator that knows nothing


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 17, 23), (2, 1, 5), (3, 70, 130)])
def test_images_of_any_size(shape: tuple[int, int, int]) -> None:
    vae = VAE(shape, 5)
    images = vae.downsample(torch.zeros(2, *shape))
    assert images.shape == (2, shape[0], min(shape[1], 64), min(shape[2], 64))
    encoded = vae(images, torch.zeros(2), torch.zeros(2, 5))
    assert encoded.recon.shape == images.shape
    assert encoded.mu.shape == encoded.logvar.shape == (2, 5)
    choice = choose(noisy(12, shape), 6, iterations=2, latent=5)
    assert len(set(choice.ranked.tolist())) == 6


def test_a_first_round_is_in_part_random_and_later_ones_are_not() -> None:
    pool = noisy()
    for budget, initial, drawn in ((1, 0.5, 1), (2, 0.5, 1), (7, 0.5, 4), (30, 0.1, 3), (2, 0.9, 2)):
        choice = choose(pool, budget, initial=initial)
        assert choice.details["drawn"] == drawn
        assert len(set(choice.ranked.tolist())) == budget
        assert not choice.similarity[choice.ranked[:drawn]].any()
        assert (choice.similarity[choice.ranked[drawn:]] > 0).all()
    # What is drawn depends on the seed alone; what is learnt cannot change it.
    draws = [choose(pool, 8, iterations=iterations).ranked[:4] for iterations in (1, 4)]
    assert torch.equal(*draws)
    assert choose(pool, 8, torch.tensor([3])).details["drawn"] == 0


def test_scores_are_of_candidates_only_and_rank_them() -> None:
    bought = torch.tensor([3, 17])
    choice = choose(noisy(), 5, bought, candidates=12)
    looked_at = (choice.similarity > 0).nonzero()[:, 0]
    assert choice.details["candidates"] == len(looked_at) == 12
    assert set(choice.ranked.tolist()) <= set(looked_at.tolist())
    assert not set(bought.tolist()) & set(looked_at.tolist())
    scores = choice.similarity[choice.ranked]
    assert torch.equal(scores, choice.similarity.topk(5).values)
    assert (choice.cluster == -1).all()
    # Fewer candidates than the budget: all are looked at.
    assert choose(noisy(), 13, bought, candidates=12).details["candidates"] == 38


def test_same_seed_same_answer_and_nothing_global_is_touched() -> None:
    def model() -> nn.Module:
        ends = build_model("mlp", (1, 8, 8), 16, seed=0), build_model("mlp", (16,), 4, seed=1)
        return nn.Sequential(ends[0], nn.Dropout(0.5), ends[1])

    pool = noisy()
    pool = pool._replace(images=pool.images._replace(model=model))
    found = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        found.append(choose(pool, 9))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0].ranked, found[1].ranked)
    assert torch.equal(found[0].similarity, found[1].similarity)
    assert found[0].details == found[1].details
    other = choose(pool, 9, seed=4)
    assert not torch.equal(other.similarity, found[0].similarity)


def test_what_is_given_stays_as_it_was() -> None:
    pool = noisy()
    kept = pool.images.model()
    pool = pool._replace(images=pool.images._replace(model=lambda: deepcopy(kept)))
    ids = torch.arange(40)
    pixels, labels, bought = pool.images.inputs(ids).clone(), pool.labels.clone(), torch.tensor([5, 1])
    choose(pool, 4, bought)
    assert torch.equal(pool.images.inputs(ids), pixels)
    assert torch.equal(pool.labels, labels)
    assert bought.tolist() == [5, 1]
    fresh = build_model("mlp", (1, 8, 8), 4, seed=1)
    for left, right in zip(kept.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("n", [2, 3, 65])
def test_pools_smaller_than_a_batch_and_a_last_batch_of_one(n: int) -> None:
    """With batch norm in the task model too, which cannot train on one sample."""
    pool = noisy(n)

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), build_model("mlp", (64,), 4, seed=0))

    pool = pool._replace(images=pool.images._replace(model=model))
    choice = choose(pool, n)
    assert sorted(choice.ranked.tolist()) == list(range(n))
    later = choose(pool, n - 1, torch.tensor([1]))
    assert sorted(later.ranked.tolist()) == [row for row in range(n) if row != 1]


def test_identical_images_leave_ties_to_the_lowest_index() -> None:
    pool = pool_of(torch.ones(30, 1, 8, 8), torch.zeros(30, dtype=torch.int64))
    choice = choose(pool, 6, torch.tensor([0, 4]))
    assert choice.ranked.tolist() == [1, 2, 3, 5, 6, 7]
    assert choice.details["ranker_accuracy"] is None  # no pair of unequal loss


def test_it_says_how_far_it_is() -> None:
    heard: list[str] = []
    TAVAAL(iterations=60).choose(noisy(), 4, NONE, torch.Generator().manual_seed(0), heard.append)
    assert heard == [
        "ranker, epoch 1 of 1, batch 0 of 1",
        "VAE and discriminator, iteration 0 of 60",
        "VAE and discriminator, iteration 50 of 60",
    ]


@pytest.mark.parametrize(
    "pair",
    [
        *("initial=0", "initial=1", "initial=nan", "candidates=0", "task_epochs=0", "iterations=0"),
        *("batch=1", "latent=0", "task_lr=0", "task_lr=inf", "lr=-1", "lr=nan", "beta=-1", "adversary=nan"),
        *("batch=half", "seed=1"),
    ],
)
def test_bad_options_are_refused(pair: str) -> None:
    with pytest.raises(UsageError) as refused:
        configure(SELECTORS["ta-vaal"], [pair])
    assert str(refused.value).startswith("--option")
    assert refused.value.hint


def test_pools_without_images_are_refused() -> None:
    with pytest.raises(UsageError, match="needs images"):
        choose(noisy()._replace(images=None), 2)


@pytest.mark.parametrize("option", ["task_lr", "lr"])
def test_a_training_that_diverges_says_so(option: str) -> None:
    with pytest.raises(UsageError, match=f"--option {option}=1e.30: the training diverged") as refused:
        choose(noisy(), 4, **{option: 1e30}, task_epochs=5)
    assert "smaller" in refused.value.hint
