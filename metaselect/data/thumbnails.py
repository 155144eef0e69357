"""Images made small enough to be embedded in a page."""

import io
from collections.abc import Iterator, Sequence

from PIL import Image

from metaselect.data.images import decode
from metaselect.data.originals import read_originals
from metaselect.data.readers.base import UnusableContent
from metaselect.run.layout import Run

LONGEST_SIDE = 512  # pixels; as much as a phone shows
LOSSLESS_SIDE = 128  # pixels; up to here PNG is small, and every pixel counts
JPEG_QUALITY = 85


def thumbnails(run: Run, sample_ids: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    """(sample_id, media type, bytes) of each image, encoded again, so that no metadata of the original is passed on.

    Args:
        run: an ingested run; yields nothing if its samples have no images.
        sample_ids: of the pool.
    """
    for sample_id, _, raw in read_originals(run, sample_ids):
        image = decode(raw)
        assert not isinstance(image, UnusableContent), "read_originals has decoded it"
        yield sample_id, *encode_small(image)


def encode_small(
    image: Image.Image, longest_side: int = LONGEST_SIDE, lossless_side: int = LOSSLESS_SIDE
) -> tuple[str, bytes]:
    """(media type, bytes) of a decoded image.

    Args:
        image: made smaller in place if a side is longer than ``longest_side``.
        longest_side: pixels.
        lossless_side: pixels; up to here it becomes a PNG, else a JPEG.
    """
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if max(image.size) <= lossless_side:
        image.save(stream, format="PNG")
        return "image/png", stream.getvalue()
    image.save(stream, format="JPEG", quality=JPEG_QUALITY)
    return "image/jpeg", stream.getvalue()
