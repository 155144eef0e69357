"""`ingest`: DATA becomes the stage ``data/`` of a run, with the same bytes for any form and order of the data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metaselect.data.classes import name_remarks
from metaselect.data.ingest import Journal, fill, hash_contents, restore_bad, stored_form
from metaselect.data.listing import Listing, list_samples, open_source
from metaselect.data.originals import OUTSIDE, recorded_options, recorded_place
from metaselect.data.readers.base import BadSample, BadSamples
from metaselect.data.signature import dataset_signature
from metaselect.data.store import keeps_encoded, preprocess_of
from metaselect.data.stored.places import EncodedSizes
from metaselect.data.stored.preprocess import Preprocess
from metaselect.data.summary import duplicates, fingerprint, warn_of_labels
from metaselect.data.target import choose_target
from metaselect.data_options import ENCODED, PIXELS, IngestOptions
from metaselect.errors import ArtefactError, DataError, UsageError
from metaselect.options import key_options
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import CLASSES, DATA, DUPLICATES, EMBEDDED, PREPROCESS, RECORD, SAMPLES, SKIPPED
from metaselect.run.files import read_json, write_json
from metaselect.run.key import EXTERNAL, StageKey, differences
from metaselect.run.layout import IDS_ALONE, IMAGES, Run
from metaselect.run.record import StageRecord
from metaselect.run.stage import Work, dry_run_outcome
from metaselect.run.tables import require_parquet, write_parquet, write_rows
from metaselect.stages.ingest_cost import needs, require_room
from metaselect.text import counted, quoted, spreadsheet_cell

DATA_INPUT = f"{EXTERNAL}DATA"


def ingest(data: Path | None, run: Run, options: IngestOptions, report: Reporter) -> Outcome:
    """Read DATA into the run, unless it holds the same data already.

    Args:
        data: a data set of any form; None if the run holds data already.
        run: the run directory.
        options: how to read it.
        report: notes and progress.

    Raises:
        UsageError: no DATA and no run.
        DataError: the data is bad.
        ArtefactError: the run holds other data, or was made with other options.
    """
    if data is None:
        if not run.exists:
            raise UsageError(f"There is no data in {run.root} yet.", "Name DATA.")
        run.stage(DATA.name()).check()
        return Outcome(_result(run))
    if options.dry_run:
        return dry_run_outcome(run.stage(DATA.name()), _key(options, ""), needs(data, options, report))
    with run.lock(new=True):  # the one command that may create the folder
        record = None if options.force else run.stage(DATA.name()).record()
        if record is None:
            _make(data, run, options, report)
        else:
            recorded = recorded_options(run, record)
            if options.features is None and recorded.features == run.path(EMBEDDED.path()):
                options = replace(options, features=recorded.features)
            _check_options(run, record, options)
            _check_same(data, run, record, options, report)
            report.note(f"{run.path(DATA.name())} is up to date.")
    return Outcome(_result(run))


def same_data(data: Path, run: Run, options: IngestOptions, report: Reporter) -> None:
    """Check that the run holds this data, read with the run's own options.

    Args:
        data: of any form.
        run: an existing run.
        options: only what differs from the defaults is compared with the run's own options.
        report: progress, where the contents must be compared.

    Raises:
        ArtefactError: it is other data, or an option was given that is not the run's.
    """
    record = run.stage(DATA.name()).require()
    recorded = recorded_options(run, record)
    recorded = replace(recorded, **{name: place for name in OUTSIDE if (place := getattr(options, name))})
    default = IngestOptions()
    given = {
        name: getattr(options, name)
        for name in key_options(options)
        if getattr(options, name) != getattr(default, name)
    }
    # A command that was killed just before it wrote run.json left a run without it.
    with run.lock(new=not run.is_described):
        _check_options(run, record, replace(recorded, **given))
        _check_same(data, run, record, recorded, report)


def _key(options: IngestOptions, signature: str) -> StageKey:
    # Without a limit the seed has no effect, so it must not make two runs differ.
    seeded = options if options.limit is not None else replace(options, seed=0)
    return StageKey(key_options(seeded), {DATA_INPUT: signature})


def _check_options(run: Run, record: StageRecord, options: IngestOptions) -> None:
    recorded = recorded_options(run, record)
    if options.store == (ENCODED if keeps_encoded(run) else PIXELS):  # by a rule or by a flag
        options = replace(options, store=recorded.store)
    changes = differences(_key(recorded, ""), _key(options, ""))
    if changes:
        raise ArtefactError(
            f"{run.path(DATA.name())} was ingested with other settings: {'; '.join(changes)}.",
            "Add --force to ingest anew, or use another --run.",
        )


def _check_same(data: Path, run: Run, record: StageRecord, options: IngestOptions, report: Reporter) -> None:
    """Compare DATA with the data of the run: by names, sizes and times, and by contents only if those differ."""
    run.stage(DATA.name()).check()
    _write_run_info(run)
    signature = dataset_signature(data, options)
    if signature == record.key.inputs.get(DATA_INPUT):
        if not recorded_place(run, data, options).items() <= record.details.items():  # it was moved
            _record_place(run, data, options, signature)
        return
    report.note(f"{data} is not the file that was ingested, or its time changed; comparing the contents.")
    bad = BadSamples(options.on_bad_sample)
    listing = list_samples(open_source(data, options), bad, options.classes or None, unlabelled=True)
    listing = listing.limited(options.limit, options.seed).joined()
    images = preprocess_of(run).kinds.get(IMAGES)
    scale = images.pixel_range if images else None
    order, content_hashes = hash_contents(listing, scale, bad, report)
    given, recorded = _fingerprint(listing, order, content_hashes), record.details["fingerprint"]
    if given != recorded:
        raise ArtefactError(
            f"{run.root} holds other data (fingerprint {recorded[:12]}) than {data} ({given[:12]}).",
            "Use another --run, or replace the data: metaselect ingest --force.",
        )
    _record_place(run, data, options, signature)


def _record_place(run: Run, data: Path, options: IngestOptions, signature: str) -> None:
    """Record the new place of the same data, so that its contents need not be compared next time."""
    path = run.path(f"{DATA.name()}/{RECORD}")
    raw = read_json(path, run.stage(DATA.name()).recompute_hint)
    raw["inputs"][DATA_INPUT] = signature
    images = open_source(data, options).root.resolve()  # the folder that paths of images start from
    raw["details"] |= {**recorded_place(run, data, options), IMAGES: str(images)}
    write_json(path, raw)


def _make(data: Path, run: Run, options: IngestOptions, report: Reporter) -> None:
    bad = BadSamples(options.on_bad_sample)
    source = open_source(data, options)
    listing = list_samples(source, bad, options.classes or None, unlabelled=True)
    for remark in (*source.remarks, *name_remarks(listing.classes)):
        report.warn(remark)
    if len(listing.classes) < 2 and listing.keep.any():
        only = f"only the class {quoted(listing.classes[0])}" if listing.classes else "no label"
        raise DataError(f"{data} has {only}; there must be at least 2 classes.", "Check --label-column.")
    listing = listing.limited(options.limit, options.seed).joined()
    require_room(listing)
    key = _key(options, dataset_signature(data, options))
    with run.stage(DATA.name()).working(key, report) as work:
        with _listed_bad(work, bad):
            if not listing.keep.any():
                raise bad.none_left(data)
            _build(run, listing, work, options, bad, report)
        work.details |= {**recorded_place(run, data, options), IMAGES: str(source.root.resolve())}
    _write_run_info(run)


@contextmanager
def _listed_bad(work: Work, bad: BadSamples) -> Iterator[None]:
    """Write the list of bad samples also where they are the reason for an error, and name it."""
    try:
        yield
    except DataError as error:
        if bad.found:
            path = work.folder / SKIPPED.within()
            _write_bad(path, bad.found)
            raise DataError(str(error), f"{error.hint} All of them: {path}") from None
        raise


def _write_bad(path: Path, bad: Sequence[BadSample]) -> None:
    write_rows(path, SKIPPED, [each.cells() for each in bad])


def _build(
    run: Run, listing: Listing, work: Work, options: IngestOptions, bad: BadSamples, report: Reporter
) -> None:
    """Write all files of the stage below ``work.folder``; resumes from the journal of an interrupted command."""
    sizes = EncodedSizes(len(listing.rows))
    journal = Journal.read(work.folder, int(listing.keep.sum())) if work.resumed else None
    if journal is None:
        journal = Journal(choose_target(listing, options, sizes, bad, report))
    else:
        done = int(listing.keep[: journal.done].sum())
        report.note(f"Resuming at sample {done + 1} of {int(listing.keep.sum())}.")
        restore_bad(listing, journal, bad)
    target = journal.target
    if not target.arrays:
        order, content_hashes = hash_contents(listing, None, bad, report)
        joint: Sequence[str] = content_hashes
        preprocess = Preprocess(IDS_ALONE, (), "", (), ())
    else:
        arrays = fill(listing, journal, work.folder, bad, report, sizes)
        order, content_hashes = arrays.order, arrays.content_hashes
        joint, preprocess = stored_form(target, arrays)
    write_samples(work.folder / SAMPLES.within(), listing, order, content_hashes)
    write_json(work.folder / CLASSES.within(), list(listing.classes))
    preprocess.write(work.folder / PREPROCESS.within())
    # Equal images under two ids are kept: only a person can say which of their labels is right.
    repeated = duplicates([listing.sample_ids[position] for position in order], content_hashes)
    _write_lists(run, work, bad.found, repeated, report)
    work.details["unlabelled"] = warn_of_labels(listing, order, report)
    work.details["task"] = preprocess.task
    work.details["fingerprint"] = _fingerprint(listing, order, joint)


def _write_run_info(run: Run) -> None:
    """Write ``run.json`` from the record of the data; an interrupted command may have left an older one."""
    details = run.stage(DATA.name()).require().details
    run.write_info(details["task"], details["fingerprint"])


def write_samples(path: Path, listing: Listing, order: Sequence[int], content_hashes: Sequence[str]) -> None:
    """Write ``samples.parquet``; ``source`` is the image's path relative to the data, or empty."""
    names = [listing.given_label(position) for position in order]
    columns = {
        "sample_id": pa.array([listing.sample_ids[position] for position in order], pa.string()),
        "given_label": pa.array(names, pa.string()),
        "content_hash": pa.array(content_hashes, pa.string()),
        "source": pa.array([listing.paths[position] for position in order], pa.string()),
    }
    write_parquet(path, SAMPLES, columns)


def _write_lists(
    run: Run, work: Work, bad: Sequence[BadSample], repeated: Sequence[tuple[str, str]], report: Reporter
) -> None:
    """Write ``skipped.csv`` and ``duplicates.csv``, each only if it has rows."""
    work.details["skipped"], work.details["duplicates"] = len(bad), len(repeated)
    if bad:
        _write_bad(work.folder / SKIPPED.within(), bad)
        lost = counted(len(bad), "bad sample was", "bad samples were")
        report.warn(f"{lost} left out: {run.path(SKIPPED.path())}")
    if repeated:
        rows = [[spreadsheet_cell(name) for name in pair] for pair in repeated]
        write_rows(work.folder / DUPLICATES.within(), DUPLICATES, rows)
        same = counted(len(repeated), "sample shares its", "samples share their")
        report.warn(f"{same} content with another: {run.path(DUPLICATES.path())}")


def _fingerprint(listing: Listing, order: Sequence[int], content_hashes: Sequence[str]) -> str:
    samples = (
        (listing.sample_ids[position], listing.given_label(position), content)
        for position, content in zip(order, content_hashes, strict=True)
    )
    return fingerprint(listing.classes, samples)


def _result(run: Run) -> dict[str, Json]:
    """What ``--json`` prints, read from the finished stage."""
    info = run.info()
    details = run.stage(DATA.name()).require().details
    preprocess = preprocess_of(run)
    images = preprocess.kinds.get(IMAGES, preprocess)
    return {
        "n": pq.read_metadata(require_parquet(run, SAMPLES)).num_rows,
        "classes": read_json(run.path(CLASSES.path()), "Ingest the data again with --force."),
        "task": preprocess.task,
        "image_size": list(images.size) or None,
        "pixel_range": None if images.pixel_range is None else list(images.pixel_range),
        "store": (ENCODED if keeps_encoded(run) else PIXELS) if images.size else None,
        "fingerprint": info["fingerprint"],
        "unlabelled": details.get("unlabelled", 0),
        "skipped": details["skipped"],
        "duplicates": details["duplicates"],
    }
