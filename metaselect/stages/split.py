"""`split`: a data set as two files, to train and to test on, with nothing in both."""

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from metaselect.data.classes import MISSING
from metaselect.data.images import Shape, content_hash, decode, deep_values, probe
from metaselect.data.listing import open_source
from metaselect.data.readers.base import Pair, UnusableContent, identity
from metaselect.data.readers.folder import FolderSource
from metaselect.data.rewrite import Copy, copying, decoded, write_dataset
from metaselect.data_options import SplitOptions
from metaselect.errors import DataError, UsageError
from metaselect.options import key_options
from metaselect.random import derive_seed
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.layout import FEATURES
from metaselect.text import counted, examples, short

TEST, TRAIN = FILES = ("test.parquet", "train.parquet")


def split(data: Path, out: Path, options: SplitOptions, report: Reporter) -> Outcome:
    """Write OUT/train.parquet and OUT/test.parquet.

    Samples of equal content or nearly equal features, or of one value in the group column, are a group, and a group is
    never torn. Samples without a label, and the groups they are in, are trained on.

    Raises:
        UsageError: OUT holds something else, or the data has no such column.
        DataError: the data is bad, or nothing is left for the test set.
    """
    with copying(data, out, FILES, options, report, force=options.force, unlabelled=True) as copy:
        keys = [*_content_keys(copy, report), _group_names(data, copy, options)]
        if not copy.listing.keep.any():
            raise copy.bad.none_left(data)
        keys.append(_near_duplicates(copy, report))
        order = copy.order()
        labels = copy.listing.labels[order]
        groups = joined_groups([[column[place] for place in order.tolist()] for column in keys], len(order))
        draw = np.random.default_rng(derive_seed(options.seed, "split", "groups"))
        chosen = choose_test(labels, groups, options.test, draw)
        if not chosen.any():
            raise DataError(
                f"{options.test:g} of {counted(len(order), 'sample', 'samples')} in "
                f"{counted(int(groups.max()) + 1, 'group', 'groups')} leaves nothing for the test set.",
                "Choose a larger --test; every class keeps one group in the training set, and samples without a label "
                "are no test samples.",
            )
        note: dict[str, Json] = {"command": "split", **key_options(options)}
        for name, part in ((TEST, chosen), (TRAIN, ~chosen)):
            path = copy.folder / name
            write_dataset(path, copy, positions=order[part].tolist(), labels=labels[part], note=note)
    _warn_of_untested(copy.listing.classes, labels, chosen, report)
    return Outcome(_result(out, copy.listing.classes, labels, groups, chosen))


def choose_test(
    labels: np.ndarray, groups: np.ndarray, share: float, draw: np.random.Generator
) -> np.ndarray:
    """The samples of the test set: whole groups, so that about this share of every class is tested.

    Groups are taken in turn, large ones first, and each goes where the test samples of its classes so far come closer
    to their share; the sum over classes of squared differences counts, each over the size of the class. Where no group
    has two classes, every class ends within the size of one of its groups. The first group of each class, and every
    group with a sample that has no label, is trained on.

    Args:
        labels: (n,) int64; -1 for none.
        groups: (n,) int64, the group of each sample, from 0.
        share: of the test set, between 0 and 1.
        draw: shuffles groups of one size.

    Returns:
        (n,) bool, which samples are tested.
    """
    sizes = np.bincount(groups)
    shuffled = draw.permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    totals = np.bincount(labels[labels >= 0], minlength=1)
    width = len(totals) + 1
    pairs, counts = np.unique(groups * width + labels + 1, return_counts=True)  # of a group and a class
    starts = np.searchsorted(pairs, np.arange(len(sizes) + 1) * width)
    excess = np.zeros(len(totals))  # test samples of the groups so far, less their share
    trained = np.zeros(len(totals), dtype=bool)  # classes with a sample to train on
    tested = np.zeros(len(sizes), dtype=bool)
    for group in order.tolist():
        members = slice(starts[group], starts[group + 1])
        classes, count = pairs[members] % width - 1, counts[members]
        if classes[0] < 0:  # which is the lowest
            classes, count = classes[1:], count[1:]
        elif trained[classes].all():
            # How much more the squared differences grow if the group is tested than if it is not.
            growth = count * (2 * excess[classes] + (1 - 2 * share) * count) / totals[classes]
            tested[group] = growth.sum() < 0
        excess[classes] += (tested[group] - share) * count
        trained[classes] |= not tested[group]
    chosen: np.ndarray = tested[groups]
    return chosen


def joined_groups(columns: Sequence[Sequence[Hashable]], count: int) -> np.ndarray:
    """The group of each sample, (n,) int64 from 0 in the order of their first samples.

    Two samples are in one group if a column has the same value for both, or if both are in a group with a third one.

    Args:
        columns: n values each; None stands for none, which joins nothing.
        count: n.
    """
    parent = list(range(count))

    def first_of(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    for column in columns:
        seen: dict[Hashable, int] = {}
        for place, value in enumerate(column):
            if value is not None:
                one, other = first_of(place), first_of(seen.setdefault(value, place))
                parent[max(one, other)] = min(one, other)
    groups: np.ndarray = np.unique([first_of(place) for place in range(count)], return_inverse=True)[1]
    return groups


def _content_keys(copy: Copy, report: Reporter) -> Iterable[Sequence[Hashable]]:
    """Hashes of the (N,) images and of the features of the data set, None where there is none.

    Unusable images are left out here, so that neither file has them.
    """
    listing = copy.listing
    images: list[Hashable] = [None] * len(listing.rows)
    features: list[Hashable] = [None] * len(listing.rows)
    kept = listing.order() if listing.source.kinds else []
    with report.track(len(kept), "Comparing", "samples") as advance:
        for position, raw in zip(kept, copy.spool.read(kept), strict=True):
            advance(1)
            content = decoded(raw, listing.source)
            for part in content if isinstance(content, Pair) else (content,):
                if isinstance(part, bytes):
                    digest = _image_hash(part)
                    if isinstance(digest, UnusableContent):
                        copy.bad.add(listing.bad(position, digest.reason))
                        listing.keep[position] = False
                    else:
                        images[position] = digest
                else:
                    features[position] = hashlib.sha256(identity(part)).digest()
    return images, features


def _image_hash(raw: bytes) -> str | UnusableContent:
    """A hash of the pixels of an image, in all their bits; or why there are none."""
    shape = probe(raw)
    if isinstance(shape, Shape) and shape.deep:
        values = deep_values(raw)
        if isinstance(values, UnusableContent):
            return values
        return hashlib.sha256(f"{values.dtype} {values.shape} ".encode() + values.tobytes()).hexdigest()
    image = decode(raw)
    return image if isinstance(image, UnusableContent) else content_hash(image)


def _near_duplicates(copy: Copy, report: Reporter) -> Sequence[Hashable]:
    """The groups of nearly equal features, N numbers; None for all where the data has no features."""
    source, order = copy.listing.source, copy.listing.order()
    groups: list[Hashable] = [None] * len(copy.listing.rows)
    if FEATURES not in source.kinds:
        return groups
    import torch

    from metaselect.features.near_duplicates import similar_samples

    features = np.empty((len(order), source.width()), dtype=np.float32)
    for row, raw in zip(features, copy.spool.read(order), strict=True):
        content = decoded(raw, source)
        row[:] = content.features if isinstance(content, Pair) else content
    with report.track(0, "Comparing features", "samples") as advance:
        # Always on the CPU: the same data is split in the same way on every machine.
        found = similar_samples(features, torch.device("cpu"), lambda text: advance(0, text))
    for position, group in zip(order, found.group.tolist(), strict=True):
        groups[position] = group
    return groups


def _group_names(data: Path, copy: Copy, options: SplitOptions) -> Sequence[Hashable]:
    """The values of the group column, N strings; None where the cell is empty, or there is no such column.

    It is read as a column of labels is, which has the same kinds of cells.

    Raises:
        UsageError: the data is no table.
        DataError: the table has no such column, or a value is no name or number.
    """
    listing, column = copy.listing, options.group_column
    if column is None:
        return [None] * len(listing.rows)
    try:
        source = open_source(data, replace(options, label_column=column, features=None))
    except DataError as error:
        raise DataError(str(error), "Name a column with one name or number a row: --group-column") from None
    if isinstance(source, FolderSource):
        raise UsageError(
            f"{data} is a folder of images by class, and --group-column {short(column)} is for tables.",
            "Name a table with columns of images, labels and groups.",
        )
    names: list[Hashable] = []
    for position, entry in enumerate(source.entries()):
        if entry.problem and listing.keep[position]:
            where = listing.bad(position, f"its group in the column {short(column)} cannot be read")
            raise DataError(where.sentence(), "Correct it; a group is one name or number.")
        names.append(None if entry.label in MISSING else entry.label)
    return names


def _warn_of_untested(
    classes: Sequence[str], labels: np.ndarray, chosen: np.ndarray, report: Reporter
) -> None:
    """Warn of classes whose samples are all trained on."""
    untested = sorted(set(labels[labels >= 0].tolist()) - set(labels[chosen].tolist()))
    if untested:
        names = [f"{short(classes[label])} ({(labels == label).sum()})" for label in untested]
        report.warn(
            f"{counted(len(untested), 'class has', 'classes have')} no test sample, since too few samples or groups "
            f"are in it: {examples(names)}."
        )


def _result(
    out: Path, classes: Sequence[str], labels: np.ndarray, groups: np.ndarray, chosen: np.ndarray
) -> dict[str, Json]:
    sizes = np.bincount(groups)
    tested = np.bincount(labels[chosen], minlength=len(classes)).tolist()
    trained = np.bincount(labels[~chosen & (labels >= 0)], minlength=len(classes)).tolist()
    return {
        "out": str(out),
        "train": int((~chosen).sum()),
        "test": int(chosen.sum()),
        "unlabelled": int((labels < 0).sum()),
        "groups": int((sizes > 1).sum()),
        "grouped_samples": int(sizes[sizes > 1].sum()),
        "classes": {
            name: {"train": trained[label], "test": tested[label]} for label, name in enumerate(classes)
        },
    }
