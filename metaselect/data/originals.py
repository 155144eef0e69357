"""Images of single samples as files: the original bytes where the source is unchanged, else the stored pixels."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from metaselect.data.depth import PixelRange
from metaselect.data.images import Shape, content_hash, decode, encode_png, probe
from metaselect.data.listing import list_samples, open_source
from metaselect.data.readers.base import BadSamples, UnusableContent
from metaselect.data.store import keeps_encoded, load_images, preprocess_of
from metaselect.data.stored.images import EncodedImages
from metaselect.data_options import IngestOptions
from metaselect.errors import ArtefactError, DataError
from metaselect.records import Json, Reporter
from metaselect.run.artefacts import DATA, SAMPLES
from metaselect.run.files import write_atomically
from metaselect.run.layout import IMAGES, Run
from metaselect.run.record import StageRecord
from metaselect.run.tables import read_parquet

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}
OUTSIDE = ("image_folder", "features")
"""Options that name places outside of the data, which its record keeps beside the others; below the run, relative."""
SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # by Windows


class Original(NamedTuple):
    """The image of a sample.

    Attributes:
        sample_id: of the pool.
        suffix: of a file name.
        raw: the file's bytes.
        place: where the data set says that the image lies (the file there may be another one); None: it does not say.
        stored: whether it is the stored pixels, because the source is missing or changed.
    """

    sample_id: str
    suffix: str
    raw: bytes
    place: Path | None = None
    stored: bool = False


def write_originals(
    run: Run, sample_ids: Sequence[str], folder: Path, stems: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Write the images of some samples as ``<sample_id>.<ext>``.

    Args:
        run: an ingested run.
        sample_ids: of the pool.
        folder: made if it is missing; files of the same name are replaced.
        stems: sample_id -> file name without extension; by default those of ``file_stems``.

    Returns:
        sample_id -> file name; empty where the samples have no images.
    """
    stems = file_stems(sample_ids) if stems is None else stems
    names = {}
    for sample_id, suffix, raw in read_originals(run, sample_ids):
        folder.mkdir(parents=True, exist_ok=True)
        names[sample_id] = stems[sample_id] + suffix
        _write(folder / names[sample_id], raw)
    return names


def read_originals(run: Run, sample_ids: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    """(sample_id, file name suffix, bytes) of the images of some samples; nothing where they have none.

    Args:
        run: an ingested run.
        sample_ids: of the pool.
    """
    if IMAGES not in preprocess_of(run).kinds or not sample_ids:
        return
    found = {original.sample_id: original for original in stream_originals(run, sample_ids)}
    for sample_id in sample_ids:
        yield found[sample_id][:3]


def stream_originals(run: Run, sample_ids: Sequence[str]) -> Iterator[Original]:
    """The images of some samples, one in memory at a time, in the order in which the data set is read.

    Args:
        run: an ingested run whose samples have images.
        sample_ids: of the pool.
    """
    places, hashes = _places_and_hashes(run)
    if keeps_encoded(run):
        yield from _encoded_originals(run, places, sample_ids)
        return
    missing = {sample_id: hashes[sample_id] for sample_id in sample_ids}
    for original in _unchanged_originals(run, dict(missing)):
        if missing.pop(original.sample_id, None) is not None:
            yield original
    pixels = load_images(run, len(places))
    for sample_id in missing:
        yield Original(sample_id, ".png", encode_png(pixels[places[sample_id]]), stored=True)


def check_originals(run: Run, report: Reporter) -> int:
    """Read every image that a run keeps encoded, and compare it with the one that was ingested.

    Returns:
        How many there are; 0 where the run stores pixels, which need no originals.

    Raises:
        ArtefactError: naming the first one that is missing or another image, and how many there are.
    """
    if not keeps_encoded(run):
        return 0
    places, _ = _places_and_hashes(run)
    images, faults = load_images(run, len(places)), []
    assert isinstance(images, EncodedImages)
    with report.track(len(images), "Comparing", "images") as advance:
        for row in range(len(images)):
            try:
                images.encoded(row)
            except ArtefactError as error:
                faults.append(error)
            advance(1)
    if faults:
        others = f" {len(faults)} of {len(images)} images cannot be had." if len(faults) > 1 else ""
        raise ArtefactError(f"{faults[0]}{others}", faults[0].hint)
    return len(images)


def file_stems(sample_ids: Sequence[str]) -> dict[str, str]:
    """sample_id -> file name without extension, distinct also on file systems that ignore case."""
    stems = {sample_id: file_stem(sample_id) for sample_id in sample_ids}
    counts: dict[str, int] = {}
    for stem in stems.values():
        counts[stem.casefold()] = counts.get(stem.casefold(), 0) + 1
    return {
        sample_id: stem if counts[stem.casefold()] == 1 else _hashed(sample_id)
        for sample_id, stem in stems.items()
    }


def file_stem(sample_id: str) -> str:
    """The sample_id if it is a file name on every system, else "s" and 16 hex digits of its sha256."""
    if SAFE.fullmatch(sample_id) and not RESERVED.fullmatch(sample_id):
        return sample_id
    return _hashed(sample_id)


def _hashed(sample_id: str) -> str:
    return f"s{hashlib.sha256(sample_id.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _places_and_hashes(run: Run) -> tuple[dict[str, int], dict[str, str]]:
    """sample_id -> position in the pool, and sample_id -> content hash."""
    table = read_parquet(run, SAMPLES, ["sample_id", "content_hash"])
    ids = table["sample_id"].to_pylist()
    return {name: place for place, name in enumerate(ids)}, dict(
        zip(ids, table["content_hash"].to_pylist(), strict=True)
    )


def _encoded_originals(run: Run, places: Mapping[str, int], sample_ids: Sequence[str]) -> Iterator[Original]:
    """The images of a run that keeps them encoded, which are there or it is an error.

    Raises:
        ArtefactError: one is missing, or another image.
    """
    images = load_images(run, len(places))
    assert isinstance(images, EncodedImages)
    for sample_id in sample_ids:
        raw = images.encoded(places[sample_id])
        image = decode(raw, images.target.pixel_range)
        assert not isinstance(image, UnusableContent)  # else it would not be there
        yield Original(sample_id, *_as_file(raw, image), images.place_of(places[sample_id]))


def _unchanged_originals(run: Run, wanted: Mapping[str, str]) -> Iterator[Original]:
    """The images of ``wanted``, sample_id -> content hash, whose source still has that content."""
    record = run.stage(DATA.name()).require()
    options = recorded_options(run, record)
    scale = preprocess_of(run).kinds[IMAGES].pixel_range
    try:
        source = open_source(Path(record.details["root"]), options)
        source.take(IMAGES)
        listing = list_samples(source, BadSamples("skip"), options.classes or None, unlabelled=True)
        keep = listing.keep & np.array([name in wanted for name in listing.sample_ids])
        for position, content in source.contents(keep):
            sample_id = listing.sample_ids[position]
            if isinstance(content, bytes):
                original = _unchanged(content, wanted[sample_id], scale)
                if original is not None:
                    suffix, raw = original
                    yield Original(sample_id, suffix, raw, source.root / listing.paths[position])
    except (DataError, OSError):
        return  # the data was moved or changed: the stored pixels are used instead


def recorded_options(run: Run, record: StageRecord) -> IngestOptions:
    """The options by which the data of a run was read; defaults where the record is older than an option."""
    known = {spec.name for spec in fields(IngestOptions)}
    read = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.key.options.items()
        if name in known
    }
    places = {name: run.root / place for name in OUTSIDE if (place := record.details.get(name)) is not None}
    return IngestOptions(**read, **places)  # type: ignore[arg-type]


def recorded_place(run: Run, data: Path, options: IngestOptions) -> dict[str, Json]:
    """Where the data lies, as the stage's record says it."""
    places = {name: place.resolve() for name in OUTSIDE if (place := getattr(options, name)) is not None}
    root = run.root.resolve()
    inside = {name: place.relative_to(root) for name, place in places.items() if place.is_relative_to(root)}
    return {
        "root": str(data.resolve()),
        **dict.fromkeys(OUTSIDE),
        **{name: str(place) for name, place in (places | inside).items()},
    }


def _unchanged(raw: bytes, expected: str, scale: PixelRange | None) -> tuple[str, bytes] | None:
    """(suffix, bytes) if the image has the expected content hash, else None."""
    image = decode(raw, scale)
    if isinstance(image, UnusableContent) or content_hash(image) != expected:
        return None
    return _as_file(raw, image)


def _as_file(raw: bytes, image: Image.Image) -> tuple[str, bytes]:
    """(suffix, bytes) of an encoded image, and the same decoded.

    Rare formats are converted to PNG, and so are images of more than 8 bits, which viewers show in other ways each.
    """
    shape = probe(raw)
    if isinstance(shape, Shape) and not shape.deep and shape.format in SUFFIXES:
        return SUFFIXES[shape.format], raw
    pixels = np.asarray(image)
    return ".png", encode_png(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _write(path: Path, raw: bytes) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(raw)

    write_atomically(path, write)
