"""Data augmentation of image batches: "weak", a random crop and flip, and "strong", distorted images besides.

Source: the two words and what they mean are of FixMatch (Sohn et al. 2020, arXiv:2001.07685).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from metaselect.random import seeded_globals

if TYPE_CHECKING:
    from torchvision.transforms.v2 import Compose

Augment = Callable[[torch.Tensor], torch.Tensor]
"""From (B, C, H, W) uint8 images to others of the same shape and type."""

CROP_PADDING = 4  # pixels each side, for images of 32 (He et al. 2016); in proportion for larger ones
LARGEST_HOLE = 0.25  # of an image's area: half its height and width, as in FixMatch


def augmentation(name: str, generator: torch.Generator) -> Augment | None:
    """The augmentation called "weak" or "strong", which draws from ``generator``; None for "none"."""
    kinds = {"weak": random_crop_flip, "strong": strong}
    return None if name == "none" else partial(kinds[name], generator=generator)


def strong(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image cropped and flipped, then distorted by RandAugment, and a random square of it made black (Cutout).

    Source: RandAugment (Cubuk et al. 2020, arXiv:1909.13719), Cutout (DeVries and Taylor 2017, arXiv:1708.04552).
    Differs: torchvision's constants, 2 operations of magnitude 9; the square lies within the image and has at most
    ``LARGEST_HOLE`` of its area.

    Args:
        images: (B, C, H, W) uint8.
        generator: on the images' device, or on the CPU.
    """
    images = random_crop_flip(images, generator)
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    with seeded_globals(int(seed), images.device):  # transforms take no generator
        # One by one, since a transform of a batch distorts all of its images alike.
        return torch.stack([_distortion()(image) for image in images])


@cache
def _distortion() -> "Compose":
    from torchvision.transforms import v2  # takes 1.5 s, so it is imported only when needed

    return v2.Compose(
        [v2.RandAugment(), v2.RandomErasing(p=1.0, scale=(0.02, LARGEST_HOLE), ratio=(1.0, 1.0))]
    )


def random_crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image shifted by up to an eighth of its size (zeros move in) and mirrored with probability 1/2.

    Args:
        images: (B, C, H, W), any type.
        generator: on the images' device, or on the CPU.
    """
    count, _, height, width = images.shape
    device, drawn_on = images.device, generator.device
    pad = max(CROP_PADDING * min(height, width) // 32, 1)
    padded = F.pad(images, (pad, pad, pad, pad))
    corner = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator, device=drawn_on)
    top, left = corner.to(device)
    flip = torch.rand((count, 1), generator=generator, device=drawn_on).to(device) < 0.5
    rows = top + torch.arange(height, device=device)
    across = torch.arange(width, device=device).expand(count, -1)
    columns = left + torch.where(flip, width - 1 - across, across)
    sample = torch.arange(count, device=device)[:, None, None]
    # Advanced indices around the channel slice put it last: (B, H, W, C).
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
