"""Which columns of a manifest mean what."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from metaselect.data.classes import suggest
from metaselect.errors import DataError
from metaselect.options import ReadOptions

FEATURE_LIST = "features"


@dataclass(frozen=True)
class Columns:
    """Columns by their meaning.

    Attributes:
        sample_id: None: the data brings no ids.
        label: the given label.
        image: None where the samples are features.
        features: names of numeric columns, or of the one list column; empty for images.
    """

    sample_id: str | None
    label: str
    image: str | None
    features: tuple[str, ...]


def choose_columns(file: str, header: Sequence[str], options: ReadOptions) -> Columns:
    """What the columns of a manifest mean.

    Raises:
        DataError: a named column is missing, or there is neither an image nor features.
    """
    repeated = sorted({name for name in header if list(header).count(name) > 1})
    if repeated:
        raise DataError(f"{file} has the column {repeated[0]} twice.", "Give each column its own name.")
    label = _require(file, header, options.label_column, "--label-column")
    if options.id_column is not None:
        sample_id: str | None = _require(file, header, options.id_column, "--id-column")
    else:
        sample_id = next((name for name in ("sample_id", "id") if name in header), None)
    if options.feature_columns is not None:
        features = _features(file, header, options.feature_columns, {label, sample_id})
        return Columns(sample_id, label, None, features)
    if options.image_column in header:
        return Columns(sample_id, label, options.image_column, ())
    if FEATURE_LIST in header:
        return Columns(sample_id, label, None, (FEATURE_LIST,))
    raise DataError(
        f"{file} has neither a column {options.image_column} nor a column {FEATURE_LIST}; "
        "ids and labels alone (the task `external`) cannot be ingested yet.",
        f"Name the column of images with --image-column or those of features with --feature-columns "
        f"'PATTERN'; there is {', '.join(header)}.",
    )


def _require(file: str, header: Sequence[str], name: str, flag: str) -> str:
    if name not in header:
        raise DataError(f"{file} has no column {name}: {suggest(name, header)}", f"Name it with {flag}.")
    return name


def _features(file: str, header: Sequence[str], pattern: str, taken: set[str | None]) -> tuple[str, ...]:
    # The label must never slip in among the features, whatever the pattern matches.
    found = tuple(name for name in header if fnmatchcase(name, pattern) and name not in taken)
    if not found:
        raise DataError(
            f"--feature-columns {pattern} matches no column of {file}.", f"There is {', '.join(header)}."
        )
    return found
