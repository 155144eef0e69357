"""Pictures in, features out: threads decode while the encoder computes, and few pictures are held at a time."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image

from metaselect.data.depth import PixelRange
from metaselect.data.images import decode
from metaselect.data.readers.base import Content, UnusableContent
from metaselect.encoders.base import Encoder
from metaselect.encoders.zero_shot import ZeroShot
from metaselect.errors import UsageError

MOST_WORKERS = 16  # threads that decode

Prepared: TypeAlias = np.ndarray | UnusableContent
"""(3, H, W) uint8, or why there is none."""


class Computation(NamedTuple):
    """How features are computed.

    Attributes:
        encoder: its module lies on the device.
        classifier: for class probabilities of the features; None: none are wanted.
        device: of the computation.
        batch_size: pictures at a time.
        amp: bfloat16 autocast.
        scale: of pictures of more than 8 bits.
    """

    encoder: Encoder
    classifier: ZeroShot | None
    device: torch.device
    batch_size: int
    amp: bool
    scale: PixelRange | None


def encode(how: Computation, prepared: Iterable[tuple[int, Prepared]]) -> Iterator[tuple[int, Prepared]]:
    """(position, features (d,) float32) of each picture, in order; (position, reason) of those without pixels.

    Args:
        how: the computation.
        prepared: (position, pixels), as ``prepare`` gives them; batches are counted from the first one.

    Raises:
        UsageError: the encoder gives something else than finite features, (B, d).
    """
    source = iter(prepared)
    while batch := list(islice(source, how.batch_size)):
        usable = [pixels for _, pixels in batch if isinstance(pixels, np.ndarray)]
        features = iter(_features(how, np.stack(usable)) if usable else ())
        for position, pixels in batch:
            yield position, pixels if isinstance(pixels, UnusableContent) else next(features)


def prepare(how: Computation, contents: Iterable[tuple[int, Content]]) -> Iterator[tuple[int, Prepared]]:
    """(position, pixels) of each picture, in order, decoded by threads up to two batches ahead."""

    def pixels(content: Content) -> Prepared:
        image = decode(content, how.scale) if isinstance(content, bytes) else content
        if isinstance(image, Image.Image):
            return how.encoder.preprocessing.pixels(image)
        assert isinstance(image, UnusableContent), "the source has images alone"
        return image

    waiting: deque[tuple[int, Future[Prepared]]] = deque()
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_WORKERS))
    try:
        for position, content in contents:
            waiting.append((position, pool.submit(pixels, content)))
            if len(waiting) > 2 * how.batch_size:
                first, future = waiting.popleft()
                yield first, future.result()
        for position, future in waiting:
            yield position, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _features(how: Computation, pixels: np.ndarray) -> np.ndarray:
    """(B, d) float32."""
    name = f"--encoder {how.encoder.name}"
    with torch.no_grad(), torch.autocast(how.device.type, torch.bfloat16, enabled=how.amp):
        inputs = how.encoder.preprocessing.normalise(torch.from_numpy(pixels).to(how.device))
        features = how.encoder.module(inputs)
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != len(pixels):
        shape = (
            f"shape {tuple(features.shape)}"
            if isinstance(features, torch.Tensor)
            else type(features).__name__
        )
        raise UsageError(
            f"{name} gives {shape} for {len(pixels)} pictures, not one row of features each.",
            "Name an encoder that pools its outputs.",
        )
    found: np.ndarray = features.float().cpu().numpy()
    if not np.isfinite(found).all():
        raise UsageError(f"{name} gives features that are not finite.", "Leave bfloat16 out: --no-amp")
    return found
