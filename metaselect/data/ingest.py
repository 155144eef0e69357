"""From a listing to the arrays of the run: decode in blocks, record progress, resume after an interruption.

The arrays are filled in reading order but at each sample's place in the order of ids, so that shards are
read once from front to back. After every block the arrays are flushed and a small journal is replaced.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from metaselect.data.depth import PixelRange
from metaselect.data.images import content_hash, decode
from metaselect.data.listing import Listing
from metaselect.data.readers.base import BadSamples, Content, Pair, UnusableContent
from metaselect.data.store import stored_array
from metaselect.data.stored.mapped import finish_array, open_array
from metaselect.data.stored.places import EncodedSizes
from metaselect.data.stored.preprocess import Preprocess
from metaselect.data.stored.writer import EncodedWriter
from metaselect.data.summary import LEVELS, joint_hash, joint_hashes, level_statistics, statistics
from metaselect.data.target import Target
from metaselect.memory import droppable
from metaselect.records import Reporter
from metaselect.run.artefacts import ENCODED_BYTES
from metaselect.run.files import read_json, write_json
from metaselect.run.layout import FEATURES, IMAGES

BLOCK = 2048  # samples between two writes of the journal
JOURNAL = "resume.json"
ARRAY = "resume-{kind}.npy"
HASHES = "resume-hashes.npy"
TABLE = ARRAY.format(kind="table")  # the bytes of encoded images that come from a table
HASH_BYTES = 32  # of a sha256


@dataclass(frozen=True)
class Arrays:
    """The samples in the order of ids, bad ones gone.

    Attributes:
        order: n positions in the listing.
        content_hashes: n hex digests.
        paths: the arrays' files, (n, *shape), by kind; of images that stay encoded, their places.
        levels: (C, 256) int64, how often the pixels of such images have each value; None without them.
    """

    order: list[int]
    content_hashes: list[str]
    paths: dict[str, Path]
    levels: np.ndarray | None = None


@dataclass
class Journal:
    """The progress of an ingest, on disk: positions below ``done`` are in the arrays or in ``bad``.

    ``levels``: of images that stay encoded, (C, 256) counts of the values of their pixels.
    """

    target: Target
    done: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    levels: list[list[int]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Replace the journal on disk."""
        write_json(folder / JOURNAL, json.loads(json.dumps(asdict(self))))

    @classmethod
    def read(cls, folder: Path, count: int) -> "Journal | None":
        """The journal of an interrupted ingest, if it and its arrays for ``count`` samples exist; else None."""
        if not (folder / JOURNAL).is_file():
            return None
        raw = read_json(folder / JOURNAL, "Remove it.")
        if raw["target"].keys() != {spec.name for spec in fields(Target)} or "levels" not in raw:
            return None  # of another version
        target = Target(**{**raw["target"], "size": tuple(raw["target"]["size"])})
        if target.pixel_range is not None:
            target = replace(target, pixel_range=PixelRange(*target.pixel_range))
        journal = cls(target, raw["done"], [tuple(each) for each in raw["bad"]], raw["levels"])
        expected = {folder / ARRAY.format(kind=kind): shape for kind, (shape, _) in target.arrays.items()}
        expected[folder / HASHES] = (HASH_BYTES,)
        if not all(path.is_file() for path in expected):
            return None
        fits = (np.load(path, mmap_mode="r").shape == (count, *shape) for path, shape in expected.items())
        return journal if all(fits) else None


def fill(
    listing: Listing,
    journal: Journal,
    folder: Path,
    bad: BadSamples,
    report: Reporter,
    sizes: EncodedSizes | None = None,
) -> Arrays:
    """Decode every kept sample into memory-mapped arrays: ``pixels.npy``, ``features.npy``, or both.

    Images that stay encoded are decoded as well, since only that finds bad ones; ``encoded.npy`` has their places.

    Args:
        listing: the samples; ``keep`` of the bad ones becomes False.
        journal: new, or of an interrupted ingest with the same key.
        folder: of the array; journal and unfinished arrays are there until the end.
        bad: what to do with samples that cannot be used.
        report: progress.
        sizes: of images that stay encoded; not needed to go on after an interruption.

    Raises:
        DataError: a sample cannot be used and the policy is to stop, or none is left.
    """
    order = listing.order()
    # The row of each sample in the arrays, which are in the order of ids while the source is read in its own.
    rank = np.full(len(listing.rows), -1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    arrays = {
        kind: open_array(
            folder / ARRAY.format(kind=kind), (len(order), *shape), dtype, begun=journal.done > 0
        )
        for kind, (shape, dtype) in journal.target.arrays.items()
    }
    hashes = open_array(folder / HASHES, (len(order), HASH_BYTES), np.dtype(np.uint8), begun=journal.done > 0)
    encoded = (
        _encoded_writer(journal, arrays, np.array(order), folder, sizes) if journal.target.encoded else None
    )
    earlier = int(listing.keep[: journal.done].sum())
    with report.track(len(order), "Ingesting", "samples", done=earlier) as advance:
        for count, (position, content) in enumerate(listing.source.contents(listing.keep, journal.done), 1):
            sample = prepare(content, journal.target)
            if isinstance(sample, UnusableContent):
                bad.add(listing.bad(position, sample.reason))
                journal.bad.append((position, sample.reason))
            else:
                hashes[rank[position]] = sample.digest
                for kind, row in sample.rows.items():
                    if encoded is not None and kind == IMAGES:
                        encoded.put(int(rank[position]), content, row)
                    else:
                        arrays[kind][rank[position]] = row
            journal.done = position + 1
            advance(1)
            if count % BLOCK == 0:
                _flush(*arrays.values(), hashes, encoded)
                journal.levels = [] if encoded is None else encoded.counts.tolist()
                journal.write(folder)
    _flush(*arrays.values(), encoded)
    levels = None if encoded is None else encoded.counts
    digests = [bytes(row).hex() for row in hashes]
    kinds = list(arrays)
    del arrays, hashes, encoded
    lost = {int(rank[position]) for position, _ in journal.bad}
    listing.keep[[position for position, _ in journal.bad]] = False
    if len(lost) == len(order):
        raise bad.none_left(listing.source.root)
    (folder / JOURNAL).unlink(missing_ok=True)
    paths = {kind: folder / stored_array(kind, encoded=journal.target.encoded).within() for kind in kinds}
    for kind, path in paths.items():
        finish_array(folder / ARRAY.format(kind=kind), path, lost)
    (folder / HASHES).unlink()
    if (folder / TABLE).is_file():
        (folder / TABLE).replace(folder / ENCODED_BYTES.within())
    kept = [place for place in range(len(order)) if place not in lost]
    return Arrays([order[place] for place in kept], [digests[place] for place in kept], paths, levels)


def stored_form(target: Target, arrays: Arrays) -> tuple[Sequence[str], Preprocess]:
    """(content hashes of all that each sample has, how the samples are stored)."""
    loaded = {kind: droppable(np.load(path, mmap_mode="r")) for kind, path in arrays.paths.items()}
    found = {kind: statistics(array) for kind, array in loaded.items() if not array.dtype.names}
    if arrays.levels is not None:
        found[IMAGES] = level_statistics(arrays.levels)
    kinds = {kind: Preprocess(kind, (), "", *found[kind]) for kind in loaded}
    if IMAGES in kinds:
        kinds[IMAGES] = replace(
            kinds[IMAGES],
            size=target.size,
            mode=target.mode,
            fit=target.fit,
            pixel_range=target.pixel_range,
        )
    if len(kinds) < 2:
        return arrays.content_hashes, kinds[next(iter(kinds))]
    joint = joint_hashes(arrays.content_hashes, loaded[FEATURES])
    return joint, replace(kinds[FEATURES], images=kinds[IMAGES])


def restore_bad(listing: Listing, journal: Journal, bad: BadSamples) -> None:
    """Add the bad samples that an interrupted ingest had recorded to ``bad``."""
    for position, reason in journal.bad:
        bad.add(listing.bad(position, reason))


class StoredSample(NamedTuple):
    """A sample as it is stored: a row for each kind of array, and the content hash, (32,) uint8."""

    rows: dict[str, np.ndarray]
    digest: np.ndarray


def prepare(content: Content, target: Target) -> StoredSample | UnusableContent:
    """The sample as it is stored, or why it cannot be used."""
    sample = _decoded(content, target.pixel_range)
    if isinstance(sample, UnusableContent):
        return sample
    digest = np.frombuffer(_digest(sample), dtype=np.uint8)
    rows: dict[str, np.ndarray] = {}
    if not isinstance(sample, np.ndarray):
        rows[IMAGES] = target.pixels(sample)
    if isinstance(content, Pair):
        rows[FEATURES] = content.features
    elif isinstance(sample, np.ndarray):
        rows[FEATURES] = sample
    return StoredSample(rows, digest)


def _decoded(content: Content, scale: PixelRange | None) -> Image.Image | np.ndarray | UnusableContent:
    """The image, or the features where there is none; what a content hash is of."""
    raw = content.image if isinstance(content, Pair) else content
    return decode(raw, scale) if isinstance(raw, bytes) else raw


def hash_contents(
    listing: Listing, scale: PixelRange | None, bad: BadSamples, report: Reporter
) -> tuple[list[int], list[str]]:
    """(positions in the order of ids, content hashes) of a data set, without storing its samples.

    With ids and labels alone, the hash is that of the id (UTF-8), so that all differ. With images and features it is
    ``joint_hash`` of both.

    Args:
        listing: the samples.
        scale: of images of more than 8 bits.
        bad: what to do with samples that cannot be used.
        report: progress.
    """
    if not listing.source.kinds:
        order = listing.order()
        return order, [hashlib.sha256(listing.sample_ids[place].encode()).hexdigest() for place in order]
    hashes: dict[int, str] = {}
    with report.track(int(listing.keep.sum()), "Comparing", "samples") as advance:
        for position, content in listing.source.contents(listing.keep):
            sample = _decoded(content, scale)
            if isinstance(sample, UnusableContent):
                bad.add(listing.bad(position, sample.reason))
            else:
                hashes[position] = _digest(sample).hex()
                if isinstance(content, Pair):
                    hashes[position] = joint_hash(hashes[position], _digest(content.features).hex())
            advance(1)
    order = [position for position in listing.order() if position in hashes]
    return order, [hashes[position] for position in order]


def _digest(sample: Image.Image | np.ndarray) -> bytes:
    if isinstance(sample, np.ndarray):
        return hashlib.sha256(sample.astype("<f4").tobytes()).digest()
    return bytes.fromhex(content_hash(sample))


def _encoded_writer(
    journal: Journal,
    arrays: dict[str, np.memmap],
    order: np.ndarray,
    folder: Path,
    sizes: EncodedSizes | None,
) -> EncodedWriter:
    """What takes down images that stay encoded, from the first sample on or from where an ingest was interrupted."""
    table, table_bytes = None, 0
    if not journal.done:
        assert sizes is not None
        arrays[IMAGES]["offset"], table_bytes = sizes.offsets(order)
        (folder / TABLE).unlink(missing_ok=True)
    if table_bytes or (folder / TABLE).is_file():
        table = open_array(folder / TABLE, (table_bytes,), np.dtype(np.uint8), begun=journal.done > 0)
    counts = np.array(journal.levels or np.zeros((journal.target.image_shape[0], LEVELS)), dtype=np.int64)
    return EncodedWriter(arrays[IMAGES], table, counts)


def _flush(*arrays: np.memmap | EncodedWriter | None) -> None:
    for array in arrays:
        if array is not None:
            array.flush()
