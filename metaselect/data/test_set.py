"""Reading a test set with the classes (by name), image size and mode of a pool."""

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pyarrow as pa

from metaselect.data.depth import brightness_remark
from metaselect.data.ingest import Arrays, Journal, fill, stored_form
from metaselect.data.listing import Listing, list_samples, open_source
from metaselect.data.readers.base import BadSamples
from metaselect.data.readers.paths import ImageFiles
from metaselect.data.store import Dataset, Inputs
from metaselect.data.stored.images import EncodedImages, Remedies
from metaselect.data.stored.places import EncodedSizes, test_set_stays_encoded
from metaselect.data.target import Target, read_headers
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.memory import droppable, require_memory
from metaselect.records import Reporter
from metaselect.run.artefacts import ENCODED_BYTES
from metaselect.run.evaluation_artefacts import TEST_SKIPPED
from metaselect.run.layout import FEATURES, IMAGES
from metaselect.run.tables import write_rows
from metaselect.text import counted, examples


def read_test_set(
    path: Path,
    options: ReadOptions,
    like: Dataset,
    scratch: Path,
    report: Reporter,
    *,
    workers: int | None = None,
) -> tuple[Dataset, list[str]]:
    """A test set with the classes and preprocessing of a pool, and its content hashes.

    Args:
        path: of any form.
        options: how to read it.
        like: the pool; labels are matched with its class names.
        scratch: a folder for the memory-mapped array and the list of bad samples, kept while the data is used.
        report: progress.
        workers: processes that decode images ahead, where they stay encoded; None: by the machine.

    Returns:
        The data set, sorted by sample_id, and the content hash of each sample.

    Raises:
        DataError: a bad sample, a label outside the classes, or another kind of data than the pool.
    """
    bad = BadSamples(options.on_bad_sample)
    source = open_source(path, options)
    preprocess = like.preprocess
    if not source.kinds:
        raise DataError(
            f"{path} has neither images nor features that are known as such, so no model can be judged on it.",
            "Name the column of images with --image-column or those of features with --feature-columns.",
        )
    if preprocess.task not in source.kinds:
        raise DataError(
            f"{path} holds {source.kinds[0]}, and the run's models take {preprocess.task}.",
            "Name data of that kind, or its features with --features FILE.",
        )
    listing = list_samples(source, bad, like.classes)
    source.take(preprocess.task)  # after ids were made, which are the same whatever is taken
    for remark in source.remarks:
        report.warn(remark)
    if not listing.keep.any():
        raise bad.none_left(path)
    require_memory(
        listing.memory, f"A test set of {int(listing.keep.sum()):,} samples", "Fewer samples take less."
    )
    listing.joined()
    width = like.inputs.shape[1] if preprocess.task == FEATURES else 0
    if width and source.width() != width:
        raise DataError(
            f"{path} has {source.width()} features per sample, the run has {width}.",
            "Choose the same columns with --feature-columns, or features of the same encoder.",
        )
    scratch.mkdir(parents=True, exist_ok=True)
    target = Target(preprocess.size, preprocess.mode, width, preprocess.pixel_range, preprocess.fit)
    if preprocess.task == IMAGES:
        decoded = int(listing.keep.sum()) * prod(target.image_shape)
        pool_does = isinstance(like.inputs, EncodedImages)
        target = replace(target, encoded=test_set_stays_encoded(decoded, pool_does=pool_does))
    shallow, sizes = False, EncodedSizes(len(listing.rows))
    if preprocess.pixel_range is not None or target.encoded:
        found = read_headers(listing, bad, report, sizes.add)
    if preprocess.pixel_range is not None:
        shallow = found.values.count < sum(found.sizes.values())
        for remark in found.values.remarks(preprocess.pixel_range):
            report.warn(f"{path}: {remark}")
    arrays = fill(listing, Journal(target), scratch, bad, report, sizes)
    if bad.found:
        write_rows(scratch / TEST_SKIPPED.within(), TEST_SKIPPED, [each.cells() for each in bad.found])
        report.warn(bad.left_out())
    labels = listing.labels[arrays.order]
    absent = [name for place, name in enumerate(like.classes) if not (labels == place).any()]
    if absent:
        report.note(
            f"{path} has no sample of {counted(len(absent), 'class', 'classes')}: {examples(absent)}."
        )
    ids = [listing.sample_ids[position] for position in arrays.order]
    inputs: Inputs
    if target.encoded:
        files = ImageFiles(source.root, outside=options.allow_outside)
        inputs = replace(_encoded_images(listing, arrays, files, target), workers=workers)
    else:
        inputs = droppable(np.load(arrays.paths[preprocess.task], mmap_mode="c", allow_pickle=False))
    if shallow and preprocess.pixel_range is not None:
        mean = stored_form(target, arrays)[1].mean
        pool, test = (float(np.mean(each)) for each in (preprocess.mean, mean))
        if (odd := brightness_remark(pool, test, preprocess.pixel_range)) is not None:
            report.warn(f"{path}: {odd}.")
    return Dataset(ids, labels, like.classes, inputs, preprocess), arrays.content_hashes


def _encoded_images(listing: Listing, arrays: Arrays, files: ImageFiles, target: Target) -> EncodedImages:
    """The images of a test set, read from where they lie whenever rows of them are asked for."""
    places = arrays.paths[IMAGES]
    table = places.with_name(ENCODED_BYTES.within())
    columns = {
        "sample_id": [listing.sample_ids[position] for position in arrays.order],
        "content_hash": arrays.content_hashes,
        "source": [listing.paths[position] for position in arrays.order],
    }
    again = "Put it back, and run the same command again."
    return EncodedImages(
        np.load(places, mmap_mode="r", allow_pickle=False),
        np.load(table, mmap_mode="r", allow_pickle=False) if table.is_file() else np.empty(0, np.uint8),
        pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()}),
        files,
        target,
        Remedies(again, again, again),
    )
