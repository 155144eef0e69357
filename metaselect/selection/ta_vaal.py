"""TA-VAAL: buy what a discriminator is surest was not bought, from a VAE's latent and a ranking of the losses.

Source: Kim, Park, Kim, Chun 2021 (CVPR, arXiv:2002.04709), algorithm of the supplement, and the authors' code; as a
baseline here: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), where the ranker was never trained.
Differs: the task model starts from the warm-up and learns from the given labels of the whole pool, since all samples
have one; the original learns from the bought ones alone. A first round, in which nothing is bought, is in part random.
Bought and other images pass through the VAE as one batch and are scored with its running averages: batch norm over
each kind alone would take away what tells them apart, and a score would depend on its neighbours. Ranks are centred
before the sigmoid, since the ranking loss leaves their mean open (-10 on MNIST, where all would be 0); discriminator
and decoder get the same ones (the code gives the discriminator those before the sigmoid), computed once.
By default 500 iterations instead of about 10,000, which take too long on a CPU: 40 seconds for MNIST on one thread.
Nets: see ``ta_vaal_nets``.
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
    paired,
    ranking_loss,
    vae_loss,
)

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # of the task model's SGD, as published
PROGRESS_EVERY = 50  # steps


@dataclass(frozen=True)
class TAVAAL:
    """Hyper-parameters.

    Attributes:
        initial: share of a first round's budget that is drawn at random, in (0, 1); at least one sample.
        candidates: pool samples, seeded, that are looked at, at most; all are if they are fewer than the budget.
        task_epochs: of the task model and the ranker over the pool.
        task_lr: of their SGD, per step.
        iterations: of the VAE and the discriminator.
        batch: samples of a step: of the pool, and of bought and other ones each.
        latent: width of the VAE's latent.
        lr: of Adam for the VAE and for the discriminator, per step.
        beta: weight of the KL term, 1 as published; the ELBO of pixels with variance 1 has 2 z / (C H W), less than a
            tenth of that on MNIST, where 1 leaves the latent little to say.
        adversary: weight of the VAE's wish to fool the discriminator.
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
                f"--option batch={self.batch} has no pairs to rank.",
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
        """The ``budget`` candidates of lowest D; in a first round, after those drawn at random.

        ``similarity`` is 1 - D for candidates and 0 for all others, among them those drawn at random.
        """
        images = features.images
        if images is None or len(images.shape) != 3:
            raise UsageError("ta-vaal needs images, and this pool holds none.", "Choose another --method.")
        similarity = torch.zeros(len(features.labels))
        seed = int(torch.randint(2**62, (), generator=generator))
        # Nothing to compare with in a first round, so a share of it is drawn.
        count = 0 if len(bought) else max(math.ceil(self.initial * budget - 1e-9), 1)
        shuffled = lowest_unbought(similarity, len(similarity), bought)  # all that are not bought
        shuffled = shuffled[torch.randperm(len(shuffled), generator=stream(seed, "draw"))]
        drawn, rest = shuffled[:count], shuffled[count:]
        if len(drawn) == budget:
            return choice_without_clusters(drawn, similarity, {"drawn": count, "candidates": 0})
        enough = self.candidates >= budget - count
        candidates = rest[: self.candidates].sort().values if enough else rest.sort().values
        task, accuracy = train_task_model(self, images, features.labels, seed, progress)
        kinds = rank_pools(task, images, bought if len(bought) else drawn, candidates, seed)
        if not kinds.finite():
            raise UsageError(
                f"--option task_lr={self.task_lr}: the training diverged.", "Give a smaller one."
            )
        vae, discriminator, loss = train_vae_and_discriminator(self, images, kinds, seed, progress)
        logits = discriminator_logits(vae, discriminator, images, kinds.candidates)
        if not torch.isfinite(logits).all():
            raise UsageError(f"--option lr={self.lr}: the training diverged.", "Give a smaller one.")
        # By the logits: D itself is 0 in float32 for all that are very unlike.
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
    """The task model with its ranker, trained jointly on all labels, in eval mode.

    Also the share of pairs of unequal loss that the ranker ordered rightly in the last epoch, if there were any.

    Args:
        options: hyper-parameters.
        images: n samples.
        labels: (n,) int64.
        seed: of the initialisation, of the order and of dropout.
        progress: hears of the steps.
    """
    device = images.inputs(torch.zeros(1, dtype=torch.int64)).device
    task = RankedModel(images.model(), device, seed=derive_seed(seed, "init", "ranker")).requires_grad_(True)
    optimiser = torch.optim.SGD(
        task.parameters(), options.task_lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    order = stream(seed, "order")
    labels = labels.to(device)
    right = pairs = torch.zeros((), dtype=torch.int64, device=device)
    task.train()
    with seeded_globals(derive_seed(seed, "dropout"), device):
        for epoch in range(options.task_epochs):
            right, pairs = torch.zeros_like(right), torch.zeros_like(pairs)
            chunks = torch.split(torch.randperm(len(labels), generator=order), options.batch)
            for step, ids in enumerate(chunks):
                if len(ids) < 2:  # no pair, and nothing that batch norm could do
                    continue
                logits, ranks = task(images.inputs(ids))
                losses = F.cross_entropy(logits, labels[ids.to(device)], reduction="none")
                optimiser.zero_grad()
                (losses.mean() + ranking_loss(ranks, losses)).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                truth, said = paired(losses.detach()), paired(ranks.detach())
                right = right + (truth * said > 0).sum()
                pairs = pairs + (truth != 0).sum()
                if step % PROGRESS_EVERY == 0:
                    progress(
                        f"ranker, epoch {epoch + 1} of {options.task_epochs}, batch {step} of {len(chunks)}"
                    )
    return task.eval(), float(right / pairs) if pairs else None


def rank_pools(
    task: RankedModel, images: ImagePool, labelled: torch.Tensor, candidates: torch.Tensor, seed: int
) -> RankedPools:
    """Both kinds with their normalised ranks: sigmoid(r - mean of r over the candidates)."""
    found = []
    with torch.no_grad(), seeded_globals(derive_seed(seed, "score"), next(task.parameters()).device):
        for ids in torch.split(torch.cat([labelled, candidates]), SCORE_BATCH):
            found.append(task(images.inputs(ids))[1])
    ranks = torch.cat(found).float()
    ranks = torch.sigmoid(ranks - ranks[len(labelled) :].mean())
    return RankedPools(
        RankedSamples(labelled, ranks[: len(labelled)]), RankedSamples(candidates, ranks[len(labelled) :])
    )


def train_vae_and_discriminator(
    options: TAVAAL, images: ImagePool, kinds: RankedPools, seed: int, progress: ProgressCallback
) -> tuple[VAE, Discriminator, float]:
    """VAE and discriminator, in eval mode, and the discriminator's last loss.

    Args:
        options: hyper-parameters.
        images: n samples.
        kinds: the samples of both kinds, at least one each.
        seed: of the initialisation, the batches and the latents.
        progress: hears of the iterations.
    """
    device = kinds.candidates.ranks.device
    with seeded_globals(derive_seed(seed, "init", "adversaries")):
        shape = images.inputs(kinds.candidates.ids[:1]).shape[1:]
        vae = VAE(shape, options.latent).to(device)
        discriminator = Discriminator(options.latent).to(device)
    vae_steps = torch.optim.Adam(vae.parameters(), options.lr)
    discriminator_steps = torch.optim.Adam(discriminator.parameters(), options.lr)
    draws, noises = stream(seed, "batches"), stream(seed, "latents", device=device)
    loss = torch.zeros((), device=device)
    for step in range(options.iterations):
        rows = [torch.randperm(len(kind.ids), generator=draws)[: options.batch] for kind in kinds]
        real, fake = (kind.at(chosen) for kind, chosen in zip(kinds, rows, strict=True))
        count = len(real.ids)
        inputs = vae.shrink(images.inputs(torch.cat([real.ids, fake.ids])))
        ranks = torch.cat([real.ranks, fake.ranks])
        noise = torch.randn(len(ranks), options.latent, generator=noises, device=device)
        encoded = vae(inputs, ranks, noise)
        wish = adversarial_loss(discriminator(encoded.mu, ranks), count)
        total = options.adversary * wish
        for part in (slice(count), slice(count, None)):
            total = total + vae_loss(inputs[part], encoded.at(part), options.beta)
        vae_steps.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        vae_steps.step()
        with torch.no_grad():
            mu, _ = vae.encode(inputs)
        loss = discriminator_loss(discriminator(mu, ranks), count)
        discriminator_steps.zero_grad()  # also of what the VAE's step left there
        loss.backward()  # type: ignore[no-untyped-call]
        discriminator_steps.step()
        if step % PROGRESS_EVERY == 0:
            progress(f"VAE and discriminator, iteration {step} of {options.iterations}")
    return vae.eval(), discriminator.eval(), float(loss.detach())
