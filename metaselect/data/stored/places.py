"""Where the encoded images of a pool lie, and which pools keep their images so."""

from typing import NamedTuple

import numpy as np

from metaselect.data.readers.base import Content, FileBytes, Pair
from metaselect.data_options import AUTO, ENCODED

GB = 10**9
MOST_DECODED = 20 * GB  # bytes of decoded pixels, above which images stay encoded
SMALL_DECODED = 1 * GB  # and up to which they never do by themselves: decoding again costs more than the disk
MOST_GROWTH = 8  # between the two: decoded pixels, as a multiple of the encoded images

PLACE = np.dtype([("offset", "<i8"), ("size", "<i8"), ("digest", "u1", (32,))])
"""Of one image: where its bytes begin among those that the run holds (-1: it is a file of the data set), how many they
are, and their sha256."""
OF_FILE = -1


class StoreChoice(NamedTuple):
    """The sizes by which a pool's store is chosen.

    Attributes:
        decoded: bytes of the pixels of all images at the size of the pool.
        encoded: bytes of the images as they are.
    """

    decoded: int
    encoded: int

    def stays_encoded(self, store: str) -> bool:
        """Whether the images stay encoded, by --store: "pixels", "encoded" or "auto"."""
        if store != AUTO:
            return store == ENCODED
        grows = self.decoded > MOST_GROWTH * self.encoded
        return self.decoded > MOST_DECODED or (self.is_large and grows)

    @property
    def is_large(self) -> bool:
        """Whether there is anything to choose."""
        return self.decoded > SMALL_DECODED

    def sentence(self, store: str) -> str:
        """The choice, for a note."""
        sizes = f"{size(self.decoded)} decoded, {size(self.encoded)} as they are"
        if self.stays_encoded(store):
            return f"Images stay encoded, and are decoded when they are needed (--store encoded): {sizes}."
        return f"Images are stored decoded (--store pixels): {sizes}."


def test_set_stays_encoded(decoded: int, *, pool_does: bool) -> bool:
    """Whether the images of a test set stay encoded: too many bytes, or many where those of the pool do."""
    return decoded > (SMALL_DECODED if pool_does else MOST_DECODED)


class EncodedSizes:
    """How many bytes each image of a listing has, gathered while the headers are read.

    Attributes:
        sizes: (N,) int64, 0 where nothing was read.
        is_file: (N,) bool, whether it is a file of its own; else its bytes stand in a table.
    """

    def __init__(self, count: int) -> None:
        self.sizes = np.zeros(count, dtype=np.int64)
        self.is_file = np.zeros(count, dtype=bool)

    def add(self, position: int, content: Content) -> None:
        """Take down the image of a sample."""
        image = content.image if isinstance(content, Pair) else content
        if isinstance(image, bytes):
            self.sizes[position] = len(image)
            self.is_file[position] = isinstance(image, FileBytes)

    @property
    def mean(self) -> float:
        """Bytes of an image, of those that were seen."""
        return float(self.sizes.sum()) / max(int((self.sizes > 0).sum()), 1)

    @property
    def mean_in_table(self) -> float:
        """The same where images that are files count as nothing."""
        return float(self.sizes[~self.is_file].sum()) / max(int((self.sizes > 0).sum()), 1)

    def offsets(self, order: np.ndarray) -> tuple[np.ndarray, int]:
        """((n,) int64 offsets of the images at these positions, ``OF_FILE`` for files; bytes of those of tables).

        By the order of ids, so that the rows of a table may be shuffled.
        """
        inside = np.where(self.is_file[order], 0, self.sizes[order])
        ends = np.cumsum(inside)
        return np.where(self.is_file[order], OF_FILE, ends - inside), int(ends[-1]) if len(ends) else 0


def size(count: int) -> str:
    """A number of bytes, such as "1.2 GB"."""
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 10**6:.1f} MB"
