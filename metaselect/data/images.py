"""Decoding one image, hashing its pixels, and resizing it to the size of the pool."""

import hashlib
import io
import warnings
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from metaselect.data.readers.base import UnusableContent

GREY = "L"
COLOUR = "RGB"
# Named one by one: Pillow knows formats that start other programs (EPS) or read other files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
GREY_MODES = frozenset(("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"))
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


class Shape(NamedTuple):
    """What the header of an image says.

    Attributes:
        size: (width, height) in pixels, as a viewer shows it.
        grey: whether the image has no colour.
    """

    size: tuple[int, int]
    grey: bool


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(raw), formats=formats())
            width, height = image.size
            # Orientations 5 to 8 are rotated by 90 degrees, so that width and height change places.
            turned = "exif" in image.info and image.getexif().get(ORIENTATION, UPRIGHT) >= 5
    except MemoryError:
        raise
    except Exception as error:  # on arbitrary bytes, Pillow's decoders raise any class of error
        return _unreadable(error, raw)
    return Shape((height, width) if turned else (width, height), image.mode in GREY_MODES)


def decode(raw: bytes) -> Image.Image | UnusableContent:
    """The image upright, in mode L if it has no colour, else RGB, over white; or why it cannot be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images at half of its limit
            image = Image.open(io.BytesIO(raw), formats=formats())
            if image.width * image.height > MAX_PIXELS:
                return UnusableContent(
                    f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS}"
                )
            image.load()
            if "exif" in image.info and image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT:
                ImageOps.exif_transpose(image, in_place=True)
            return _canonical(image)
    except MemoryError:
        raise
    except Exception as error:  # as above
        return _unreadable(error, raw)


def content_hash(image: Image.Image) -> str:
    """Hex digest over mode, size and pixels of a decoded image: the same for PNG and BMP of one picture."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def to_pixels(image: Image.Image, size: tuple[int, int], mode: str) -> np.ndarray:
    """(C, H, W) uint8: the shorter side resized (bilinear, antialiased), the centre cut out.

    Args:
        image: decoded, L or RGB.
        size: (H, W).
        mode: "L" or "RGB".
    """
    if image.mode != mode:
        image = image.convert(mode)
    height, width = size
    if (image.width, image.height) != (width, height):
        # The larger scale, so that both sides are covered and only the longer one is cut.
        scale = max(width / image.width, height / image.height)
        wide, high = max(width, round(image.width * scale)), max(height, round(image.height * scale))
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = (wide - width) // 2, (high - height) // 2
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image)  # (H, W) or (H, W, 3)
    return pixels[None] if mode == GREY else pixels.transpose(2, 0, 1)  # (C, H, W)


def encode_png(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG file with these (C, H, W) uint8 pixels."""
    stream = io.BytesIO()
    picture = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()


def format_of(raw: bytes) -> str:
    """Pillow's name of a readable image's file format: "PNG", "JPEG", ..."""
    return str(Image.open(io.BytesIO(raw), formats=formats()).format)


def _canonical(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, without transparency."""
    if image.mode in (GREY, COLOUR) and "transparency" not in image.info:
        return image
    grey = image.mode in GREY_MODES
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_8_bits(image)
    if "transparency" in image.info or "A" in image.mode or "a" in image.mode:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image.convert(GREY if grey else COLOUR)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """An 8-bit image: of 16-bit grey (in mode I or I;16) the upper byte, of mode F the value rounded to 0..255."""
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise ValueError("a pixel is NaN or infinite")
        return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    return Image.fromarray((np.clip(values.astype(np.int64), 0, 65535) >> 8).astype(np.uint8))


def _unreadable(error: Exception, raw: bytes) -> UnusableContent:
    if isinstance(error, Image.DecompressionBombError):
        return UnusableContent(f"it has far more than {MAX_PIXELS} pixels")
    if isinstance(error, UnidentifiedImageError):
        known = (kind for kind, brands in PLUGINS.items() if raw[4:8] == b"ftyp" and raw[8:12] in brands)
        return UnusableContent(f"it is {next(known, 'not an image in a known format')}")
    reason = " ".join(str(error).split()).rstrip(".") or error.__class__.__name__
    return UnusableContent(f"the image cannot be decoded ({reason})")
