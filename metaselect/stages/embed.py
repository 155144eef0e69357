"""`embed`: a Parquet file with the features that a frozen encoder makes of the pictures of a data set.

The pictures are encoded in reading order, in shards of a fixed number of samples that lie beside the output until all
are there. A killed command goes on after the last whole shard, and the file has the same bytes.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from metaselect.data.classes import name_remarks
from metaselect.data.depth import PixelRange
from metaselect.data.listing import Listing, list_samples, open_source
from metaselect.data.readers.base import BadSamples, Content, UnusableContent
from metaselect.data.target import choose_range, read_headers
from metaselect.data_options import DEFAULT_ENCODER, EmbedOptions
from metaselect.encoders.encode import Computation, encode, prepare
from metaselect.encoders.features_table import features_table
from metaselect.encoders.load import load_encoder
from metaselect.encoders.zero_shot import zero_shot
from metaselect.errors import DataError, LockedError, UsageError
from metaselect.options import key_options
from metaselect.records import Json, Outcome, Reporter
from metaselect.registry import ENCODERS
from metaselect.run.files import write_atomically
from metaselect.run.key import EXTERNAL, StageKey, differences, key_as_json
from metaselect.run.layout import IMAGES
from metaselect.training.device import choose_device

SHARD_ROWS = 1024  # samples of a shard and of a row group: at most so many are encoded twice after a kill
BATCH_SIZES = {"cpu": 16}  # pictures by device, 64 on others; in larger batches a CPU waits for its memory
NOTE, BAD = b"metaselect", b"bad"  # in the metadata of a file; of a shard


def embed(
    data: Path, out: Path, options: EmbedOptions, report: Reporter, only: Collection[str] | None = None
) -> Outcome:
    """Write ``out``, a Parquet file of sample_id, features and label, unless it is there already.

    Args:
        data: pictures, in any form.
        out: the file.
        options: how to read and to encode them.
        report: notes and progress.
        only: the ids of the samples to encode; None: all.

    Raises:
        UsageError: ``out`` is another file, or lies in the data; no such encoder; its package is not installed.
        DataError: the data is bad or holds no images, or the encoder's weights cannot be had.
        LockedError: another command is writing the same file.
    """
    _check_place(data, out)
    bad = BadSamples(options.on_bad_sample)
    listing = _images(data, options, bad, report)
    if only is not None:
        listing = listing.narrowed(only)
    device = choose_device(options.device, report)
    if options.amp and device.type == "cpu":
        raise UsageError("--amp is for GPUs, and this runs on the CPU.", "Leave it out.")
    batch_size = options.batch_size or BATCH_SIZES.get(device.type, 64)
    amp = device.type == "cuda" if options.amp is None else options.amp
    options = replace(options, batch_size=batch_size, amp=amp)
    if (
        options.encoder.partition(":")[0] in ENCODERS.keys() - {DEFAULT_ENCODER}
        and not options.encoder_weights
    ):
        report.note(f"Loading {options.encoder}; its weights are downloaded if they are not here yet.")
    encoder = load_encoder(options.encoder, options.encoder_weights)
    prompt = options.zero_shot
    classifier = None if prompt is None else zero_shot(encoder, prompt, listing.classes)
    scale, fingerprint = _look(listing, options, bad, report)
    described = encoder.described()
    inputs = {f"{EXTERNAL}DATA": fingerprint, f"{EXTERNAL}encoder_weights": str(described["weights_sha256"])}
    if classifier is not None:
        inputs[f"{EXTERNAL}texts"] = hashlib.sha256(classifier.texts.tobytes()).hexdigest()
    key = StageKey(key_options(options), inputs, device.type)
    if out.exists() and not options.force:
        _check_same(out, key)
        report.note(f"{out} is up to date.")
        return Outcome(_result(out))
    note: dict[str, Json] = {
        "command": "embed",
        **key_as_json(key),
        "encoder": described,
        "pixel_range": None if scale is None else list(scale),
        "versions": {name: version(name) for name in ("metaselect", "torch", "torchvision", "pillow")},
    }
    encoder.module.to(device)
    how = Computation(encoder, classifier, device, batch_size, amp, scale)
    with _work_folder(out, note, report) as work:
        _encode_shards(work, listing, how, note, bad, report)
        filled = [shard for shard in sorted(work.glob("*.parquet")) if pq.read_metadata(shard).num_rows]
        if filled:
            write_atomically(out, partial(_write, tables=map(_read, filled)))
    if not filled:
        raise bad.none_left(data)
    if bad.found:
        report.warn(bad.left_out())
    return Outcome(_result(out))


def _check_place(data: Path, out: Path) -> None:
    """Check that the file is a Parquet file outside of the data, of which it would else be a part the next time."""
    if out.suffix != ".parquet":
        raise UsageError(f"-o {out} must end in .parquet.", "Such as -o photos.parquet")
    if out.is_dir():
        raise UsageError(f"-o {out} is a folder.", "Name a file in it.")
    if out.resolve() == data.resolve() or (data.is_dir() and out.resolve().is_relative_to(data.resolve())):
        raise UsageError(f"-o {out} is where the data itself lies.", "Name a file in another folder.")


def _images(data: Path, options: EmbedOptions, bad: BadSamples, report: Reporter) -> Listing:
    """The samples of the data, which must be images."""
    source = open_source(data, options)
    if IMAGES not in source.kinds:
        kind = "feature vectors" if source.kinds else "ids and labels alone"
        raise DataError(f"{data} holds {kind}, and an encoder needs images.", "Name data with images.")
    listing = list_samples(source, bad, unlabelled=True)
    source.take(IMAGES)  # of samples that have features too
    for remark in (*source.remarks, *name_remarks(listing.classes)):
        report.warn(remark)
    if not listing.keep.any():
        raise bad.none_left(data)
    return listing


def _look(
    listing: Listing, options: EmbedOptions, bad: BadSamples, report: Reporter
) -> tuple[PixelRange | None, str]:
    """(the scale of deep images, the hash of all ids, labels and contents in reading order).

    An unusable image is found here, before hours of computing.
    """
    digest = hashlib.sha256(json.dumps(listing.classes).encode())

    def add(position: int, content: Content) -> None:
        raw = content if isinstance(content, bytes) else repr(content).encode()
        words = [listing.sample_ids[position], int(listing.labels[position]), hashlib.sha256(raw).hexdigest()]
        digest.update(json.dumps(words).encode())

    found = read_headers(listing, bad, report, add)
    return choose_range(found, options.pixel_range, report), digest.hexdigest()


def _check_same(out: Path, key: StageKey) -> None:
    """Check that a file was made by this command from the same data.

    Raises:
        UsageError: it was not.
    """
    try:
        raw = json.loads(pq.read_schema(out).metadata[NOTE])
        made = StageKey(raw["options"], raw["inputs"], raw["device"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        raise UsageError(f"{out} exists and is no file of embed.", "Add --force to replace it.") from None
    if changes := differences(made, key):
        raise UsageError(
            f"{out} exists and was made otherwise: {'; '.join(changes)}.", "Add --force to replace it."
        )


@contextmanager
def _work_folder(out: Path, note: dict[str, Json], report: Reporter) -> Iterator[Path]:
    """A folder beside the output, with the shards of an interrupted command if that was the same; removed at the end.

    Raises:
        LockedError: another command works in it.
    """
    work = out.with_name(f".{out.name}.embed")
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(
            f"Another metaselect command is writing {out}.", "Wait for it to end, then try again."
        ) from None
    try:
        others = [shard for shard in work.glob("*.parquet") if _note_of(shard) != note]
        for shard in others:
            shard.unlink()
        if others:
            report.note(
                f"What an interrupted command with other options or data had made of {out} was removed."
            )
        yield work
        shutil.rmtree(work)
    finally:
        lock.release()
        if not any(work.glob("*.parquet")):
            shutil.rmtree(work, ignore_errors=True)


def _note_of(shard: Path) -> Any:
    """The metadata of a shard that says how it was made; None where it cannot be read."""
    try:
        return json.loads(pq.read_schema(shard).metadata[NOTE])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None


def _encode_shards(
    work: Path, listing: Listing, how: Computation, note: dict[str, Json], bad: BadSamples, report: Reporter
) -> None:
    """Write the shards that are not there yet; samples that cannot be used go to ``bad``."""
    kept = np.flatnonzero(listing.keep)
    paths = [work / f"{first:012d}.parquet" for first in range(0, len(kept), SHARD_ROWS)]
    done = next((number for number, path in enumerate(paths) if not path.exists()), len(paths))
    for path in paths[:done]:
        for position, reason in json.loads(pq.read_schema(path).metadata[BAD]):
            bad.add(listing.bad(position, reason))
    earlier = min(done * SHARD_ROWS, len(kept))
    if done:
        report.note(f"Resuming at sample {earlier + 1} of {len(kept)}.")
    if done == len(paths):
        return
    contents = listing.source.contents(listing.keep, int(kept[earlier]))
    with warnings.catch_warnings(), report.track(len(kept), "Encoding", "images", done=earlier) as advance:
        # Those that decode set this too, each for itself, which Python cannot do for one thread alone.
        warnings.simplefilter("ignore")
        prepared = prepare(how, contents)
        for path in paths[done:]:
            positions, rows, lost = [], [], []
            for position, features in encode(how, islice(prepared, SHARD_ROWS)):
                if isinstance(features, UnusableContent):
                    bad.add(listing.bad(position, features.reason))
                    lost.append([position, features.reason])
                else:
                    positions.append(position)
                    rows.append(features)
                advance(1)
            table = features_table(listing, positions, rows, how.classifier)
            own = {NOTE: json.dumps(note).encode(), BAD: json.dumps(lost).encode()}
            table = table.replace_schema_metadata({**table.schema.metadata, **own})
            write_atomically(path, partial(_write, tables=iter([table])))


def _read(shard: Path) -> pa.Table:
    """The table of a shard as it becomes a row group of the output."""
    with pq.ParquetFile(shard) as file:
        table = file.read()
    return table.replace_schema_metadata({k: v for k, v in table.schema.metadata.items() if k != BAD})


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    """Write tables of one schema, each as a row group."""
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, use_dictionary=False) as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _result(out: Path) -> dict[str, Json]:
    """What ``--json`` prints, read from the file."""
    schema = pq.read_schema(out)
    encoder = json.loads(schema.metadata[NOTE])["encoder"]
    return {
        "out": str(out),
        "n": pq.read_metadata(out).num_rows,
        "width": schema.field("features").type.list_size,
        "encoder": encoder["name"],
        "weights_sha256": encoder["weights_sha256"],
    }
