"""The nets of TA-VAAL and their losses: a task model that ranks its own losses, a VAE and a discriminator.

Source: Kim, Park, Kim, Chun 2021 (CVPR, arXiv:2002.04709), figure 2 and section 3; the losses as in the authors' code.
Differs: the loss-prediction module reads the input of the last linear layer, since every model here has one; the
original reads four feature maps of a ResNet-18. The VAE is narrower (32, 64 and 128 channels instead of 128 to 1024)
and one layer shallower, for a CPU; it fits itself to the image, where the original is made for 28 or 32 pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.models.build import last_linear
from metaselect.random import seeded_globals
from metaselect.selection.base import ImagePool

WIDTHS = (32, 64, 128)  # channels of the VAE; each layer halves the image
LARGEST = 64  # pixels a side that the VAE sees; larger images are reduced, as in VAAL's own for ImageNet
HIDDEN = 128  # units of the loss-prediction module, as published
ADVERSARY_HIDDEN = 512  # units of the discriminator, as published
SCORE_BATCH = 500  # samples of a pass without gradients


class RankedModel(nn.Module):
    """A task model and its loss-prediction module, trained as one.

    Args:
        model: ends in an ``nn.Linear``; it is taken over, not copied, and stays on its device.
        device: of the model.
        seed: of the module's initialisation.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, seed: int) -> None:
        super().__init__()
        last = last_linear(model)
        self.model = model
        with seeded_globals(seed):
            self.module = nn.Sequential(nn.Linear(last.in_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.module.to(device)
        self.caught: list[torch.Tensor] = []
        last.register_forward_pre_hook(lambda _, inputs: self.caught.append(inputs[0]))

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K), and r (B,), the higher, the larger the loss is thought to be."""
        logits: torch.Tensor = self.model(inputs)
        return logits, self.module(self.caught.pop())[:, 0]


def paired(values: torch.Tensor) -> torch.Tensor:
    """(B // 2,) differences between the first and the last, the second and the last but one, and so on.

    Args:
        values: (B,); of an odd number the one in the middle has no partner.
    """
    half = len(values) // 2
    return values[:half] - values.flip(0)[:half]


def ranking_loss(ranks: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Mean over the pairs of the binary cross-entropy of sigmoid(r_i - r_j) and [l_i > l_j].

    Differs: equal losses count half for either side; in the authors' code the second of the pair wins.

    Args:
        ranks: (B,) r.
        losses: (B,) true losses l, through which nothing is learnt; B at least 2.
    """
    target = (paired(losses.detach()).sign() + 1) / 2
    return F.binary_cross_entropy_with_logits(paired(ranks), target)


class RankedSamples(NamedTuple):
    """Samples and what the ranker says of them.

    Attributes:
        ids: (m,) int64, on the CPU.
        ranks: (m,) float32 in [0, 1], on the device.
    """

    ids: torch.Tensor
    ranks: torch.Tensor

    def at(self, rows: torch.Tensor) -> "RankedSamples":
        """Those at ``rows`` (CPU)."""
        return RankedSamples(self.ids[rows], self.ranks[rows.to(self.ranks.device)])


class RankedPools(NamedTuple):
    """The two kinds that the discriminator tells apart."""

    labelled: RankedSamples
    candidates: RankedSamples

    def finite(self) -> bool:
        """Whether all ranks are numbers."""
        return all(bool(torch.isfinite(kind.ranks).all()) for kind in self)


class Encoded(NamedTuple):
    """What the VAE makes of a batch.

    Attributes:
        recon: (B, C, H, W).
        mu: (B, z).
        logvar: (B, z).
    """

    recon: torch.Tensor
    mu: torch.Tensor
    logvar: torch.Tensor

    def at(self, rows: slice) -> "Encoded":
        """That of those rows."""
        return Encoded(self.recon[rows], self.mu[rows], self.logvar[rows])


class VAE(nn.Module):
    """A convolutional VAE whose decoder also gets the rank.

    Args:
        shape: (C, H, W) of the images, of any size.
        latent: z.
    """

    def __init__(self, shape: Sequence[int], latent: int) -> None:
        super().__init__()
        channels, *sides = shape
        self.sides = (min(sides[0], LARGEST), min(sides[1], LARGEST))
        # Three halvings, each rounded up: what the encoder ends with and the decoder starts from.
        self.grid = (WIDTHS[-1], *(-(-side // 8) for side in self.sides))
        flat = torch.Size(self.grid).numel()
        encoder: list[nn.Module] = []
        for inputs, outputs in zip((channels, *WIDTHS), WIDTHS, strict=False):
            encoder += [
                nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.encoder = nn.Sequential(*encoder, nn.Flatten())
        self.mu = nn.Linear(flat, latent)
        self.logvar = nn.Linear(flat, latent)
        self.spread = nn.Linear(latent + 1, flat)
        decoder: list[nn.Module] = []
        for inputs, outputs in ((WIDTHS[2], WIDTHS[1]), (WIDTHS[1], WIDTHS[0])):
            decoder += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.decoder = nn.Sequential(*decoder, nn.ConvTranspose2d(WIDTHS[0], channels, 4, 2, 1))

    def shrink(self, images: torch.Tensor) -> torch.Tensor:
        """The images at the size that is encoded and reconstructed; most are of that size."""
        return images if images.shape[2:] == self.sides else F.adaptive_avg_pool2d(images, self.sides)

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mu and log variance, (B, z) each, of shrunk images."""
        found = self.encoder(images)
        return self.mu(found), self.logvar(found)

    def forward(self, images: torch.Tensor, ranks: torch.Tensor, noise: torch.Tensor) -> Encoded:
        """One sample of the latent a sample, decoded.

        Args:
            images: (B, C, H, W), shrunk.
            ranks: (B,) in [0, 1].
            noise: (B, z), standard normal.
        """
        mu, logvar = self.encode(images)
        latent = mu + noise * (logvar / 2).exp()
        grid = self.spread(torch.cat([latent, ranks[:, None]], 1)).unflatten(1, self.grid)
        height, width = self.sides
        return Encoded(self.decoder(grid)[:, :, :height, :width], mu, logvar)


def vae_loss(images: torch.Tensor, encoded: Encoded, beta: float) -> torch.Tensor:
    """The negative ELBO with the means, not the sums, of both terms, as published: MSE + ``beta`` KL."""
    mu, logvar = encoded.mu, encoded.logvar
    divergence = -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()
    return F.mse_loss(encoded.recon, images) + beta * divergence


class Discriminator(nn.Module):
    """From [mu, rank] to the logit of being labelled.

    Args:
        latent: z.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent + 1, ADVERSARY_HIDDEN),
            nn.ReLU(),
            nn.Linear(ADVERSARY_HIDDEN, ADVERSARY_HIDDEN),
            nn.ReLU(),
            nn.Linear(ADVERSARY_HIDDEN, 1),
        )

    def forward(self, mu: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
        """(B,) logits of D.

        Args:
            mu: (B, z).
            ranks: (B,) in [0, 1].
        """
        logits: torch.Tensor = self.layers(torch.cat([mu, ranks[:, None]], 1))
        return logits[:, 0]


def discriminator_loss(logits: torch.Tensor, labelled: int) -> torch.Tensor:
    """What the discriminator minimises: the first ``labelled`` are 1, the others 0; each kind counts the same."""
    real, fake = logits[:labelled], logits[labelled:]
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def adversarial_loss(logits: torch.Tensor, labelled: int) -> torch.Tensor:
    """What the VAE minimises: that all are taken for labelled."""
    return F.softplus(-logits[:labelled]).mean() + F.softplus(-logits[labelled:]).mean()


def discriminator_logits(
    vae: VAE, discriminator: Discriminator, images: ImagePool, kind: RankedSamples
) -> torch.Tensor:
    """(m,) logits of D, on the CPU: the lower, the less like the labelled ones."""
    found = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(kind.ids)), SCORE_BATCH):
            some = kind.at(rows)
            mu, _ = vae.encode(vae.shrink(images.inputs(some.ids)))
            found.append(discriminator(mu, some.ranks).cpu())
    return torch.cat(found)
