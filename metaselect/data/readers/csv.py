"""The reader of CSV manifests: image paths, features in numeric columns, or ids and labels alone."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from metaselect.data.readers.base import (
    Content,
    SampleEntry,
    UnusableContent,
    check_features,
    label_name,
    paired,
)
from metaselect.data.readers.columns import FEATURE_LIST, choose_columns
from metaselect.data.readers.paths import ImageFiles
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.run.files import read_delimiter
from metaselect.run.layout import IMAGES
from metaselect.text import quoted, short


class CsvSource:
    """A CSV manifest, as a ``Source``. Rows are numbered by the line in a text editor."""

    declared: tuple[str, ...] = ()

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.path = path
        self._images = ImageFiles.named_by(path.parent, options)
        self.root = self._images.root
        self._header = self._read_header()
        self._columns = choose_columns(str(path), self._header, options)
        self.brings_ids = self._columns.sample_id is not None
        self.remarks = self._columns.remarks(str(path), self._header)
        if self._columns.features == (FEATURE_LIST,) and options.feature_columns is None:
            if self._columns.image is not None:
                self._columns = self._columns.of(IMAGES)
                self.remarks = (
                    f"{path}: {FEATURE_LIST} is left out; beside images, a table has features in numeric columns "
                    "(--feature-columns 'x*') or in a file of their own (--features FILE).",
                )
                return
            raise DataError(
                f"{path}: a CSV has no list columns, so {FEATURE_LIST} cannot be read.",
                "Write one number a column and name the columns: --feature-columns 'x*'; or use Parquet.",
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """By the columns."""
        return self._columns.kinds

    def take(self, kind: str) -> None:
        """Read the columns of one kind alone."""
        self._columns = self._columns.of(kind)

    def where(self, position: int, row: int, path: str) -> str:
        """The path of the manifest."""
        return str(self.path)

    def entries(self) -> Iterator[SampleEntry]:
        """Every data row."""
        names = self._columns
        at = {name: place for place, name in enumerate(self._header)}
        for line, cells in self._rows():
            if len(cells) != len(self._header):
                problem = f"it has {len(cells)} cells, the header has {len(self._header)}"
                yield SampleEntry(line, None, None, "", problem)
                continue
            sample_id = cells[at[names.sample_id]] or None if names.sample_id is not None else None
            path = cells[at[names.image]] if names.image is not None else ""
            label = label_name(cells[at[names.label]])
            problem = "it names no image" if names.image is not None and not path else ""
            yield SampleEntry(line, sample_id, label, self._images.clean(path), problem)

    def contents(self, keep: np.ndarray, start: int = 0) -> Iterator[tuple[int, Content]]:
        """The bytes of the files, or the numbers of the feature columns, of which there may be none."""
        at = {name: place for place, name in enumerate(self._header)}
        chosen = [at[name] for name in self._columns.features]
        for position, (_, cells) in enumerate(self._rows()):
            if position < start or not keep[position]:
                continue
            if self._columns.image is None:
                yield position, self._numbers([cells[place] for place in chosen])
                continue
            image = self._images.read(self._images.clean(cells[at[self._columns.image]]))
            yield (
                position,
                paired(image, self._numbers([cells[place] for place in chosen])) if chosen else image,
            )

    def _numbers(self, cells: Sequence[str]) -> np.ndarray | UnusableContent:
        try:
            row = np.array(cells, dtype=np.float64)
        except ValueError:
            return self._not_a_number(cells)
        return check_features(row, len(cells))

    def _not_a_number(self, cells: Sequence[str]) -> UnusableContent:
        for name, cell in zip(self._columns.features, cells, strict=True):
            try:
                float(cell)
            except ValueError:
                return UnusableContent(f"{quoted(cell)} in column {short(name)} is not a number")
        return UnusableContent("a feature is not a number")

    def width(self) -> int:
        """Feature columns."""
        return len(self._columns.features)

    def files(self) -> Iterator[tuple[str, Path]]:
        """The manifest and every image that it names and that may be read."""
        yield "", self.path
        if self._columns.image is not None:
            yield from self._images.allowed(entry.path for entry in self.entries())

    @classmethod
    def header(cls, path: Path) -> list[str]:
        """The names of the columns of a file.

        Raises:
            DataError: it is empty or no such file.
        """
        source = cls.__new__(cls)
        source.path = path
        return source._read_header()

    def _read_header(self) -> list[str]:
        for _, cells in self._lines():
            return [cell.strip() for cell in cells]
        raise self._empty()

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line where the row starts, cells) of every row with a cell that is not blank."""
        for number, (line, cells) in enumerate(self._lines()):
            if number and any(map(str.strip, cells)):
                yield line, cells

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """The same with the header, and with blank rows."""
        with self.path.open(
            encoding="utf-8-sig", newline=""
        ) as stream:  # spreadsheets write a byte order mark
            try:
                delimiter, line = read_delimiter(stream)
                reader, before = csv.reader(stream, delimiter=delimiter, strict=True), line - 1
                for cells in reader:
                    yield line, cells
                    line = before + reader.line_num + 1  # a quoted cell may span lines
            except (csv.Error, UnicodeDecodeError) as error:
                raise self._unreadable(error) from None

    def _empty(self) -> DataError:
        return DataError(f"{self.path} is empty.", "The first line must name the columns.")

    def _unreadable(self, error: Exception) -> DataError:
        reason = ", but in another encoding" if isinstance(error, UnicodeDecodeError) else f": {error}"
        return DataError(f"{self.path} is not a CSV file in UTF-8{reason}.", "Save it as CSV UTF-8.")
