"""What ingest keeps of images that stay encoded: their places, the bytes of those of a table, and sums of pixels."""

import hashlib

import numpy as np

from metaselect.data.readers.base import Content, Pair
from metaselect.data.stored.places import OF_FILE
from metaselect.data.summary import level_counts


class EncodedWriter:
    """Takes down encoded images one by one.

    Args:
        places: (n,) of ``places.PLACE``, with the offsets filled in.
        table: uint8, of the bytes of all images that come from a table; None where all are files.
        counts: (C, 256) int64, how often each channel has had each value so far.
    """

    def __init__(self, places: np.ndarray, table: np.memmap | None, counts: np.ndarray) -> None:
        self.places, self.table, self.counts = places, table, counts

    def put(self, row: int, content: Content, pixels: np.ndarray) -> None:
        """Take down the image of a sample, whose pixels (C, H, W) are only counted."""
        raw = content.image if isinstance(content, Pair) else content
        assert isinstance(raw, bytes)
        offset = int(self.places["offset"][row])
        digest = np.frombuffer(hashlib.sha256(raw).digest(), dtype=np.uint8)
        self.places[row] = (offset, len(raw), digest)
        if offset != OF_FILE:
            assert self.table is not None
            self.table[offset : offset + len(raw)] = np.frombuffer(raw, dtype=np.uint8)
        self.counts += level_counts(pixels[None])

    def flush(self) -> None:
        """Write the bytes to disk; whoever has ``places`` flushes them."""
        if self.table is not None:
            self.table.flush()
