"""What readers of all forms of input have in common: sources, their entries and contents, and bad samples."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from metaselect.data.classes import class_form
from metaselect.errors import DataError
from metaselect.text import counted, short, spreadsheet_cell

STOP = "stop"
SKIP = "skip"
MEND_OR_SKIP = "Correct it, or leave bad samples out: --on-bad-sample skip"


class SampleEntry(NamedTuple):
    """One sample as its manifest or folder names it, before its content is read.

    Attributes:
        row: the line of a CSV file, the row of a Parquet file from 1, 0 in an image folder.
        sample_id: None where the data has no ids.
        label: a class name; None where it is missing.
        path: of the image, relative and POSIX; empty where there is none.
        problem: why the sample cannot be used, or empty.
    """

    row: int
    sample_id: str | None
    label: str | None
    path: str
    problem: str = ""


@dataclass(frozen=True)
class UnusableContent:
    """In place of a content that cannot be used; ``reason`` is the end of a sentence."""

    reason: str


class FileBytes(bytes):
    """The bytes of an image that is a file of its own; those in a table are plain ``bytes``."""


class Pair(NamedTuple):
    """A sample that has both: encoded image bytes, and a (d,) float32 row of features."""

    image: bytes
    features: np.ndarray


Content: TypeAlias = bytes | np.ndarray | Pair | UnusableContent
"""Encoded image bytes, or a (d,) float32 row of features (d = 0: ids and labels alone), or both, or why it is none."""


def paired(image: Content, features: Content) -> Content:
    """Both of one sample, or why one of them cannot be used."""
    if isinstance(image, bytes) and isinstance(features, np.ndarray):
        return Pair(image, features)
    return image if isinstance(image, UnusableContent) else features


def identity(content: bytes | np.ndarray | Pair) -> bytes:
    """The bytes by which equal contents are known; of a sample that has both, those of its image."""
    if isinstance(content, Pair):
        return content.image
    return content if isinstance(content, bytes) else content.astype("<f4").tobytes()


class Source(Protocol):
    """A data set of one form. The order of ``entries`` is the reading order; positions count it from 0.

    Attributes:
        root: the folder that paths are relative to.
        kinds: "images", "features", or both in this order; empty: ids and labels alone.
        declared: class names in their order where the data itself fixes them, else empty.
        brings_ids: whether the data has ids of its own.
        remarks: warnings about how the data was understood.
    """

    root: Path
    declared: tuple[str, ...]
    brings_ids: bool
    remarks: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the samples have."""

    def where(self, position: int, row: int, path: str) -> str:
        """The file that messages about this sample name."""

    def entries(self) -> Iterator[SampleEntry]:
        """Every sample, without its content."""

    def contents(self, keep: np.ndarray, start: int = 0) -> Iterator[tuple[int, Content]]:
        """(position, content) of the samples from ``start`` on where ``keep`` (N,) bool is true, streamed."""

    def take(self, kind: str) -> None:
        """Read "images" or "features" alone, which the samples must have, of samples that have both."""

    def width(self) -> int:
        """Features per sample (the commonest number, whatever the order of rows); 0 where there are no features."""

    def files(self) -> Iterator[tuple[str, Path]]:
        """(relative name, path) of every file of the data set; a named image may be missing."""


@dataclass(frozen=True)
class BadSample:
    """A sample that was left out, and why."""

    source: str
    row: int
    sample_id: str
    reason: str

    def cells(self) -> tuple[str, int | str, str, str]:
        """The row of ``skipped.csv``: source, row, sample_id and reason, with nothing that a spreadsheet would run."""
        source, sample_id, reason = (
            spreadsheet_cell(text) for text in (self.source, self.sample_id, self.reason)
        )
        return source, self.row or "", sample_id, reason

    def sentence(self) -> str:
        """One sentence that names file, row and id."""
        row = f", row {self.row}" if self.row else ""
        name = f", id {short(self.sample_id)}" if self.sample_id else ""
        return f"{self.source}{row}{name}: {self.reason}."


class BadSamples:
    """The bad samples of a data set, and the policy: stop at the first, or collect them in ``found``."""

    def __init__(self, policy: str) -> None:
        self.skip = policy == SKIP
        self.found: list[BadSample] = []

    def add(self, bad: BadSample, hint: str = MEND_OR_SKIP) -> None:
        """Add a bad sample.

        Raises:
            DataError: the policy is to stop.
        """
        if not self.skip:
            raise DataError(bad.sentence(), hint)
        self.found.append(bad)

    def left_out(self) -> str:
        """How many were left out, and the first of them, as a sentence; there is one at least."""
        lost = counted(len(self.found), "bad sample was", "bad samples were")
        return f"{lost} left out; the first: {self.found[0].sentence()}"

    def none_left(self, data: Path) -> DataError:
        """The error where no sample is left, with the first reason; the whole list is in ``found``."""
        first = f": the first of {len(self.found)}: {self.found[0].sentence()}" if self.found else "."
        return DataError(f"{data} holds no sample that can be used{first}", "Correct the data.")


def label_name(value: object) -> str | None:
    """The class name of a label cell, in the form of ``class_form``; None where it is missing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:  # NaN stands for a missing label
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if value is None:
        return None
    name = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return class_form(name) or None  # a name of spaces alone would be invisible


def check_features(row: np.ndarray, width: int) -> np.ndarray | UnusableContent:
    """The (d,) float64 row as float32; or why it cannot be used: another width, NaN, or too large for float32."""
    if len(row) != width:
        return UnusableContent(f"it has {len(row)} features where most samples have {width}")
    with np.errstate(over="ignore"):
        narrow = row.astype(np.float32)
    finite = np.isfinite(narrow)
    if not finite.all():
        worst = int(np.argmin(finite))
        return UnusableContent(f"feature {worst + 1} is {row[worst]}, not a finite float32")
    return narrow
