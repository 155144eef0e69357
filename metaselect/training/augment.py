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

Augment = Callable[[torch.Tensor, slice, int], torch.Tensor]
"""From (b, C, H, W) uint8 images, the rows ``slice`` of a batch of B, to others of the same shape and type.

What is drawn depends on the place in the whole batch alone, whichever rows are there.
"""

CROP_PADDING = 4  # pixels each side, for images of 32 (He et al. 2016); in proportion for larger ones
LARGEST_HOLE = 0.25  # of an image's area: half its height and width, as in FixMatch


def augmentation(name: str, generator: torch.Generator) -> Augment | None:
    """The augmentation called "weak" or "strong", which draws from ``generator``; None for "none"."""
    kinds = {"weak": random_crop_flip, "strong": strong}
    return None if name == "none" else partial(kinds[name], generator=generator)


def strong(images: torch.Tensor, rows: slice, count: int, generator: torch.Generator) -> torch.Tensor:
    """Each image cropped and flipped, then distorted by RandAugment, and a random square of it made black (Cutout).

    Source: RandAugment (Cubuk et al. 2020, arXiv:1909.13719), Cutout (DeVries and Taylor 2017, arXiv:1708.04552).
    Differs: torchvision's constants, 2 operations of magnitude 9; the square lies within the image and has at most
    ``LARGEST_HOLE`` of its area.

    Args:
        images: (b, C, H, W) uint8.
        rows: their places in the batch.
        count: B, of the batch.
        generator: on the images' device, or on the CPU.
    """
    images = random_crop_flip(images, rows, count, generator)
    seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device)[rows].tolist()
    distorted = []
    # One by one, since a transform of a batch distorts all of its images alike.
    for seed, image in zip(seeds, images, strict=True):
        with seeded_globals(seed, images.device):  # transforms take no generator
            distorted.append(_distortion()(image))
    return torch.stack(distorted)


@cache
def _distortion() -> "Compose":
    from torchvision.transforms import v2  # takes 1.5 s, so it is imported only when needed

    return v2.Compose(
        [v2.RandAugment(), v2.RandomErasing(p=1.0, scale=(0.02, LARGEST_HOLE), ratio=(1.0, 1.0))]
    )


def random_crop_flip(
    images: torch.Tensor, rows: slice, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Each image shifted by up to an eighth of its size (zeros move in) and mirrored with probability 1/2.

    Args:
        images: (b, C, H, W), any type.
        rows: their places in the batch.
        count: B, of the batch.
        generator: on the images' device, or on the CPU.
    """
    height, width = images.shape[2:]
    device, drawn_on = images.device, generator.device
    pad = max(CROP_PADDING * min(height, width) // 32, 1)
    padded = F.pad(images, (pad, pad, pad, pad))
    corner = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator, device=drawn_on)[:, rows]
    top, left = corner.to(device)
    flip = torch.rand((count, 1), generator=generator, device=drawn_on)[rows].to(device) < 0.5
    from_rows = top + torch.arange(height, device=device)
    across = torch.arange(width, device=device).expand(len(images), -1)
    columns = left + torch.where(flip, width - 1 - across, across)
    sample = torch.arange(len(images), device=device)[:, None, None]
    # Advanced indices around the channel slice put it last: (B, H, W, C).
    return padded[sample, :, from_rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
