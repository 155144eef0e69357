"""Writing a data set as Parquet, sorted by sample_id, with unchanged contents, in bounded memory."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaselect.data.classes import class_metadata
from metaselect.data.listing import Listing
from metaselect.data.readers.base import BadSamples, Pair, Source, UnusableContent, identity
from metaselect.records import Json, Reporter
from metaselect.run.layout import FEATURES, IMAGES

GROUP_ROWS = 1024  # a row group ends here, or at
GROUP_BYTES = 32 << 20  # so many bytes of images, since a reader holds a whole group
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CONTENTS: Mapping[str, tuple[str, pa.DataType]] = {
    IMAGES: ("image", IMAGE_TYPE),
    FEATURES: ("features", pa.list_(pa.float32())),
}
"""The column of contents and its type, by kind."""
OTHERS: Mapping[str, Mapping[str, object]] = {
    "sample_id": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
    "features": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
}
"""Descriptions of the columns beside the label, as Hugging Face's datasets reads them."""


def encoded(content: bytes | np.ndarray | Pair) -> bytes:
    """The image's bytes, then the features as float32, little-endian, of those that the sample has."""
    return identity(content) + (identity(content.features) if isinstance(content, Pair) else b"")


class ContentSpool:
    """The contents of a data set in one temporary file, written in reading order and read in any other.

    Attributes:
        offsets: (N,) int64, where each content starts.
        lengths: (N,) int64, bytes; -1 where there is none.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.offsets = np.zeros(count, dtype=np.int64)
        self.lengths = np.full(count, -1, dtype=np.int64)

    def fill(self, listing: Listing, bad: BadSamples, report: Reporter) -> None:
        """Copy every kept content to the file; unusable samples go to ``bad``, and their ``keep`` becomes False."""
        with (
            report.track(int(listing.keep.sum()), "Reading", "samples") as advance,
            self.path.open("wb") as stream,
        ):
            for position, content in listing.source.contents(listing.keep):
                advance(1)
                if isinstance(content, UnusableContent):
                    bad.add(listing.bad(position, content.reason))
                    listing.keep[position] = False
                    continue
                raw = encoded(content)
                self.offsets[position] = stream.tell()
                self.lengths[position] = stream.write(raw)

    def read(self, positions: Sequence[int]) -> Iterator[bytes]:
        """The contents at ``positions``, in that order."""
        with self.path.open("rb") as stream:
            for position in positions:
                stream.seek(int(self.offsets[position]))
                yield stream.read(int(self.lengths[position]))


def write_dataset(
    path: Path,
    listing: Listing,
    spool: ContentSpool,
    *,
    positions: Sequence[int],
    labels: np.ndarray,
    note: Mapping[str, Json],
) -> None:
    """Write a Parquet file of sample_id, image or features if there are any, and label with its ClassLabel names.

    Args:
        path: the file.
        listing: where ids and classes come from.
        spool: where contents come from.
        positions: n samples in the order of rows.
        labels: (n,) int64, positions in the classes.
        note: kept in the schema's metadata under ``metaselect``.
    """
    contents = [CONTENTS[kind] for kind in listing.source.kinds]
    schema = pa.schema([("sample_id", pa.string()), *contents, ("label", pa.int64())])
    others = {name: OTHERS[name] for name in ("sample_id", *(name for name, _ in contents))}
    metadata = class_metadata("label", listing.classes, others)
    schema = schema.with_metadata({**metadata, b"metaselect": json.dumps(dict(note)).encode()})
    with pq.ParquetWriter(path, schema) as writer:
        start, held, cells = 0, 0, []
        for number, raw in enumerate(spool.read(positions), start=1):
            cells.append(_cells(raw, listing.source))
            held += len(raw)
            if number == len(positions) or len(cells) == GROUP_ROWS or held >= GROUP_BYTES:
                ids = [listing.sample_ids[position] for position in positions[start:number]]
                made = [
                    pa.array([row[place] for row in cells], kind) for place, (_, kind) in enumerate(contents)
                ]
                columns = [pa.array(ids), *made, pa.array(labels[start:number])]
                writer.write_table(pa.table(columns, schema=schema))
                start, held, cells = number, 0, []


def _cells(raw: bytes, source: Source) -> list[object]:
    """The cells of the columns of contents, from what ``encoded`` made."""
    end = len(raw) - 4 * source.width()
    cells: list[object] = [{"bytes": raw[:end], "path": None}] if IMAGES in source.kinds else []
    return cells + ([np.frombuffer(raw[end:], "<f4")] if FEATURES in source.kinds else [])
