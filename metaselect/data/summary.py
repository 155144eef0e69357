"""Facts about a whole data set: its fingerprint, mean and standard deviation, and repeated contents."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from metaselect.data.listing import Listing
from metaselect.memory import block_size, drop_pages_if_near
from metaselect.records import Reporter
from metaselect.text import examples, quoted

BLOCK = 2048  # samples held at a time
LEAST_COLUMNS = 64  # of features that are summed up together; NumPy sums a single one in another order
MANY_SINGLE = 10  # classes of one sample, if most are: the labels are a column of ids or measurements
LEVELS = 256  # values of a pixel


def fingerprint(classes: Sequence[str], samples: Iterable[tuple[str, str | None, str]]) -> str:
    """Hex digest that identifies the data, whatever its form and order.

    Args:
        classes: names in order.
        samples: (sample_id, given_label or None, content_hash), sorted by sample_id.
    """
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    for sample in samples:
        digest.update(b"\n" + json.dumps(sample).encode())
    return digest.hexdigest()


def row_hashes(features: np.ndarray) -> Iterator[str]:
    """The content hash of each row of (n, d) features: hex digest of its float32 numbers, little-endian."""
    return (hashlib.sha256(row.astype("<f4").tobytes()).hexdigest() for row in features)


def joint_hash(image: str, features: str) -> str:
    """The content hash of a sample that has both, by those of its image and its features."""
    return f"{image} {features}"


def joint_hashes(content_hashes: Sequence[str], features: np.ndarray | None) -> Sequence[str]:
    """The content hashes of all that samples have, by which a data set is compared with another.

    Args:
        content_hashes: n, as ``samples.parquet`` has them: of the images where there are any.
        features: (n, d), where there are images and features; else None.
    """
    if features is None:
        return content_hashes
    return [joint_hash(*hashes) for hashes in zip(content_hashes, row_hashes(features), strict=True)]


def statistics(array: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel of pixels / 255, or of each feature; a std of 0 is given as 1.

    Args:
        array: (n, C, H, W) uint8 or (n, d) float32, read in blocks.
    """
    if array.dtype == np.uint8:
        return level_statistics(_counts_of_blocks(array))
    mean = _column_sums(array, lambda part, _: part) / len(array)
    squares = _column_sums(array, lambda part, columns: (part - mean[columns]) ** 2)
    deviation = np.sqrt(squares / len(array))
    # The rounded mean of a constant feature gives a deviation of about 1e-17 instead of 0.
    ends = [(block.min(axis=0), block.max(axis=0)) for block in _blocks(array)]
    low, high = (np.stack(each) for each in zip(*ends, strict=True))
    constant = low.min(axis=0) == high.max(axis=0)
    return tuple(mean.tolist()), tuple(np.where(constant, 1.0, deviation).tolist())


def _column_sums(array: np.ndarray, of: Callable[[np.ndarray, slice], np.ndarray]) -> np.ndarray:
    """(d,) float64, the sums of what ``of`` makes of some columns of (n, d) float32, and where they are.

    Of wide rows some columns at a time. The blocks of rows are fixed: others would round the sums in another order.
    """
    d = array.shape[1]
    parts = max(d // max(block_size(3 * 8 * BLOCK, d), LEAST_COLUMNS), 1)
    bounds = [d * part // parts for part in range(parts + 1)]
    total = np.zeros(d)
    for block in _blocks(array):
        for start, stop in pairwise(bounds):
            columns = slice(start, stop)
            total[columns] += of(block[:, columns].astype(np.float64), columns).sum(axis=0)
    return total


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(array), BLOCK):
        yield array[start : start + BLOCK]
        drop_pages_if_near()


def _counts_of_blocks(array: np.ndarray) -> np.ndarray:
    """``level_counts`` of all pixels (n, C, H, W), some rows at a time."""
    counts = np.zeros((array.shape[1], LEVELS), dtype=np.int64)
    rows = block_size(8 * array[0, 0].size, BLOCK)  # of a channel, as int64; sums of integers are exact
    for start in range(0, len(array), rows):
        counts += level_counts(array[start : start + rows])
        drop_pages_if_near()
    return counts


def level_counts(pixels: np.ndarray) -> np.ndarray:
    """(C, 256) int64, how often each channel has each value in (B, C, H, W) uint8 pixels."""
    channels = (pixels[:, channel].reshape(-1) for channel in range(pixels.shape[1]))
    return np.stack([np.bincount(values, minlength=LEVELS) for values in channels])


def level_statistics(counts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """As ``statistics`` of pixels with these (C, 256) counts of values.

    From exact sums of integers, so that a constant channel has a deviation of exactly 0.
    """
    levels = np.arange(LEVELS, dtype=np.int64)
    values, squares = ([int(each) for each in counts @ power] for power in (levels, levels**2))
    count = int(counts[0].sum())
    mean = tuple(value / count / 255 for value in values)
    # n^2 times the variance, n sum(x^2) - sum(x)^2, still an integer.
    spread = [count * square - value * value for value, square in zip(values, squares, strict=True)]
    return mean, tuple((number**0.5 / count / 255) or 1.0 for number in spread)


def duplicates(sample_ids: Sequence[str], content_hashes: Sequence[str]) -> list[tuple[str, str]]:
    """(content_hash, sample_id) of every sample that is not the only one of its content, sorted."""
    ids_of: dict[str, list[str]] = {}
    for sample_id, content in zip(sample_ids, content_hashes, strict=True):
        ids_of.setdefault(content, []).append(sample_id)
    repeated = (content for content in sorted(ids_of) if len(ids_of[content]) > 1)
    return [(content, sample_id) for content in repeated for sample_id in sorted(ids_of[content])]


def warn_of_labels(listing: Listing, order: Sequence[int], report: Reporter) -> int:
    """Warn of samples without a label, whose number is returned, and of classes without a sample or with one."""
    labels = listing.labels[list(order)]
    unlabelled = int((labels < 0).sum())
    fillers = examples([quoted(text) for text in sorted(listing.fillers)])
    named = f" ({fillers} in its place counts as none)" if fillers else ""
    if unlabelled:
        report.warn(
            f"{unlabelled} of {len(order)} samples have no label{named}. They can be selected, and are trained on once "
            "their labels are bought."
        )
    counts = np.bincount(labels[labels >= 0], minlength=len(listing.classes))
    empty = [name for name, count in zip(listing.classes, counts, strict=True) if count == 0]
    if empty:
        report.warn(f"{len(empty)} of {len(listing.classes)} classes have no sample: {examples(empty)}.")
    single = int((counts == 1).sum())
    if single >= MANY_SINGLE and single > len(counts) / 2:
        report.warn(
            f"{single} of {len(counts)} classes have one sample each. Are they classes? See --label-column."
        )
    return unlabelled
