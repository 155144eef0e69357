"""From a listing to the arrays of the run: decode in blocks, record progress, resume after an interruption.

The arrays are filled in reading order but at each sample's place in the order of ids, so that shards are
read once from front to back. After every block the arrays are flushed and a small journal is replaced.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from metaselect.data.depth import PixelRange
from metaselect.data.images import content_hash, decode, to_pixels
from metaselect.data.listing import Listing
from metaselect.data.readers.base import BadSamples, Content, Pair, UnusableContent
from metaselect.data.store import Preprocess, array_file
from metaselect.data.summary import joint_hash, joint_hashes, statistics
from metaselect.data.target import Target
from metaselect.memory import droppable
from metaselect.records import Reporter
from metaselect.run.files import read_json, write_json
from metaselect.run.layout import FEATURES, IMAGES

BLOCK = 2048  # samples between two writes of the journal
JOURNAL = "resume.json"
ARRAY = "resume-{kind}.npy"
HASHES = "resume-hashes.npy"
HASH_BYTES = 32  # of a sha256


@dataclass(frozen=True)
class Arrays:
    """The samples in the order of ids, bad ones gone.

    Attributes:
        order: n positions in the listing.
        content_hashes: n hex digests.
        paths: the arrays' files, (n, *shape), by kind.
    """

    order: list[int]
    content_hashes: list[str]
    paths: dict[str, Path]


@dataclass
class Journal:
    """The progress of an ingest, on disk: positions below ``done`` are in the arrays or in ``bad``."""

    target: Target
    done: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Replace the journal on disk."""
        write_json(folder / JOURNAL, json.loads(json.dumps(asdict(self))))

    @classmethod
    def read(cls, folder: Path, count: int) -> "Journal | None":
        """The journal of an interrupted ingest, if it and its arrays for ``count`` samples exist; else None."""
        if not (folder / JOURNAL).is_file():
            return None
        raw = read_json(folder / JOURNAL, "Remove it.")
        if raw["target"].keys() != {spec.name for spec in fields(Target)}:
            return None  # of another version
        target = Target(**{**raw["target"], "size": tuple(raw["target"]["size"])})
        if target.pixel_range is not None:
            target = replace(target, pixel_range=PixelRange(*target.pixel_range))
        journal = cls(target, raw["done"], [(position, reason) for position, reason in raw["bad"]])
        expected = {folder / ARRAY.format(kind=kind): shape for kind, (shape, _) in target.arrays.items()}
        expected[folder / HASHES] = (HASH_BYTES,)
        if not all(path.is_file() for path in expected):
            return None
        fits = (np.load(path, mmap_mode="r").shape == (count, *shape) for path, shape in expected.items())
        return journal if all(fits) else None


def fill(listing: Listing, journal: Journal, folder: Path, bad: BadSamples, report: Reporter) -> Arrays:
    """Decode every kept sample into memory-mapped arrays: ``pixels.npy``, ``features.npy``, or both.

    Args:
        listing: the samples; ``keep`` of the bad ones becomes False.
        journal: new, or of an interrupted ingest with the same key.
        folder: of the array; journal and unfinished arrays are there until the end.
        bad: what to do with samples that cannot be used.
        report: progress.

    Raises:
        DataError: a sample cannot be used and the policy is to stop, or none is left.
    """
    order = listing.order()
    # The row of each sample in the arrays, which are in the order of ids while the source is read in its own.
    rank = np.full(len(listing.rows), -1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    arrays = {
        kind: _array(folder / ARRAY.format(kind=kind), (len(order), *shape), dtype, journal.done)
        for kind, (shape, dtype) in journal.target.arrays.items()
    }
    hashes = _array(folder / HASHES, (len(order), HASH_BYTES), np.uint8, journal.done)
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
                    arrays[kind][rank[position]] = row
            journal.done = position + 1
            advance(1)
            if count % BLOCK == 0:
                for array in (*arrays.values(), hashes):
                    array.flush()
                journal.write(folder)
    for array in arrays.values():
        array.flush()
    digests = [bytes(row).hex() for row in hashes]
    kinds = list(arrays)
    del array, arrays, hashes
    lost = {int(rank[position]) for position, _ in journal.bad}
    listing.keep[[position for position, _ in journal.bad]] = False
    if len(lost) == len(order):
        raise bad.none_left(listing.source.root)
    (folder / JOURNAL).unlink(missing_ok=True)
    paths = {kind: folder / Path(array_file(kind)).name for kind in kinds}
    for kind, path in paths.items():
        _finish(folder / ARRAY.format(kind=kind), path, lost)
    (folder / HASHES).unlink()
    kept = [place for place in range(len(order)) if place not in lost]
    return Arrays([order[place] for place in kept], [digests[place] for place in kept], paths)


def stored_form(target: Target, arrays: Arrays) -> tuple[Sequence[str], Preprocess]:
    """(content hashes of all that each sample has, how the samples are stored)."""
    loaded = {kind: droppable(np.load(path, mmap_mode="r")) for kind, path in arrays.paths.items()}
    kinds = {kind: Preprocess(kind, (), "", *statistics(array)) for kind, array in loaded.items()}
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
        height, width = target.size
        rows[IMAGES] = to_pixels(sample, (height, width), target.mode, target.fit)
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


def _array(path: Path, shape: tuple[int, ...], dtype: type[np.generic], done: int) -> np.memmap:
    if done:
        return droppable(np.lib.format.open_memmap(path, mode="r+"))
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # Reserved now: on a full disk, writing to mapped memory later would end the process with SIGBUS.
        with path.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return droppable(array)


def _finish(unfinished: Path, final: Path, lost: set[int]) -> None:
    """Move the array to its final name, without the rows of samples that could not be used."""
    if not lost:
        unfinished.replace(final)
        return
    array = np.load(unfinished, mmap_mode="r")
    kept = [place for place in range(len(array)) if place not in lost]
    shorter = np.lib.format.open_memmap(
        final, mode="w+", dtype=array.dtype, shape=(len(kept), *array.shape[1:])
    )
    for start in range(0, len(kept), BLOCK):
        shorter[start : start + BLOCK] = array[kept[start : start + BLOCK]]
    shorter.flush()
    del array, shorter
    unfinished.unlink()
