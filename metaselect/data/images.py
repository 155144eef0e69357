"""Decoding one image, hashing its pixels, and resizing it to the size of the pool."""

import hashlib
import io
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from metaselect.data.depth import PixelRange
from metaselect.data.readers.base import UnusableContent

GREY = "L"
COLOUR = "RGB"
# Named one by one: Pillow knows formats that start other programs (EPS) or read other files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
DEEP_GREY = frozenset(("I", "F", "I;16", "I;16B", "I;16L", "I;16N"))  # modes of more than 8 bits
GREY_MODES = frozenset(("1", "L", "LA", *DEEP_GREY))
DEEP_COLOUR = re.compile(r"(RGBX?|RGBA|LA);16[BLN]")  # raw modes, of which Pillow keeps the upper bytes
SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # these read the lower bytes
MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB as RGB
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = 1


PLUGINS = {
    "a HEIC image, which needs the package pillow-heif": (
        b"heic",
        b"heix",
        b"hevc",
        b"heim",
        b"heis",
        b"mif1",
    ),
    "an AVIF image, which needs Pillow 11.3 or newer": (b"avif", b"avis"),
}
"""The ends of sentences about images that only further software reads, and the brands in their headers."""

T = TypeVar("T")


class Shape(NamedTuple):
    """What the header of an image says.

    Attributes:
        size: (width, height) in pixels, as a viewer shows it.
        grey: whether the image has no colour.
        deep: whether its pixels have more than 8 bits a channel.
        format: Pillow's name of the file format: "PNG", "JPEG", ...
    """

    size: tuple[int, int]
    grey: bool
    deep: bool
    format: str


class _DeepPixels(NamedTuple):
    """An upright image of more than 8 bits: values (H, W) or (H, W, 3), and opacity (H, W) uint8 if it has any."""

    values: np.ndarray
    alpha: np.ndarray | None = None


@cache
def formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this installation reads; HEIC is read where pillow-heif is installed."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def probe(raw: bytes) -> Shape | UnusableContent:
    """Size and mode of an encoded image, from its header alone; or why it cannot be read."""
    return _attempt(raw, lambda: _shape(Image.open(io.BytesIO(raw), formats=formats())))


def decode(raw: bytes, scale: PixelRange | None = None) -> Image.Image | UnusableContent:
    """The image upright, in mode L if it has no colour, else RGB, over white; or why it cannot be decoded.

    Args:
        raw: the bytes of the file.
        scale: of pixels of more than 8 bits; None: such an image is refused.
    """

    def read() -> Image.Image | UnusableContent:
        image = _open(raw)
        if isinstance(image, UnusableContent):
            return image
        if not _shape(image).deep:
            return _canonical(_upright(image))
        pixels = _deep_pixels(raw, image)  # first: that it is damaged is the better reason
        if scale is None:
            return UnusableContent("it has more than 8 bits a pixel, and the images of the run have 8")
        return _scaled(pixels, scale)

    return _attempt(raw, read)


def deep_values(raw: bytes) -> np.ndarray | UnusableContent:
    """The values of an image of more than 8 bits a channel, (H, W) or (H, W, 3); or why it cannot be decoded."""

    def read() -> np.ndarray | UnusableContent:
        image = _open(raw)
        return image if isinstance(image, UnusableContent) else _deep_pixels(raw, image).values

    return _attempt(raw, read)


def content_hash(image: Image.Image) -> str:
    """Hex digest over mode, size and pixels of a decoded image: the same for PNG and BMP of one picture."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def to_pixels(image: Image.Image, size: tuple[int, int], mode: str, fit: str = "crop") -> np.ndarray:
    """(C, H, W) uint8: the image resized (bilinear, antialiased) to a size of other proportions.

    Args:
        image: decoded, L or RGB.
        size: (H, W).
        mode: "L" or "RGB".
        fit: "crop" cuts the centre out of an image that covers the size, "pad" puts the whole image on black, and
            "squash" changes its proportions.
    """
    if image.mode != mode:
        image = image.convert(mode)
    height, width = size
    if (image.width, image.height) != (width, height):
        scales = width / image.width, height / image.height
        # The larger scale, so that both sides are covered and only the longer one is cut; or the smaller one.
        across, down = {"crop": (max(scales),) * 2, "pad": (min(scales),) * 2, "squash": scales}[fit]
        wide, high = max(1, round(image.width * across)), max(1, round(image.height * down))
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        # Half of what is to be cut; negative, half of the border, which is black.
        left, top = int((wide - width) / 2), int((high - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image)  # (H, W) or (H, W, 3)
    return pixels[None] if mode == GREY else pixels.transpose(2, 0, 1)  # (C, H, W)


def encode_png(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG file with these (C, H, W) uint8 pixels."""
    stream = io.BytesIO()
    picture = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()


def _attempt(raw: bytes, read: Callable[[], T]) -> T | UnusableContent:
    """What ``read`` makes of the bytes of a file, or the reason why it cannot."""
    if not raw:
        return UnusableContent("it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images at half of its limit
            return read()
    except MemoryError:
        raise
    except Exception as error:  # on arbitrary bytes, Pillow's decoders raise any class of error
        return _unreadable(error, raw)


def _open(raw: bytes) -> Image.Image | UnusableContent:
    """The image with its header read; refused if it has too many pixels."""
    image = Image.open(io.BytesIO(raw), formats=formats())
    if image.width * image.height > MAX_PIXELS:
        return UnusableContent(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS}")
    return image


def _shape(image: Image.Image) -> Shape:
    width, height = image.size
    # Orientations 5 to 8 are rotated by 90 degrees, so that width and height change places.
    turned = "exif" in image.info and image.getexif().get(ORIENTATION, UPRIGHT) >= 5
    raw_mode = _raw_mode(image)
    return Shape(
        (height, width) if turned else (width, height),
        image.mode in GREY_MODES or raw_mode.startswith("LA"),
        image.mode in DEEP_GREY or DEEP_COLOUR.fullmatch(raw_mode) is not None,
        str(image.format),
    )


def _raw_mode(image: Image.Image) -> str:
    """How the pixels of an image that is not loaded yet lie in its file, in Pillow's words: "RGB;16B"."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _upright(image: Image.Image) -> Image.Image:
    """The image loaded, and turned as its EXIF orientation says."""
    image.load()
    if "exif" in image.info and image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT:
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _deep_pixels(raw: bytes, image: Image.Image) -> _DeepPixels:
    """The whole values of an image that is not loaded yet.

    Raises:
        ValueError: NaN or infinite.
    """
    raw_mode = _raw_mode(image)
    if image.mode in DEEP_GREY:
        values = np.asarray(_upright(image))
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError("a pixel is NaN or infinite")
        return _DeepPixels(values)
    if raw_mode.startswith("LA"):
        # Four bytes a pixel, which as "RGBA" are the upper and lower ones of grey and of opacity.
        parts = np.asarray(_upright(_read_as(image, "RGBA"))).astype(np.uint16)
        return _DeepPixels(parts[..., 0] << 8 | parts[..., 1], parts[..., 2].astype(np.uint8))
    again = _read_as(Image.open(io.BytesIO(raw), formats=formats()), raw_mode[:-1] + SWAPPED[raw_mode[-1]])
    upper, lower = (np.asarray(_upright(each)) for each in (image, again))
    values = upper[..., :3].astype(np.uint16) << 8 | lower[..., :3]
    return _DeepPixels(values, upper[..., 3] if image.mode == "RGBA" else None)


def _read_as(image: Image.Image, raw_mode: str) -> Image.Image:
    """The image, not loaded yet, which now takes its file's pixels to lie as ``raw_mode`` says."""
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in image.tile
    ]
    return image


def _scaled(pixels: _DeepPixels, scale: PixelRange) -> Image.Image:
    """The 8-bit image, in mode L or RGB, over white."""
    image = Image.fromarray(scale.levels(pixels.values))
    if pixels.alpha is None:
        return image
    white = Image.new(image.mode, image.size, "white")
    return Image.composite(image, white, Image.fromarray(pixels.alpha))


def _canonical(image: Image.Image) -> Image.Image:
    """An image of 8 bits in mode L or RGB, without transparency."""
    if image.mode in (GREY, COLOUR) and "transparency" not in image.info:
        return image
    grey = image.mode in GREY_MODES
    if "transparency" in image.info or "A" in image.mode or "a" in image.mode:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image.convert(GREY if grey else COLOUR)


def _unreadable(error: Exception, raw: bytes) -> UnusableContent:
    if isinstance(error, Image.DecompressionBombError):
        return UnusableContent(f"it has far more than {MAX_PIXELS} pixels")
    if isinstance(error, UnidentifiedImageError):
        known = (kind for kind, brands in PLUGINS.items() if raw[4:8] == b"ftyp" and raw[8:12] in brands)
        return UnusableContent(f"it is {next(known, 'not an image in a known format')}")
    reason = " ".join(str(error).split()).rstrip(".") or error.__class__.__name__
    return UnusableContent(f"the image cannot be decoded ({reason})")
