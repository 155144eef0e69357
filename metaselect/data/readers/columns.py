"""Which columns of a manifest hold the ids, the labels, and the images or features."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from metaselect.data.classes import suggest
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.run.layout import FEATURES, IMAGES
from metaselect.text import examples, short

FEATURE_LIST = "features"
FILE_NAME = "file_name"  # of images, in Hugging Face's imagefolder
CELL = re.compile(r"\.(png|jpe?g|tiff?|webp|bmp|gif)$|^-?[0-9]+\.[0-9]+$", re.I)
NONE = "none"  # for --image-column and --feature-columns: leave the images, or the features, out
SHOWN = 5  # columns that a remark names


@dataclass(frozen=True)
class Columns:
    """Columns by their meaning.

    Attributes:
        sample_id: None: the data has no ids.
        label: the given label.
        image: None where the samples are not images.
        features: names of numeric columns, or of the one list column; empty where the samples are none.
    """

    sample_id: str | None
    label: str
    image: str | None
    features: tuple[str, ...]

    @property
    def single(self) -> frozenset[str]:
        """Columns with one value a row: id, label and image."""
        return frozenset(name for name in (self.sample_id, self.label, self.image) if name is not None)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the samples have: "images", "features", or both in this order."""
        return (IMAGES,) * (self.image is not None) + (FEATURES,) * bool(self.features)

    def of(self, kind: str) -> "Columns":
        """The columns without images, or without features."""
        return replace(self, features=()) if kind == IMAGES else replace(self, image=None)

    def remarks(self, file: str, header: Sequence[str]) -> tuple[str, ...]:
        """Warnings about columns, where how they were understood may be a mistake."""
        others = [name for name in header if name not in (self.sample_id, self.label)]
        if not self.kinds:
            shown = ", ".join(map(short, others[:SHOWN])) + (", ..." if len(others) > SHOWN else "")
            ways = f"--image-column or --feature-columns takes one of: {shown}; " if others else ""
            return (
                f"{file} has no images or features that are known as such, so ids and labels alone are taken "
                f"({ways}--image-column {self.sample_id} --image-folder DIR --image-suffix .jpg, files named by ids).",
            )
        return ()


def choose_columns(file: str, header: Sequence[str], options: ReadOptions) -> Columns:
    """What the columns of a manifest mean.

    Raises:
        DataError: a named column is missing, or there are neither images nor features nor ids.
    """
    check_distinct(file, header)
    _check_case(file, header, options)
    label = _require(file, header, options.label_column, "--label-column")
    if options.id_column is not None:
        sample_id: str | None = _require(file, header, options.id_column, "--id-column")
    else:
        sample_id = next((name for name in ("sample_id", "id") if name in header), None)
    image, features = (
        _image(file, header, options, sample_id),
        _features(file, header, options, label, sample_id),
    )
    if image is not None or features or sample_id is not None:
        return Columns(sample_id, label, image, features)
    raise DataError(
        f"{file} has neither a column {options.image_column} nor a column {FEATURE_LIST}, and ids and labels alone "
        "need a column sample_id.",
        f"Name the column of images with --image-column, those of features with --feature-columns "
        f"'PATTERN', or that of ids with --id-column; there is {examples(header)}.",
    )


def _image(file: str, header: Sequence[str], options: ReadOptions, sample_id: str | None) -> str | None:
    """The column of images; None where there is none, or the user wants none."""
    name = options.image_column
    if name in header:
        return name
    if name == ReadOptions.image_column:
        return FILE_NAME if FILE_NAME in header and sample_id is None else None
    return None if name == NONE else _require(file, header, name, "--image-column")


def check_distinct(file: str, header: Sequence[str]) -> None:
    """Check that no name occurs twice in a header.

    Raises:
        DataError: naming the column.
    """
    repeated = sorted({name for name in header if list(header).count(name) > 1})
    if repeated:
        raise DataError(
            f"{file} has the column {short(repeated[0])} twice.",
            _HEADER if _is_row(header) else "Give each column its own name.",
        )


_HEADER = "The header seems to be missing: write the names of the columns in a line before the first sample."


def _is_row(header: Sequence[str]) -> bool:
    """Whether names of columns look like the cells of a sample: image files or decimal fractions."""
    return any(CELL.search(name) for name in header)


def _check_case(file: str, header: Sequence[str], options: ReadOptions) -> None:
    """Check that the columns of labels and images are not there in another case, and name all of them at once.

    Raises:
        DataError: the label is.
    """
    by_case = {name.casefold(): name for name in header}
    ways = [
        f"{flag} {shlex.quote(by_case[name.casefold()])}"
        for name, flag in ((options.label_column, "--label-column"), (options.image_column, "--image-column"))
        if name not in header and name.casefold() in by_case
    ]
    if ways and options.label_column not in header:
        raise DataError(
            f"{file} has no column {short(options.label_column)} in this case.", f"Name it: {' '.join(ways)}"
        )


def _require(file: str, header: Sequence[str], name: str, flag: str) -> str:
    if name not in header:
        raise DataError(
            f"{file} has no column {short(name)}: {suggest(name, header)}",
            _HEADER if _is_row(header) else f"Name it with {flag}.",
        )
    return name


def _features(
    file: str, header: Sequence[str], options: ReadOptions, label: str, sample_id: str | None
) -> tuple[str, ...]:
    """The columns of features; empty where there are none, or the user wants none."""
    pattern = options.feature_columns
    if pattern is None:
        return (FEATURE_LIST,) if FEATURE_LIST in header else ()
    # A label among the features would make every method look perfect, so a pattern never matches it.
    taken = {label, sample_id, options.image_column}
    names = tuple(name for name in header if fnmatchcase(name, pattern) and name not in taken)
    if not names and pattern != NONE:
        raise DataError(
            f"--feature-columns {pattern} matches no column of {file}.", f"There is {examples(header)}."
        )
    return names
