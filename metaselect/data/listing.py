"""Opening a data set of any form and listing its samples: ids, labels, classes."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from metaselect.data.classes import FILLERS, MISSING, order_classes, suggest
from metaselect.data.readers.base import (
    MEND_OR_SKIP,
    BadSample,
    BadSamples,
    Pair,
    Source,
    UnusableContent,
    identity,
)
from metaselect.data.readers.joined import JoinedSource, with_features
from metaselect.data.readers.metadata import MANIFESTS, image_folder
from metaselect.data.readers.parquet import ParquetSource
from metaselect.data.readers.paths import is_special, require_inside
from metaselect.data.readers.splits import SUFFIXES, parquet_files
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.memory import MIB, Need
from metaselect.text import quoted

_ARRAYS = (
    "Write its features to Parquet, in Python: import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table("
    "{'features': list(X), 'label': y}), 'data.parquet'), where X is the matrix (n, d) and y has n labels."
)
CONVERT = {
    ".npy": _ARRAYS,
    ".npz": _ARRAYS,
    ".json": "Write JSON lines, in Python: import json; from pathlib import Path; Path('data.jsonl').write_text('\\n'"
    ".join(map(json.dumps, json.loads(Path('FILE.json').read_text()))))",
}
"""How files of other forms become readable, by suffix."""
SAMPLE_BYTES, BUFFERS = (
    350,
    80 * MIB,
)  # of memory for a sample besides the listing, and for its readers, as measured
ID_DIGITS = 16  # hex digits of a made id: 64 bits, a clash among a million samples has chance 3e-8


@dataclass(frozen=True)
class Listing:
    """The N entries of a source in reading order, bad ones among them.

    Attributes:
        source: gives the contents.
        classes: K names.
        rows: (N,) int64, numbers of rows or lines as messages give them.
        sample_ids: N strings; empty where the sample is bad and has none.
        labels: (N,) int64, positions in ``classes``; -1 where bad or without a label.
        paths: N relative image paths; empty where there are none.
        keep: (N,) bool, false for bad samples and those that a limit leaves out.
        fillers: texts of labels that stand for none, such as "nan".
    """

    source: Source
    classes: tuple[str, ...]
    rows: np.ndarray
    sample_ids: list[str]
    labels: np.ndarray
    paths: list[str]
    keep: np.ndarray
    fillers: frozenset[str] = frozenset()

    @property
    def memory(self) -> Need:
        """What is held besides, once the samples are decoded: digests, their order, and the rows of the tables."""
        return Need(int(self.keep.sum()) * SAMPLE_BYTES + BUFFERS)

    def given_label(self, position: int) -> str | None:
        """The name of a sample's label; None where it has none."""
        label = int(self.labels[position])
        return self.classes[label] if label >= 0 else None

    def order(self) -> list[int]:
        """Positions of the kept samples, sorted by sample_id."""
        return sorted(np.flatnonzero(self.keep).tolist(), key=self.sample_ids.__getitem__)

    def bad(self, position: int, reason: str) -> BadSample:
        """The record of a bad sample, for messages and ``skipped.csv``."""
        row, path = int(self.rows[position]), self.paths[position]
        return BadSample(self.source.where(position, row, path), row, self.sample_ids[position], reason)

    def joined(self) -> "Listing":
        """The listing, once the features of a file of their own were read for the kept samples.

        Raises:
            DataError: as ``JoinedSource.join``.
        """
        if isinstance(self.source, JoinedSource) and self.keep.any():
            self.source.join(self.sample_ids, self.keep)
        return self

    def limited(self, count: int | None, seed: int) -> "Listing":
        """The listing with a seeded subset of ``count`` samples, the same for any order of rows."""
        if count is None:
            return self
        ranked = sorted(
            self.order(),
            key=lambda position: hashlib.sha256(f"{seed}:{self.sample_ids[position]}".encode()).digest(),
        )
        keep = np.zeros_like(self.keep)
        keep[ranked[:count]] = True
        return replace(self, keep=keep)

    def narrowed(self, ids: Collection[str]) -> "Listing":
        """The listing without the samples of other ids."""
        return replace(self, keep=self.keep & np.array([name in ids for name in self.sample_ids]))


def open_source(path: Path, options: ReadOptions) -> Source:
    """The data set at ``path``: an image folder, a CSV or Parquet manifest, or a folder of Parquet shards.

    Raises:
        DataError: there is none of these.
    """
    return with_features(_open(path, options), options)


def _open(path: Path, options: ReadOptions) -> Source:
    """The same without the file of --features."""
    if not path.exists():
        raise DataError(f"{path} does not exist.", "Check the path.")
    if is_special(path) and not path.is_dir():
        raise DataError(f"{path} is not a regular file.", "Write the data to a file, and name that.")
    if path.is_dir():
        shards = parquet_files(path, options.split)
        if shards:
            require_inside(shards, path, options)
            return ParquetSource(shards, shards[0].parent, options)
    if options.split is not None:
        raise DataError(f"{path} is no folder of Parquet files, which --split is for.", "Leave --split out.")
    if path.is_dir():
        return image_folder(path, options)
    if path.suffix.lower() in SUFFIXES:
        return ParquetSource([path], path.parent, options)
    if path.suffix.lower() in MANIFESTS:
        return MANIFESTS[path.suffix.lower()](path, options)
    raise DataError(
        f"{path} is no {', '.join(MANIFESTS)} or .parquet file.",
        CONVERT.get(
            path.suffix.lower(),
            "Name a manifest, a folder of .parquet files, or a folder with one folder of images for each class.",
        ),
    )


def list_samples(
    source: Source, bad: BadSamples, classes: Sequence[str] | None = None, *, unlabelled: bool = False
) -> Listing:
    """Ids, labels and classes of a data set, without its contents.

    Args:
        source: the data set.
        bad: what to do with samples that cannot be used.
        classes: those of an existing pool, or all that the user names, which labels must be among; None: the data
            decides.
        unlabelled: keep samples without a label, which a pool may have; else they are bad samples.

    Raises:
        DataError: a bad sample where the policy is to stop; no sample; two class names that are the same integer.
    """
    rows: list[int] = []
    given: list[str | None] = []
    names: list[str | None] = []
    paths: list[str] = []
    problems: dict[int, str] = {}
    without: dict[int, str] = {}  # problems of samples that lack a label alone
    fillers: set[str] = set()
    known = None if classes is None else frozenset(classes)
    for position, entry in enumerate(source.entries()):
        rows.append(entry.row)
        given.append(entry.sample_id)
        names.append(entry.label)
        paths.append(entry.path)
        problem = entry.problem
        if not problem and source.brings_ids and not (entry.sample_id or "").strip():
            problem = "it has no id"
        if problem:
            problems[position] = problem
        elif entry.label is None:
            without[position] = "it has no label"
        elif entry.label in MISSING and entry.label not in (known or source.declared):
            without[position] = f"its label {quoted(entry.label)} is what programs write where there is none"
            fillers.add(entry.label)
            names[-1] = None
        elif known is not None and entry.label not in known:
            near = suggest(entry.label, tuple(classes or ()))
            more = "; if it is a class, add it to --classes" if unlabelled else ""
            problems[position] = f"the label {quoted(entry.label)} is not among the classes: {near}{more}"
    if not rows:
        table = next((file for name, file in source.files() if not name), source.root)
        raise DataError(f"{table} holds no sample.", "Name data with at least one row.")
    if known is None and not source.declared and _are_numbered(names):
        for position, name in enumerate(names):
            if name in FILLERS:
                without[position] = f"its label {name} stands for none beside the classes 0, 1, and so on"
                fillers.add(name)
                names[position] = None
    fixed = tuple(classes or source.declared) or order_classes(name for name in names if name)
    places = {name: place for place, name in enumerate(fixed)}
    labels = np.array([places.get(name or "", -1) for name in names], dtype=np.int64)
    keep = np.ones(len(rows), dtype=bool)
    listing = Listing(
        source,
        fixed,
        np.array(rows, dtype=np.int64),
        [name or "" for name in given],
        labels,
        paths,
        keep,
        frozenset(fillers),
    )
    _leave_out(listing, sorted((problems if unlabelled else problems | without).items()), bad)
    if not source.brings_ids:
        _make_ids(listing, bad)
    _check_distinct(listing, bad)
    return listing


def _are_numbered(names: Iterable[str | None]) -> bool:
    """Whether the labels beside -1 and -100 are 0..K-1, so that these are no classes."""
    others = set(names) - {None, *FILLERS}
    return len(others) > 1 and others == {str(number) for number in range(len(others))}


def _leave_out(listing: Listing, problems: Iterable[tuple[int, str]], bad: BadSamples) -> None:
    for position, problem in problems:
        bad.add(listing.bad(position, problem))
        listing.keep[position] = False


def _make_ids(listing: Listing, bad: BadSamples) -> None:
    """Fill in ids where the data has none: hashes of the image paths, else of the contents."""
    if all(listing.paths) and len(set(listing.paths)) == len(listing.paths):
        for position, path in enumerate(listing.paths):
            listing.sample_ids[position] = made_id(path.encode())
        return
    problems: dict[int, str] = {}
    repeats: dict[str, list[int]] = {}
    features: dict[int, bytes] = {}  # digests of those beside images
    for position, content in listing.source.contents(listing.keep):
        if isinstance(content, UnusableContent):
            problems[position] = content.reason
            continue
        if isinstance(content, Pair):
            features[position] = hashlib.sha256(identity(content.features)).digest()
        repeats.setdefault(made_id(identity(content)), []).append(position)
    for name, positions in repeats.items():
        # What such samples differ in decides their order, so that rows may be shuffled.
        positions.sort(key=lambda place: (int(listing.labels[place]), features.get(place, b"")))
        for number, position in enumerate(positions, 1):
            listing.sample_ids[position] = name if number == 1 else f"{name}-{number}"
    _leave_out(listing, problems.items(), bad)


def made_id(content: bytes) -> str:
    """The id of a sample that has none of its own: "s" and 16 hex digits."""
    return f"s{hashlib.sha256(content).hexdigest()[:ID_DIGITS]}"


def _check_distinct(listing: Listing, bad: BadSamples) -> None:
    """Leave out every sample whose id occurs twice: it is not known which of them the id means."""
    kept = np.flatnonzero(listing.keep).tolist()
    counts = Counter(listing.sample_ids[position] for position in kept)
    if len(counts) == len(kept):
        return
    repeated: dict[str, list[int]] = {}
    for position in kept:
        if counts[listing.sample_ids[position]] > 1:
            repeated.setdefault(listing.sample_ids[position], []).append(position)
    for positions in repeated.values():
        for position in positions:
            other = positions[1] if position == positions[0] else positions[0]
            bad.add(listing.bad(position, f"its id also stands in {_place(listing, other)}"), _DISTINCT)
            listing.keep[position] = False


_DISTINCT = f"Give every sample its own id. {MEND_OR_SKIP}"


def _place(listing: Listing, position: int) -> str:
    row, path = int(listing.rows[position]), listing.paths[position]
    place = listing.source.where(position, row, path)
    return f"{place}, row {row}" if row else place
