"""Writing a data set as Parquet, sorted by sample_id, with unchanged contents, in bounded memory."""

import filecmp
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaselect.data.classes import class_metadata
from metaselect.data.listing import Listing, list_samples, open_source
from metaselect.data.readers.base import BadSamples, Pair, Source, UnusableContent, identity
from metaselect.data_options import ReadOptions
from metaselect.errors import UsageError
from metaselect.records import Json, Reporter
from metaselect.run.files import naming, write_atomically
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


def decoded(raw: bytes, source: Source) -> bytes | np.ndarray | Pair:
    """The content of a sample from what ``encoded`` made of it."""
    end = len(raw) - 4 * source.width()
    features = np.frombuffer(raw[end:], "<f4")
    if IMAGES not in source.kinds:
        return features
    return Pair(raw[:end], features) if FEATURES in source.kinds else raw


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


@dataclass(frozen=True)
class Copy:
    """A data set that was read, of which files are made.

    Attributes:
        listing: its samples.
        bad: those that were left out, and the policy.
        spool: the contents.
        folder: for the files until all are there.
    """

    listing: Listing
    bad: BadSamples
    spool: ContentSpool
    folder: Path

    def order(self) -> np.ndarray:
        """(n,) int64 positions of the kept samples in the order of ids, so that shuffled rows change nothing."""
        return np.array(self.listing.order(), dtype=np.int64)


@contextmanager
def copying(
    data: Path,
    out: Path,
    names: Sequence[str],
    options: ReadOptions,
    report: Reporter,
    *,
    force: bool,
    unlabelled: bool = False,
) -> Iterator[Copy]:
    """Read a data set; the files that are then made in the copy's folder are moved to ``out`` at the end.

    Args:
        data: of any form.
        out: a folder, which is made.
        names: of the files, the one last that says by being there that all are complete.
        options: how to read the data.
        report: progress, notes and warnings.
        force: replace files that are there.
        unlabelled: take samples without a label too.

    Raises:
        UsageError: ``out`` is a file, is where the data lies, or holds other files of these names.
        DataError: the data is bad.
    """
    if out.is_file():
        raise UsageError(f"-o {out} is a file.", "Name a folder, new or empty.")
    if data.resolve() in (out.resolve(), *((out / name).resolve() for name in names)):
        raise UsageError(f"-o {out} is where the data itself lies.", "Name another folder.")
    bad = BadSamples(options.on_bad_sample)
    source = open_source(data, options)
    for remark in source.remarks:
        report.warn(remark)
    listing = list_samples(source, bad, unlabelled=unlabelled).joined()
    # Written beside the final place, so that the moves at the end stay on one disk.
    work = out / ".copy-work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        copy = Copy(listing, bad, ContentSpool(work / "contents", len(listing.rows)), work)
        with naming(out):  # Arrow's error of a full disk has no file
            copy.spool.fill(listing, bad, report)
            yield copy
            if bad.found:
                report.warn(bad.left_out())
            _move(work, out, names, report, force=force)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(work: Path, out: Path, names: Sequence[str], report: Reporter, *, force: bool) -> None:
    """Move the files to ``out`` in the order of their names, so that where the last exists all are complete."""
    last = out / names[-1]
    if last.exists() and not force:
        same = all(
            (out / name).exists() and filecmp.cmp(work / name, out / name, shallow=False) for name in names
        )
        if not same:
            raise UsageError(f"{last} exists and is other data.", "Add --force to replace it.")
        report.note(f"{out} is up to date.")
        return
    last.unlink(missing_ok=True)
    for name in names:
        write_atomically(out / name, partial(_rename, work / name))


def _rename(old: Path, new: Path) -> None:
    old.replace(new)


def write_dataset(
    path: Path, copy: Copy, *, positions: Sequence[int], labels: np.ndarray, note: Mapping[str, Json]
) -> None:
    """Write a Parquet file of sample_id, image or features if there are any, and label with its ClassLabel names.

    Args:
        path: the file.
        copy: where ids, classes and contents come from.
        positions: n samples in the order of rows.
        labels: (n,) int64, positions in the classes; -1 for none.
        note: kept in the schema's metadata under ``metaselect``.
    """
    listing = copy.listing
    contents = [CONTENTS[kind] for kind in listing.source.kinds]
    schema = pa.schema([("sample_id", pa.string()), *contents, ("label", pa.int64())])
    others = {name: OTHERS[name] for name in ("sample_id", *(name for name, _ in contents))}
    metadata = class_metadata("label", listing.classes, others)
    schema = schema.with_metadata({**metadata, b"metaselect": json.dumps(dict(note)).encode()})
    with pq.ParquetWriter(path, schema) as writer:
        start, held, cells = 0, 0, []
        for number, raw in enumerate(copy.spool.read(positions), start=1):
            cells.append(_cells(raw, listing.source))
            held += len(raw)
            if number == len(positions) or len(cells) == GROUP_ROWS or held >= GROUP_BYTES:
                ids = [listing.sample_ids[position] for position in positions[start:number]]
                made = [
                    pa.array([row[place] for row in cells], kind) for place, (_, kind) in enumerate(contents)
                ]
                given = labels[start:number]
                columns = [pa.array(ids), *made, pa.array(given, mask=given < 0)]
                writer.write_table(pa.table(columns, schema=schema))
                start, held, cells = number, 0, []


def _cells(raw: bytes, source: Source) -> list[object]:
    """The cells of the columns of contents, from what ``encoded`` made."""
    if not source.kinds:
        return []
    content = decoded(raw, source)
    parts = content if isinstance(content, Pair) else (content,)
    return [{"bytes": part, "path": None} if isinstance(part, bytes) else part for part in parts]
