"""`corrupt`: a copy of a data set with wrong labels or a long tail, and a file with its true labels."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from metaselect.data import corruption
from metaselect.data.classes import INTEGER, suggest
from metaselect.data.listing import Listing
from metaselect.data.rewrite import copying, write_dataset
from metaselect.data_options import CorruptOptions
from metaselect.errors import DataError, UsageError
from metaselect.options import key_options
from metaselect.records import Json, Outcome, Reporter, matrix_rows
from metaselect.run.files import read_csv, write_csv
from metaselect.text import examples, quoted

KINDS = ("none", "uniform", "adversarial", "flip", "flip2", "background", "asymmetric", "human")
FILES = ("truth.csv", "train.parquet")
STREAMS = {"imbalance": 1, "map": 2, "noise": 3}  # one random stream for each purpose, from one seed


def corrupt(data: Path, out: Path, options: CorruptOptions, report: Reporter) -> Outcome:
    """Write OUT/train.parquet and OUT/truth.csv.

    Samples are removed for the long tail first; then exactly round(rate x eligible) labels change, as a function of
    the original labels.

    Raises:
        UsageError: options that do not fit together, or OUT holds something else.
        DataError: the data, the map or the labels are bad.
    """
    check_options(options)
    with copying(data, out, FILES, options, report, force=options.force) as copy:
        listing = copy.listing
        chosen, clean, given = change_labels(listing, copy.order(), options)
        note: dict[str, Json] = {"command": "corrupt", **key_options(options)}
        if options.mapping not in (None, "random"):
            note["mapping"] = "file"  # its path would make the bytes depend on the place
        truth, train = (copy.folder / name for name in FILES)
        write_dataset(train, copy, positions=chosen.tolist(), labels=given, note=note)
        rows = zip(chosen.tolist(), clean.tolist(), strict=True)
        write_csv(
            truth,
            ("sample_id", "clean_label"),
            ((listing.sample_ids[position], listing.classes[label]) for position, label in rows),
        )
    return Outcome(_result(out, clean, given, listing.classes))


def check_options(options: CorruptOptions) -> None:
    """Check that the options fit together.

    Raises:
        UsageError: naming them.
    """
    if options.noise not in KINDS:
        raise UsageError(f"--noise is {options.noise}; {suggest(options.noise, KINDS)}.", "See --help.")
    if (options.labels is not None) != (options.noise == "human"):
        raise UsageError("--labels FILE is for --noise human, and that needs it.", "Give both or neither.")
    if (options.background is not None) != (options.noise == "background"):
        raise UsageError(
            "--background CLASS is for --noise background, and that needs it.", "Give both or neither."
        )
    if options.mapping is not None and options.noise not in ("adversarial", "asymmetric"):
        raise UsageError(f"--map has no meaning for --noise {options.noise}.", "Leave it out.")
    if options.mapping == "random" and options.noise == "asymmetric":
        raise UsageError("--map random is for --noise adversarial.", "Give --map FILE with from,to.")
    if options.rate and options.noise in ("none", "human"):
        raise UsageError(f"--rate has no meaning for --noise {options.noise}.", "Leave it out.")


def change_labels(
    listing: Listing, order: np.ndarray, options: CorruptOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kept samples with their clean and their given labels.

    Args:
        listing: the data.
        order: (n,) positions in the order of sample ids.
        options: kind, rate, imbalance and seed.

    Returns:
        Kept positions, clean labels and given labels, each (n',) int64, in the order of sample ids.
    """
    class_count = len(listing.classes)
    if class_count < 2:
        raise DataError("The data has fewer than 2 classes.", "Name data with at least 2 classes.")
    clean = listing.labels[order]
    if options.imbalance > 1:
        kept = corruption.long_tail(clean, class_count, options.imbalance, _stream(options, "imbalance"))
        order, clean = order[kept], clean[kept]
    noise = _noise(listing, order, options)
    return order, clean, noise(clean, _stream(options, "noise"))


Noise = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(clean labels, generator) -> given labels, both (n,) int64."""


def _noise(listing: Listing, order: np.ndarray, options: CorruptOptions) -> Noise:
    """The function that changes the labels, as the options say."""
    classes, rate, count = listing.classes, options.rate, len(listing.classes)
    match options.noise:
        case "uniform":
            return lambda labels, generator: corruption.uniform(labels, count, rate, generator)
        case "adversarial":
            mapping = _permutation(classes, options)
            return lambda labels, generator: corruption.mapped(labels, mapping, rate, generator)
        case "flip":
            mapping = corruption.one_other_each(count, _stream(options, "map"))
            return lambda labels, generator: corruption.mapped(labels, mapping, rate, generator)
        case "flip2":
            return lambda labels, generator: corruption.flip2(labels, count, rate, generator)
        case "background":
            target = _class_number(str(options.background), classes, "--background")
            return lambda labels, generator: corruption.background(labels, target, rate, generator)
        case "asymmetric":
            pairs = _pairs(classes, options)
            return lambda labels, generator: corruption.asymmetric(labels, pairs, rate, generator)
        case "human":
            human = _human_labels(listing, order, options)
            return lambda labels, generator: human
    return lambda labels, generator: labels.copy()


def _stream(options: CorruptOptions, purpose: str) -> np.random.Generator:
    return np.random.default_rng([options.seed, STREAMS[purpose]])


def _permutation(classes: tuple[str, ...], options: CorruptOptions) -> np.ndarray:
    if options.mapping is None:
        return corruption.next_class(len(classes))
    if options.mapping == "random":
        return corruption.random_derangement(len(classes), _stream(options, "map"))
    pairs = _read_map(Path(options.mapping), classes)
    missing = [name for number, name in enumerate(classes) if number not in pairs]
    if missing:
        raise DataError(f"{options.mapping} maps no class from {missing[0]}.", "Give a line for each class.")
    return np.array([pairs[number] for number in range(len(classes))], dtype=np.int64)


def _pairs(classes: tuple[str, ...], options: CorruptOptions) -> Mapping[int, int]:
    if options.mapping is not None:
        return _read_map(Path(options.mapping), classes)
    if frozenset(classes) != corruption.CIFAR10_CLASSES:
        raise UsageError(
            "--noise asymmetric knows pairs of classes only for CIFAR-10.", "Give --map FILE with from,to."
        )
    return {classes.index(old): classes.index(new) for old, new in corruption.CIFAR10_PAIRS.items()}


def _read_map(path: Path, classes: tuple[str, ...]) -> dict[int, int]:
    """Class numbers of a CSV with the columns from,to."""
    header, rows = read_csv(path)
    if not {"from", "to"} <= set(header):
        raise DataError(f"{path} has no columns from and to.", "The first line must be: from,to")
    pairs: dict[int, int] = {}
    for line, row in enumerate(rows, start=2):
        old, new = (_class_number(row[end], classes, f"{path}:{line}") for end in ("from", "to"))
        if old == new or old in pairs:
            fault = "to itself" if old == new else "twice"
            raise DataError(f"{path}:{line} maps {row['from']} {fault}.", "Map a class once, to another.")
        pairs[old] = new
    return pairs


def _class_number(name: str, classes: tuple[str, ...], place: str) -> int:
    if name not in classes:
        raise DataError(f"{place}: {quoted(name)} is not a class; {suggest(name, classes)}.", "Name a class.")
    return classes.index(name)


def _human_labels(listing: Listing, order: np.ndarray, options: CorruptOptions) -> np.ndarray:
    """(n,) int64: the labels of the file --labels, in the order of ``order``."""
    path, column = Path(str(options.labels)), options.labels_column or "label"
    header, rows = read_csv(path)
    key = next((name for name in ("sample_id", "id") if name in header), None)
    if key is None or column not in header:
        missing = "sample_id (or id)" if key is None else column
        raise DataError(
            f"{path} has no column {missing}; there is {examples(header, 20)}.",
            "Name the column of labels with --labels-column.",
        )
    given = {row[key]: row[column] for row in rows}
    ids = [listing.sample_ids[position] for position in order.tolist()]
    absent = [sample_id for sample_id in ids if not given.get(sample_id)]
    if absent:
        raise DataError(
            f"{path} has no {column} for {len(absent)} of {len(ids)} samples, the first is {absent[0]}.",
            "Its ids must be those of the data.",
        )
    places = {name: place for place, name in enumerate(listing.classes)}
    # Values are class numbers only if none is a class name: "1" is a name where the classes are "1" to "10".
    if not any(given[sample_id] in places for sample_id in ids):
        places = {str(place): place for place in range(len(listing.classes))}
    for line, row in enumerate(rows, start=2):
        if row[column] and row[column] not in places:
            kind = "position" if INTEGER.fullmatch(row[column]) else "name"
            raise DataError(
                f"{path}:{line} has the {kind} {quoted(row[column])}, which no class has.",
                f"Classes are {examples(listing.classes)}.",
            )
    return np.array([places[given[sample_id]] for sample_id in ids], dtype=np.int64)


def _result(out: Path, clean: np.ndarray, given: np.ndarray, classes: tuple[str, ...]) -> dict[str, Json]:
    flipped = int((clean != given).sum())
    return {
        "n": len(clean),
        "flipped": flipped,
        "measured_rate": flipped / max(len(clean), 1),
        "out": str(out),
        "classes": list(classes),
        "transition": matrix_rows(corruption.transition_counts(clean, given, len(classes))),
    }
