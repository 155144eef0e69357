"""Data augmentation of image batches: random crop and horizontal flip."""

import torch
from torch.nn import functional as F

CROP_PADDING = 4  # pixels each side, for images of 32 (He et al. 2016); in proportion for larger ones


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
