"""The networks of TA-VAAL and their losses: a task model with a loss-ranking module, a VAE and a discriminator.

Source: Kim, Park, Kim, Chun 2021 (CVPR, arXiv:2002.04709), figure 2 and section 3; the losses as in the authors' code.
Differs: the loss-prediction module reads the input of the last linear layer, since every model here has one; the
original reads four feature maps of a ResNet-18. The VAE is narrower (32, 64 and 128 channels instead of 128 to 1024)
and one layer shallower, for a CPU; it adapts to the image size, where the original is made for 28 or 32 pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.models.head import head_of
from metaselect.random import seeded_globals
from metaselect.selection.base import ImagePool

WIDTHS = (32, 64, 128)  # channels of the VAE; each layer halves the image
MAX_SIDE = 64  # pixels; larger images are downsampled before the VAE, as VAAL's code does for ImageNet
HIDDEN = 128  # units of the loss-prediction module, as published
DISCRIMINATOR_HIDDEN = 512  # units of the discriminator, as published
SCORE_BATCH = 500  # samples in a pass without gradients


class RankedModel(nn.Module):
    """A task model with its loss-prediction module, trained jointly.

    Args:
        model: ends in an ``nn.Linear``; it is not copied, and stays on its device.
        device: of the model.
        seed: of the module's initialisation.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, seed: int) -> None:
        super().__init__()
        last = head_of(model)
        self.model = model
        with seeded_globals(seed):
            self.module = nn.Sequential(nn.Linear(last.in_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.module.to(device)
        self.hidden: list[torch.Tensor] = []
        last.register_forward_pre_hook(lambda _, inputs: self.hidden.append(inputs[0]))

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K), and ranks r (B,), higher for a larger predicted loss."""
        logits: torch.Tensor = self.model(inputs)
        return logits, self.module(self.hidden.pop())[:, 0]


def pair_differences(values: torch.Tensor) -> torch.Tensor:
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
        losses: (B,) true losses l, used without their graph; B at least 2.
    """
    target = (pair_differences(losses.detach()).sign() + 1) / 2
    return F.binary_cross_entropy_with_logits(pair_differences(ranks), target)


class RankedSamples(NamedTuple):
    """Samples with the ranks that the ranker predicts for them.

    Attributes:
        ids: (m,) int64, on the CPU.
        ranks: (m,) float32 in [0, 1], on the device.
    """

    ids: torch.Tensor
    ranks: torch.Tensor

    def at(self, rows: torch.Tensor) -> "RankedSamples":
        """The samples at positions ``rows`` (int64, on the CPU)."""
        return RankedSamples(self.ids[rows], self.ranks[rows.to(self.ranks.device)])


class RankedPools(NamedTuple):
    """The two sets of samples that the discriminator tells apart."""

    labelled: RankedSamples
    candidates: RankedSamples

    def is_finite(self) -> bool:
        """Whether all ranks are numbers."""
        return all(bool(torch.isfinite(pool.ranks).all()) for pool in self)


class Encoding(NamedTuple):
    """The output of the VAE for a batch.

    Attributes:
        recon: (B, C, H, W), reconstructed images.
        mu: (B, z), mean of the latent.
        logvar: (B, z), log variance of the latent.
    """

    recon: torch.Tensor
    mu: torch.Tensor
    logvar: torch.Tensor

    def at(self, rows: slice) -> "Encoding":
        """The output for the samples at ``rows``."""
        return Encoding(self.recon[rows], self.mu[rows], self.logvar[rows])


class VAE(nn.Module):
    """A convolutional VAE whose decoder takes the rank beside the latent.

    Args:
        shape: (C, H, W) of the images, of any size.
        latent: z.
    """

    def __init__(self, shape: Sequence[int], latent: int) -> None:
        super().__init__()
        channels, *sides = shape
        self.sides = (min(sides[0], MAX_SIDE), min(sides[1], MAX_SIDE))
        # Shape (C', H', W') after three halvings, each rounded up: the encoder's output and the decoder's input.
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
        self.expand = nn.Linear(latent + 1, flat)
        decoder: list[nn.Module] = []
        for inputs, outputs in ((WIDTHS[2], WIDTHS[1]), (WIDTHS[1], WIDTHS[0])):
            decoder += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.decoder = nn.Sequential(*decoder, nn.ConvTranspose2d(WIDTHS[0], channels, 4, 2, 1))

    def downsample(self, images: torch.Tensor) -> torch.Tensor:
        """The images at the size that the VAE encodes; most have that size already."""
        return images if images.shape[2:] == self.sides else F.adaptive_avg_pool2d(images, self.sides)

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of the latent, (B, z) each, for downsampled images."""
        flat = self.encoder(images)  # (B, C' H' W')
        return self.mu(flat), self.logvar(flat)

    def forward(self, images: torch.Tensor, ranks: torch.Tensor, noise: torch.Tensor) -> Encoding:
        """The reconstruction from one draw of each latent.

        Args:
            images: (B, C, H, W), downsampled.
            ranks: (B,) in [0, 1].
            noise: (B, z), standard normal.
        """
        mu, logvar = self.encode(images)
        latent = mu + noise * (logvar / 2).exp()  # reparametrisation
        grid = self.expand(torch.cat([latent, ranks[:, None]], 1)).unflatten(1, self.grid)
        height, width = self.sides
        return Encoding(self.decoder(grid)[:, :, :height, :width], mu, logvar)


def vae_loss(images: torch.Tensor, encoding: Encoding, beta: float) -> torch.Tensor:
    """MSE + ``beta`` KL, the negative ELBO with means instead of sums of both terms, as published."""
    mu, logvar = encoding.mu, encoding.logvar
    divergence = -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()
    return F.mse_loss(encoding.recon, images) + beta * divergence


class Discriminator(nn.Module):
    """The discriminator, from [mu, rank] to the logit of being labelled.

    Args:
        latent: z.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent + 1, DISCRIMINATOR_HIDDEN),
            nn.ReLU(),
            nn.Linear(DISCRIMINATOR_HIDDEN, DISCRIMINATOR_HIDDEN),
            nn.ReLU(),
            nn.Linear(DISCRIMINATOR_HIDDEN, 1),
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
    """The discriminator's loss: the first ``labelled`` samples are 1, the others 0; both sets have the same weight."""
    real, fake = logits[:labelled], logits[labelled:]
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def adversarial_loss(logits: torch.Tensor, labelled: int) -> torch.Tensor:
    """The VAE's adversarial loss, lowest where the discriminator takes all samples for labelled ones."""
    return F.softplus(-logits[:labelled]).mean() + F.softplus(-logits[labelled:]).mean()


def discriminator_logits(
    vae: VAE, discriminator: Discriminator, images: ImagePool, pool: RankedSamples
) -> torch.Tensor:
    """(m,) logits of D, on the CPU; lower for samples that are less like the labelled ones."""
    logits = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(pool.ids)), SCORE_BATCH):
            samples = pool.at(rows)
            mu, _ = vae.encode(vae.downsample(images.inputs(samples.ids)))
            logits.append(discriminator(mu, samples.ranks).cpu())
    return torch.cat(logits)
