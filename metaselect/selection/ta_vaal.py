"""TA-VAAL: samples that a discriminator is most certain are unlabelled, by a VAE's latent and ranked losses.

Source: Kim, Park, Kim, Chun 2021 (CVPR, arXiv:2002.04709), algorithm of the supplement, and the authors' code; as a
baseline here: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), where the ranker was never trained.
Differs: the task model starts from the warm-up and learns from the given labels of the whole pool, since all samples
have one; the original learns from the bought ones alone. A first round, in which nothing is bought, is in part random.
Bought and other images pass through the VAE as one batch and are scored with its running averages: batch norm over each
set alone would remove the difference between the sets, and a score would depend on the rest of its batch. Ranks are
centred before the sigmoid, since the ranking loss does not determine their mean (-10 on MNIST, where all would be 0);
discriminator and decoder get the same ranks (the code gives the discriminator those before the sigmoid), computed once.
500 iterations by default instead of about 10,000, which take too long on a CPU: 40 seconds for MNIST on one thread.
Networks: see ``ta_vaal_nets``.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.random import derive_seed, seeded_globals
from metaselect.random import generator as stream
from metaselect.records import Json
from metaselect.selection.base import (
    Choice,
    ImagePool,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    lowest_unbought,
    no_progress,
)
from metaselect.selection.ta_vaal_nets import (
    SCORE_BATCH,
    VAE,
    Discriminator,
    RankedModel,
    RankedPools,
    RankedSamples,
    adversarial_loss,
    discriminator_logits,
    discriminator_loss,
    pair_differences,
    ranking_loss,
    vae_loss,
)

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # of the task model's SGD, as published
PROGRESS_EVERY = 50  # training steps between two calls of the progress callback


@dataclass(frozen=True)
class TAVAAL:
    """Hyper-parameters of TA-VAAL.

    Attributes:
        initial: share of a first round's budget that is drawn at random, in (0, 1); at least one sample.
        candidates: pool samples, drawn with the seed, that are scored, at most; all if that is fewer than the budget.
        task_epochs: of the task model and the ranker over the pool.
        task_lr: learning rate of their SGD, per step.
        iterations: training steps of the VAE and the discriminator.
        batch: samples in a step: of the pool for the ranker; of bought and of other samples, each, for the VAE.
        latent: width of the VAE's latent.
        lr: of Adam for the VAE and for the discriminator, per step.
        beta: weight of the KL term, 1 as published; the ELBO of pixels with variance 1 has 2 z / (C H W), less than a
            tenth of that on MNIST, where 1 leaves little information in the latent.
        adversary: weight of the VAE's adversarial loss.
    """

    initial: float = 0.5
    candidates: int = 10_000
    task_epochs: int = 1
    task_lr: float = 0.01
    iterations: int = 500
    batch: int = 64
    latent: int = 32
    lr: float = 5e-4
    beta: float = 1.0
    adversary: float = 1.0
    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ("images",)

    def __post_init__(self) -> None:
        if not 0 < self.initial < 1:
            raise UsageError(
                f"--option initial={self.initial} is not between 0 and 1.", "The default is initial=0.5."
            )
        if min(self.candidates, self.task_epochs, self.iterations, self.latent) < 1:
            raise UsageError(
                "--option candidates, task_epochs, iterations and latent must be at least 1.",
                "Leave them at their defaults.",
            )
        if self.batch < 2:
            raise UsageError(
                f"--option batch={self.batch} is too small: the ranking loss needs pairs.",
                "Give at least batch=2; the default is 64.",
            )
        if not (0 < self.task_lr < math.inf and 0 < self.lr < math.inf):
            raise UsageError(
                "--option task_lr and lr must be positive numbers.", "Leave them at their defaults."
            )
        if not (0 <= self.beta < math.inf and 0 <= self.adversary < math.inf):
            raise UsageError(
                "--option beta and adversary must be at least 0.", "Leave them at their defaults."
            )

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The ``budget`` candidates of lowest D; in a first round some are drawn at random and ranked first.

        ``similarity`` is 1 - D for candidates and 0 for all others, among them those drawn at random.
        """
        images = features.images
        if images is None or len(images.shape) != 3:
            raise UsageError("ta-vaal needs images, and this pool holds none.", "Choose another --method.")
        similarity = torch.zeros(len(features.labels))
        seed = int(torch.randint(2**62, (), generator=generator))
        # The discriminator needs labelled samples; a first round has none, so a share of it is drawn at random. 1e-9:
        # the product of two floats may be just above a whole number.
        count = 0 if len(bought) else max(math.ceil(self.initial * budget - 1e-9), 1)
        shuffled = lowest_unbought(similarity, len(similarity), bought)  # all that are not bought
        shuffled = shuffled[torch.randperm(len(shuffled), generator=stream(seed, "draw"))]
        drawn, remaining = shuffled[:count], shuffled[count:]
        if len(drawn) == budget:
            return choice_without_clusters(drawn, similarity, {"drawn": count, "candidates": 0})
        limit_suffices = self.candidates >= budget - count
        candidates = remaining[: self.candidates].sort().values if limit_suffices else remaining.sort().values
        task, accuracy = train_task_model(self, images, features.labels, seed, progress)
        pools = rank_pools(task, images, bought if len(bought) else drawn, candidates, seed)
        if not pools.is_finite():
            raise UsageError(
                f"--option task_lr={self.task_lr}: the training diverged.", "Give a smaller one."
            )
        vae, discriminator, loss = train_vae_and_discriminator(self, images, pools, seed, progress)
        logits = discriminator_logits(vae, discriminator, images, pools.candidates)
        if not torch.isfinite(logits).all():
            raise UsageError(f"--option lr={self.lr}: the training diverged.", "Give a smaller one.")
        # Ranked by logits: D itself rounds to 0 in float32 for many samples.
        picks = candidates[lowest_unbought(logits, budget - count, candidates[:0])]
        similarity[candidates] = torch.sigmoid(-logits)
        details: dict[str, Json] = {
            "drawn": count,
            "candidates": len(candidates),
            "ranker_accuracy": accuracy,
            "discriminator_loss": loss,
        }
        return choice_without_clusters(torch.cat([drawn, picks]), similarity, details)


def train_task_model(
    options: TAVAAL, images: ImagePool, labels: torch.Tensor, seed: int, progress: ProgressCallback
) -> tuple[RankedModel, float | None]:
    """The task model with its ranker, trained jointly on all given labels, in eval mode; and the ranker's accuracy.

    The accuracy is the share of pairs of unequal loss that the ranker ordered correctly in the last epoch, None without
    such pairs.

    Args:
        options: hyper-parameters.
        images: n samples.
        labels: (n,) int64.
        seed: of the initialisation, of the order and of dropout.
        progress: called every ``PROGRESS_EVERY`` steps.
    """
    device = images.inputs(torch.zeros(1, dtype=torch.int64)).device
    task = RankedModel(images.model(), device, seed=derive_seed(seed, "init", "ranker")).requires_grad_(True)
    optimiser = torch.optim.SGD(
        task.parameters(), options.task_lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    order = stream(seed, "order")
    labels = labels.to(device)
    correct = pairs = torch.zeros((), dtype=torch.int64, device=device)
    task.train()
    with seeded_globals(derive_seed(seed, "dropout"), device):
        for epoch in range(options.task_epochs):
            correct, pairs = torch.zeros_like(correct), torch.zeros_like(pairs)
            batches = torch.split(torch.randperm(len(labels), generator=order), options.batch)
            for step, ids in enumerate(batches):
                if len(ids) < 2:  # a pair, and batch norm, need two samples
                    continue
                logits, ranks = task(images.inputs(ids))
                losses = F.cross_entropy(logits, labels[ids.to(device)], reduction="none")
                optimiser.zero_grad()
                (losses.mean() + ranking_loss(ranks, losses)).backward()
                optimiser.step()
                true_order, predicted_order = (
                    pair_differences(losses.detach()),
                    pair_differences(ranks.detach()),
                )
                correct = correct + (true_order * predicted_order > 0).sum()
                pairs = pairs + (true_order != 0).sum()
                if step % PROGRESS_EVERY == 0:
                    progress(
                        f"ranker, epoch {epoch + 1} of {options.task_epochs}, batch {step} of {len(batches)}"
                    )
    return task.eval(), float(correct / pairs) if pairs else None


def rank_pools(
    task: RankedModel, images: ImagePool, labelled: torch.Tensor, candidates: torch.Tensor, seed: int
) -> RankedPools:
    """The labelled samples and the candidates with their normalised ranks, sigmoid(r - mean of r over candidates)."""
    ranks_of_batches = []
    with torch.no_grad(), seeded_globals(derive_seed(seed, "score"), next(task.parameters()).device):
        for ids in torch.split(torch.cat([labelled, candidates]), SCORE_BATCH):
            ranks_of_batches.append(task(images.inputs(ids))[1])
    ranks = torch.cat(ranks_of_batches).float()
    ranks = torch.sigmoid(ranks - ranks[len(labelled) :].mean())
    return RankedPools(
        RankedSamples(labelled, ranks[: len(labelled)]), RankedSamples(candidates, ranks[len(labelled) :])
    )


def train_vae_and_discriminator(
    options: TAVAAL, images: ImagePool, pools: RankedPools, seed: int, progress: ProgressCallback
) -> tuple[VAE, Discriminator, float]:
    """The trained VAE and discriminator, in eval mode, and the discriminator's last loss.

    Args:
        options: hyper-parameters.
        images: n samples.
        pools: labelled samples and candidates, at least one each.
        seed: of the initialisation, the batches and the latents.
        progress: called every ``PROGRESS_EVERY`` iterations.
    """
    device = pools.candidates.ranks.device
    with seeded_globals(derive_seed(seed, "init", "adversaries")):
        shape = images.inputs(pools.candidates.ids[:1]).shape[1:]
        vae = VAE(shape, options.latent).to(device)
        discriminator = Discriminator(options.latent).to(device)
    vae_optimiser = torch.optim.Adam(vae.parameters(), options.lr)
    discriminator_optimiser = torch.optim.Adam(discriminator.parameters(), options.lr)
    batch_order, latent_noise = stream(seed, "batches"), stream(seed, "latents", device=device)
    loss = torch.zeros((), device=device)
    for step in range(options.iterations):
        rows = [torch.randperm(len(pool.ids), generator=batch_order)[: options.batch] for pool in pools]
        real, fake = (pool.at(chosen) for pool, chosen in zip(pools, rows, strict=True))
        count = len(real.ids)
        inputs = vae.downsample(images.inputs(torch.cat([real.ids, fake.ids])))
        ranks = torch.cat([real.ranks, fake.ranks])
        noise = torch.randn(len(ranks), options.latent, generator=latent_noise, device=device)
        encoding = vae(inputs, ranks, noise)
        adversarial = adversarial_loss(discriminator(encoding.mu, ranks), count)
        total = options.adversary * adversarial
        for part in (slice(count), slice(count, None)):
            total = total + vae_loss(inputs[part], encoding.at(part), options.beta)
        vae_optimiser.zero_grad()
        total.backward()
        vae_optimiser.step()
        with torch.no_grad():
            mu, _ = vae.encode(inputs)
        loss = discriminator_loss(discriminator(mu, ranks), count)
        discriminator_optimiser.zero_grad()  # removes also the gradients of the VAE's step
        loss.backward()
        discriminator_optimiser.step()
        if step % PROGRESS_EVERY == 0:
            progress(f"VAE and discriminator, iteration {step} of {options.iterations}")
    return vae.eval(), discriminator.eval(), float(loss.detach())
