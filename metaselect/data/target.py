"""The form in which the samples of a pool are stored, from the headers of its images."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from PIL import Image

from metaselect.data.depth import PixelRange, PixelValues
from metaselect.data.images import COLOUR, GREY, Shape, decode, deep_values, probe, to_pixels
from metaselect.data.listing import Listing
from metaselect.data.readers.base import BadSamples, Content, Pair, UnusableContent
from metaselect.data.stored.places import PLACE, EncodedSizes, StoreChoice
from metaselect.data_options import AUTO, IngestOptions
from metaselect.records import Reporter
from metaselect.run.layout import FEATURES, IMAGES
from metaselect.text import counted

AUTO_LIMIT = 224  # pixels; larger images of mixed sizes are brought down to this


@dataclass(frozen=True)
class Target:
    """The stored form of every sample.

    Attributes:
        size: (H, W); empty where there are no images.
        mode: "L" or "RGB"; empty where there are no images.
        width: d; 0 where there are no features.
        pixel_range: how images of more than 8 bits are scaled to 8; None where there are none.
        fit: how images of other proportions are brought to the size, see ``images.to_pixels``.
        encoded: whether images stay encoded, so that only their places are stored.
    """

    size: tuple[int, ...]
    mode: str
    width: int
    pixel_range: PixelRange | None = None
    fit: str = "crop"
    encoded: bool = False

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the pixels of one sample; empty where there are no images."""
        return (1 if self.mode == GREY else 3, *self.size) if self.size else ()

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """The shape of one stored sample and its number type, by kind: "images" before "features"."""
        kinds: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        if self.size:
            kinds[IMAGES] = ((), PLACE) if self.encoded else (self.image_shape, np.dtype(np.uint8))
        if self.width:
            kinds[FEATURES] = (self.width,), np.dtype(np.float32)
        return kinds

    def stored_pixels(self, raw: bytes) -> np.ndarray | UnusableContent:
        """(C, H, W) uint8 of an encoded image, as the store has them; or why it cannot be decoded."""
        image = decode(raw, self.pixel_range)
        return image if isinstance(image, UnusableContent) else self.pixels(image)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The same of a decoded image."""
        height, width = self.size
        return to_pixels(image, (height, width), self.mode, self.fit)


@dataclass
class Headers:
    """What the headers of a data set's images say, and the values of those that have more than 8 bits.

    Attributes:
        sizes: (width, height) -> how many images have it.
        grey: whether no image has colour.
        values: of the deep images.
    """

    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    grey: bool = True
    values: PixelValues = field(default_factory=PixelValues)


def read_headers(
    listing: Listing, bad: BadSamples, report: Reporter, seen: Callable[[int, Content], None] | None = None
) -> Headers:
    """The headers of all kept images; unusable ones are left out here, and listed when they are decoded.

    Args:
        listing: the samples.
        bad: what to do with images that cannot be used.
        report: progress.
        seen: called with the position and the content of each.

    Raises:
        DataError: an image is unusable and the policy is to stop, before the others are decoded.
    """
    found = Headers()
    with report.track(int(listing.keep.sum()), "Looking at images", "images") as advance:
        for position, content in listing.source.contents(listing.keep):
            if seen is not None:
                seen(position, content)
            if isinstance(content, Pair):
                content = content.image
            shape = probe(content) if isinstance(content, bytes) else content
            if isinstance(shape, UnusableContent) and not bad.skip:
                bad.add(listing.bad(position, shape.reason))
            if isinstance(content, bytes) and isinstance(shape, Shape):
                found.sizes[shape.size] = found.sizes.get(shape.size, 0) + 1
                found.grey = found.grey and shape.grey
                values = deep_values(content) if shape.deep else None
                if isinstance(values, np.ndarray):
                    found.values.add(values)
            advance(1)
    return found


def choose_target(
    listing: Listing, options: IngestOptions, sizes: EncodedSizes, bad: BadSamples, report: Reporter
) -> Target:
    """The stored form of a pool's samples, from the headers of its images.

    Images that all have one size keep it; else they become squares of the median shorter side, at most 224 pixels.

    Args:
        listing: the samples.
        options: the size in place of that rule, the range in place of that of ``PixelValues.range``, the fit and the
            store.
        sizes: is filled with the bytes of all images.
        bad: what to do with images that cannot be used.
        report: notes, warnings and progress.
    """
    if IMAGES not in listing.source.kinds:
        return Target((), "", listing.source.width())
    found = read_headers(listing, bad, report, sizes.add)
    scale = choose_range(found, options.pixel_range, report)
    mode = GREY if found.grey else COLOUR
    size = _size(found, options.image_size, report)
    target = Target(size, mode, listing.source.width(), scale, options.fit)
    decoded = int(listing.keep.sum()) * prod(target.image_shape)
    choice = StoreChoice(decoded, int(sizes.sizes.sum()))
    if options.store != AUTO or choice.is_large:
        report.note(choice.sentence(options.store))
    return replace(target, encoded=choice.stays_encoded(options.store))


def choose_range(found: Headers, given: tuple[float, float] | None, report: Reporter) -> PixelRange | None:
    """How images of more than 8 bits are scaled: as the user says, else by the rule of ``PixelValues.range``."""
    scale = found.values.range() if given is None else PixelRange(*given)
    if scale is not None and found.values.count:
        deep = counted(found.values.count, "image has", "images have")
        report.note(f"{deep} more than 8 bits a pixel: {scale} becomes 0 to 255 (--pixel-range).")
        for remark in found.values.remarks(scale):
            report.warn(remark)
    return scale


def _size(found: Headers, size: int | None, report: Reporter) -> tuple[int, int]:
    """(H, W) of all stored images."""
    if size is not None:
        return size, size
    if len(found.sizes) == 1:
        ((width, height),) = found.sizes
        return height, width
    side = min(_median_side(found.sizes), AUTO_LIMIT)
    if found.sizes:
        report.note(
            f"Images have {len(found.sizes)} sizes; all are resized to {side} x {side} (--image-size)."
        )
    return side, side


def _median_side(sizes: dict[tuple[int, int], int]) -> int:
    """The lower median of the shorter sides; sizes count how often each occurs."""
    sides: dict[int, int] = {}
    for size, count in sizes.items():
        sides[min(size)] = sides.get(min(size), 0) + count
    half, seen = (sum(sides.values()) + 1) // 2, 0
    for side in sorted(sides):
        seen += sides[side]
        if seen >= half:
            return side
    return 1  # no readable image at all: every sample is bad
