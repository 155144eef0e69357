"""A pool's images, read from where they lie and decoded whenever rows of them are asked for."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaselect.data.images import content_hash, decode
from metaselect.data.readers.base import UnusableContent
from metaselect.data.readers.paths import ImageFiles
from metaselect.data.stored.places import OF_FILE
from metaselect.data.target import Target
from metaselect.errors import ArtefactError
from metaselect.memory import block_size
from metaselect.text import quoted

MOST_THREADS = 8  # that decode rows which no worker has decoded ahead
KEPT_BYTES = 2**28  # of decoded rows that ``recalled`` keeps


class Remedies(NamedTuple):
    """Hints of errors: about an image that is missing, that is another one, or whose bytes in the run are damaged."""

    missing: str
    changed: str
    damaged: str


@dataclass(frozen=True)
class EncodedImages:
    """n encoded images that are read like a uint8 array (n, C, H, W), with the very bytes of the pixel store.

    Attributes:
        places: (n,) of ``places.PLACE``, memory-mapped.
        table: the bytes of images that come from a table, uint8, memory-mapped; empty where there are none.
        names: of the samples: columns of Arrow, which processes share: sample_id, content_hash, and source, the path
            of an image file relative to the folder of ``files``.
        files: reads these files, and no others.
        target: size, mode and fit, as the images were ingested.
        remedies: what to do where an image cannot be had.
        workers: processes that decode ahead in a training or prediction; None: by the machine.
        kept: decoded rows, see ``recalled``.
    """

    places: np.ndarray
    table: np.ndarray
    names: Any
    files: ImageFiles
    target: Target
    remedies: Remedies
    workers: int | None = None
    kept: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, C, H, W)."""
        return len(self.places), *self.target.image_shape

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Of the pixels."""
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """4."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What the run holds of the images, in bytes, all of it memory-mapped."""
        return int(self.places.nbytes + self.table.nbytes)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        """The pixels of one row (C, H, W), or of several (B, C, H, W), decoded by threads.

        Raises:
            ArtefactError: an image is missing, or another one than was ingested.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        if not isinstance(rows, np.ndarray):
            return self._pixels(range(len(self))[rows])
        threads = min(MOST_THREADS, os.cpu_count() or 1, len(rows))
        if threads < 2:
            return self.decoded(rows)
        found = self._empty(len(rows))
        with ThreadPoolExecutor(threads) as pool:  # Pillow lets other threads work while it decodes
            for place, pixels in enumerate(pool.map(self._pixels, rows.tolist())):
                found[place] = pixels
        return found

    def decoded(self, rows: np.ndarray) -> np.ndarray:
        """(B, C, H, W) pixels of rows (B,) int64, one after the other in this thread."""
        found = self._empty(len(rows))
        for place, row in enumerate(rows.tolist()):
            found[place] = self._pixels(row)
        return found

    def recalled(self, rows: np.ndarray) -> np.ndarray:
        """The same of rows that are likely to be asked for again, such as a meta set's: some of them stay in memory."""
        new = [row for row in dict.fromkeys(rows.tolist()) if row not in self.kept]
        fresh = dict(zip(new, self[np.array(new, dtype=np.int64)], strict=True))
        row_bytes = prod(self.shape[1:])
        room = block_size(row_bytes, max(KEPT_BYTES // row_bytes, 1)) - len(self.kept)
        # Copies: a view would keep the whole batch.
        self.kept.update({row: fresh[row].copy() for row in new[: max(room, 0)]})
        found = self._empty(len(rows))
        for place, row in enumerate(rows.tolist()):
            found[place] = self.kept[row] if row in self.kept else fresh[row]
        return found

    def place_of(self, row: int) -> Path | None:
        """Where the data set says that the image lies; None: it does not say."""
        path = self._name("source", row)
        return self.files.root / path if path else None

    def is_file(self, row: int) -> bool:
        """Whether the image is a file of the data set; else the run holds its bytes."""
        return bool(self.places["offset"][row] == OF_FILE)

    def encoded(self, row: int) -> bytes:
        """The bytes of the image that was ingested, or of another file of the same pixels.

        Raises:
            ArtefactError: it is missing, or another image.
        """
        offset, count, digest = self.places[row]
        name = quoted(self._name("sample_id", row))
        raw: bytes | UnusableContent = self.table[offset : offset + count].tobytes()
        if self.is_file(row):
            raw = self.files.read(self._name("source", row))
        if isinstance(raw, UnusableContent):
            raise ArtefactError(f"The image of sample {name} is gone: {raw.reason}.", self.remedies.missing)
        # Bytes tell more than a size and a time, and their digest takes little beside the decoding.
        if hashlib.sha256(raw).digest() != digest.tobytes() and not self._has_content(raw, row):
            if self.is_file(row):
                raise ArtefactError(
                    f"{self.place_of(row)} is no longer the image that was ingested as sample {name}.",
                    self.remedies.changed,
                )
            raise ArtefactError(f"The bytes of sample {name} in the run are damaged.", self.remedies.damaged)
        return raw

    def _pixels(self, row: int) -> np.ndarray:
        pixels = self.target.stored_pixels(self.encoded(row))
        if isinstance(pixels, UnusableContent):  # as ingested, but another Pillow reads it now
            name = quoted(self._name("sample_id", row))
            raise ArtefactError(f"The image of sample {name}: {pixels.reason}.", self.remedies.changed)
        return pixels

    def _has_content(self, raw: bytes, row: int) -> bool:
        """Whether these bytes decode to the pixels that were ingested."""
        image = decode(raw, self.target.pixel_range)
        return not isinstance(image, UnusableContent) and content_hash(image) == self._name(
            "content_hash", row
        )

    def _name(self, column: str, row: int) -> str:
        return str(self.names[column][row].as_py())

    def _empty(self, count: int) -> np.ndarray:
        return np.empty((count, *self.shape[1:]), dtype=np.uint8)
