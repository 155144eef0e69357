"""What an ingest takes: memory by the number of samples, and for --dry-run disk and time from some of them."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaselect.data.ingest import prepare
from metaselect.data.listing import Listing, list_samples, open_source
from metaselect.data.readers.base import BadSamples, Content, UnusableContent
from metaselect.data.stored.places import PLACE, EncodedSizes, StoreChoice
from metaselect.data.summary import statistics
from metaselect.data.target import Target, choose_target, read_headers
from metaselect.data_options import PIXELS, IngestOptions
from metaselect.memory import least_memory, predicted, require_memory
from metaselect.records import Json, Reporter, SilentReporter
from metaselect.run.layout import IMAGES

RECORD_BYTES = 110  # of disk for a sample in samples.parquet, besides its id and path
RECORD_SECONDS = 15e-6  # for a sample in the tables, the fingerprint and the search for equal ones
DIGEST_BYTES = 32  # of disk for a sample, while it runs
PROBE = (64, 1024)  # samples that are read before the clock starts, and at most
LONGEST_PROBE = 2.0  # seconds
AT_ONCE = 16
HINT = "Fewer samples (--limit) take less."


class Probe(NamedTuple):
    """What some samples took: bytes of a stored one, and seconds of one."""

    row_bytes: int
    seconds: float


def require_room(listing: Listing) -> None:
    """Check that so many samples fit --max-memory.

    Raises:
        ResourceError: they do not.
    """
    require_memory(listing.memory, f"An ingest of {int(listing.keep.sum()):,} samples", HINT)


def needs(data: Path, options: IngestOptions, report: Reporter) -> dict[str, Json]:
    """Samples, memory, disk and seconds of an ingest, from its listing and some decoded samples; nothing is written.

    Raises:
        DataError: the data is bad.
    """
    started = time.monotonic()
    bad = BadSamples(options.on_bad_sample)
    listing = list_samples(open_source(data, options), bad, options.classes or None, unlabelled=True)
    listing = listing.limited(options.limit, options.seed).joined()
    kept = np.flatnonzero(listing.keep)
    if not len(kept):
        raise bad.none_left(data)
    require_room(listing)
    listed = time.monotonic() - started
    found, least = Probe(0, 0.0), least_memory(listing.memory)
    n, sizes, decoded = len(kept), EncodedSizes(len(listing.keep)), replace(options, store=PIXELS)
    if listing.source.kinds:
        found = probe(listing, lambda part: choose_target(part, decoded, sizes, bad, SilentReporter()), bad)
    if IMAGES in listing.source.kinds:
        features = 4 * listing.source.width()
        choice = StoreChoice(n * (found.row_bytes - features), round(n * sizes.mean))
        if choice.stays_encoded(options.store):
            found = found._replace(row_bytes=features + PLACE.itemsize + round(sizes.mean_in_table))
    texts = sum(len(listing.sample_ids[place]) + len(listing.paths[place]) for place in kept.tolist())
    disk = n * (found.row_bytes + RECORD_BYTES + (DIGEST_BYTES if found.row_bytes else 0)) + texts
    seconds = listed + n * (found.seconds + RECORD_SECONDS)
    report.note(f"The ingest would take about {seconds:.0f} seconds, by a probe of its samples.")
    memory = predicted(listing.memory._replace(mapped=n * found.row_bytes), disk, least)
    return {"samples": n, **memory, "seconds": round(seconds, 1)}


def probe(listing: Listing, target_of: Callable[[Listing], Target], bad: BadSamples) -> Probe:
    """What the first samples in reading order take: to be looked at, decoded, stored, summed up and hashed.

    Args:
        listing: all samples.
        target_of: the stored form, by the listing of these samples alone.
        bad: what to do with samples that cannot be used.
    """
    few = np.zeros_like(listing.keep)
    few[np.flatnonzero(listing.keep)[: PROBE[1]]] = True
    part = replace(listing, keep=few)
    seen: list[float] = []
    if IMAGES in part.source.kinds:
        read_headers(part, bad, SilentReporter(), lambda position, content: seen.append(time.monotonic()))
    target = target_of(part)
    contents = part.source.contents(part.keep)
    first = _stored(islice(contents, PROBE[0]), target)  # files are opened, and modules imported
    started, rows = time.monotonic(), list[dict[str, np.ndarray]]()
    for _ in range(PROBE[0], int(few.sum()), AT_ONCE):  # no further: a reader would go to the end of its file
        rows += _stored(islice(contents, AT_ONCE), target)
        if time.monotonic() - started > LONGEST_PROBE:
            break
    rows = rows or first
    if not rows:
        return Probe(0, 0.0)
    for kind in target.arrays:
        array = np.stack([row[kind] for row in rows])
        statistics(array)
        hashlib.sha256(array.tobytes()).digest()
    seconds = (time.monotonic() - started) / len(rows)
    seconds += (seen[-1] - seen[0]) / len(seen) if seen else 0.0
    return Probe(sum(row.nbytes for row in rows[0].values()), seconds)


def _stored(contents: Iterator[tuple[int, Content]], target: Target) -> list[dict[str, np.ndarray]]:
    """The rows of the samples that can be used."""
    samples = (prepare(content, target) for _, content in contents)
    return [sample.rows for sample in samples if not isinstance(sample, UnusableContent)]
