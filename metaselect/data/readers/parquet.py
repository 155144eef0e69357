"""The reader of a Parquet file or a folder of shards: image bytes or paths, features, or ids and labels alone."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaselect.data.classes import FILLERS, declared_classes, suggest
from metaselect.data.readers.base import (
    Content,
    SampleEntry,
    UnusableContent,
    check_features,
    label_name,
    paired,
)
from metaselect.data.readers.columnar import (
    id_text,
    is_binary,
    is_list,
    is_number,
    is_text,
    numbers,
    read_batches,
    read_group_rows,
    read_schema,
    readable,
    texts,
)
from metaselect.data.readers.columns import FEATURE_LIST, choose_columns
from metaselect.data.readers.paths import ImageFiles
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.run.layout import IMAGES
from metaselect.text import quoted


class ParquetSource:
    """Parquet files with one schema, as a ``Source``. Rows are numbered from 1 in each file."""

    def __init__(self, files: Sequence[Path], root: Path, options: ReadOptions) -> None:
        self._outside = ImageFiles.named_by(root, options)
        self.root = self._outside.root
        self._files = list(files)
        first = self._schema(self._files[0])
        self._columns = choose_columns(str(self._files[0]), first.names, options)
        self.brings_ids = self._columns.sample_id is not None
        self.remarks = self._columns.remarks(str(self._files[0]), first.names)
        if self._columns.image and options.feature_columns is None and self._columns.features:
            kind = first.field(FEATURE_LIST).type
            if not is_number(kind.value_type if is_list(kind) else kind):
                self._columns = self._columns.of(IMAGES)
                self.remarks = (
                    f"{self._files[0]}: {FEATURE_LIST} is left out, since it is {kind}, not numbers.",
                )
        self.declared = declared_classes(first.metadata, self._columns.label)
        self._names = frozenset(self.declared)
        self._types = {name: first.field(name).type for name in self._used()}
        self._check_types()
        for file in self._files:
            self._check_shard(file)
        self._group_rows = [read_group_rows(file) for file in self._files]
        self._starts = np.cumsum([0, *map(sum, self._group_rows)])
        self._width: int | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """By the columns."""
        return self._columns.kinds

    def take(self, kind: str) -> None:
        """Read the columns of one kind alone."""
        self._columns = self._columns.of(kind)

    def where(self, position: int, row: int, path: str) -> str:
        """The file that holds the row."""
        return str(self._files[int(np.searchsorted(self._starts, position, side="right")) - 1])

    def entries(self) -> Iterator[SampleEntry]:
        """Every row of every file, files in the order of their names."""
        names = self._columns
        path_column = self._path_column()
        wanted = [names.label, *([names.sample_id] if names.sample_id else []), *path_column]
        for file in self._files:
            rows = itertools.count(1)
            for batch in read_batches(file, wanted):
                labels = texts(batch.column(names.label))
                ids = texts(batch.column(names.sample_id)) if names.sample_id else [None] * len(labels)
                paths = self._paths(batch) if path_column else [None] * len(labels)
                for row, sample_id, label, path in zip(rows, ids, labels, paths, strict=False):
                    yield self._entry(row, sample_id, label, path)

    def _entry(self, row: int, sample_id: object, label: object, path: object) -> SampleEntry:
        for what, cell in (("id", sample_id), ("label", label), ("image path", path)):
            if isinstance(cell, bytes):
                return SampleEntry(row, None, None, "", f"its {what} is not text in UTF-8")
        name, problem = label_name(label), ""
        if self.declared and isinstance(label, int):
            inside = 0 <= label < len(self.declared)
            name = self.declared[label] if inside else None
            if not inside and str(label) not in FILLERS:
                problem = f"the label {label} is outside 0..{len(self.declared) - 1}"
        elif self.declared and name is not None and name not in self._names:
            problem = f"the label {quoted(name)} is not among the classes: {suggest(name, self.declared)}"
        return SampleEntry(row, id_text(sample_id), name, self._outside.clean(str(path or "")), problem)

    def contents(self, keep: np.ndarray, start: int = 0) -> Iterator[tuple[int, Content]]:
        """Row group by row group, a few rows at a time."""
        self.width()  # before a row is read, which pyarrow cannot do where a list's fixed size is 0
        wanted = keep.copy()
        wanted[:start] = False
        if not self.kinds:
            yield from ((position, np.empty(0, np.float32)) for position in np.flatnonzero(wanted).tolist())
            return
        for file, base, counts in zip(self._files, self._starts, self._group_rows, strict=False):
            position = int(base)
            for group, count in enumerate(counts):
                if wanted[position : position + count].any():
                    yield from self._group(file, group, position, wanted)
                position += count

    def _group(
        self, file: Path, group: int, position: int, wanted: np.ndarray
    ) -> Iterator[tuple[int, Content]]:
        image, features = self._columns.image, self._columns.features
        for batch in read_batches(file, [*([image] if image else []), *features], [group]):
            kinds: list[Iterator[Content | str]] = [self._images(batch)] if image else []
            kinds += [self._rows(batch)] if features else []
            for cells in zip(*kinds, strict=True):
                if wanted[position]:
                    contents = (self._content(cell) for cell in cells)
                    yield position, paired(*contents) if image and features else next(contents)
                position += 1

    def _content(self, cell: Content | str) -> Content:
        """The cell, or the file that it names."""
        return self._outside.read(self._outside.clean(cell)) if isinstance(cell, str) else cell

    def _images(self, batch: Any) -> Iterator[bytes | str | UnusableContent]:
        """Image bytes, or the path where the bytes are null."""
        column = batch.column(self._columns.image)
        if is_binary(column.type):
            cells = column.to_pylist()
        else:
            cells = self._paths(batch)
            if pa.types.is_struct(column.type):
                cells = [
                    raw or path for raw, path in zip(column.field("bytes").to_pylist(), cells, strict=True)
                ]
        for cell in cells:
            yield cell if cell else UnusableContent("it has no image")

    def _rows(self, batch: Any) -> Iterator[np.ndarray | UnusableContent]:
        """Rows of features; null stands for NaN, which is refused later."""
        width = self.width()
        if self._is_list():
            for cell in batch.column(self._columns.features[0]):
                values = None if not cell.is_valid else cell.values
                if values is None:
                    way = " (--feature-columns none leaves the column out)" if self._columns.image else ""
                    yield UnusableContent(f"it has no features{way}")
                else:
                    yield check_features(numbers(values), width)
            return
        table = np.stack([numbers(batch.column(name)) for name in self._columns.features], axis=1)
        for row in table:
            yield check_features(row, width)

    def width(self) -> int:
        """Feature columns, or the commonest length of the list column (the larger one at a tie).

        Raises:
            DataError: the lists are empty.
        """
        if self._width is None:
            self._width = self._count_width() if self._columns.features else 0
            if self._columns.features and self._width == 0:
                raise DataError(
                    f"{self._files[0]}: column {self._columns.features[0]} holds no numbers in most rows.",
                    "Write at least one feature a sample, or name other columns with --feature-columns.",
                )
        return self._width

    def _count_width(self) -> int:
        if not self._is_list():
            return len(self._columns.features)
        kind = self._types[self._columns.features[0]]
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        lengths: Counter[int] = Counter()
        for file in self._files:
            for batch in read_batches(file, self._columns.features):
                lengths.update(pc.list_value_length(batch.column(0)).drop_null().to_pylist())
        return max(lengths, key=lambda length: (lengths[length], length), default=0)

    def files(self) -> Iterator[tuple[str, Path]]:
        """The Parquet files, and the images that lie outside of them."""
        for file in self._files:
            yield (file.name if len(self._files) > 1 else ""), file
        if self._columns.image and self._has_outside_images():
            yield from self._outside.allowed(entry.path for entry in self.entries())

    def _has_outside_images(self) -> bool:
        """Whether some image may be a path without bytes, by the files' own statistics."""
        kind = self._types[self._columns.image or ""]
        if not pa.types.is_struct(kind):
            return not is_binary(kind)
        for file in self._files:
            with readable(file):
                metadata = pq.read_metadata(file)
                for group, column in itertools.product(
                    range(metadata.num_row_groups), range(metadata.num_columns)
                ):
                    chunk = metadata.row_group(group).column(column)
                    known = chunk.statistics is not None and chunk.statistics.null_count == 0
                    if chunk.path_in_schema == f"{self._columns.image}.bytes" and not known:
                        return True
        return False

    def _used(self) -> list[str]:
        names = (self._columns.sample_id, self._columns.label, self._columns.image, *self._columns.features)
        return [name for name in names if name is not None]

    def _path_column(self) -> list[str]:
        """The column of image paths, so that listing the samples does not read the image bytes."""
        if self._columns.image is None:
            return []
        kind = self._types[self._columns.image]
        if pa.types.is_struct(kind):
            return [f"{self._columns.image}.path"] if kind.get_field_index("path") >= 0 else []
        return [] if is_binary(kind) else [self._columns.image]

    def _paths(self, batch: Any) -> list[object]:
        """The image paths; bytes where they are no text, None where there is none."""
        column = batch.column(self._columns.image)
        if not pa.types.is_struct(column.type):
            return texts(column)
        return (
            texts(column.field("path")) if column.type.get_field_index("path") >= 0 else [None] * len(column)
        )

    def _is_list(self) -> bool:
        return len(self._columns.features) == 1 and is_list(self._types[self._columns.features[0]])

    def _check_types(self) -> None:
        columns, file = self._columns, self._files[0]
        kind = self._types[columns.label]
        if pa.types.is_nested(kind) or pa.types.is_temporal(kind):
            raise DataError(
                f"{file}: column {columns.label} is {kind}; a label is one name or number.",
                "Name another column with --label-column.",
            )
        if columns.image is not None:
            kind = self._types[columns.image]
            known = is_binary(kind) or is_text(kind) or (
                pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            )  # fmt: skip
            if not known:
                raise DataError(
                    f"{file}: column {columns.image} is {kind}, not paths, bytes or a bytes and path struct.",
                    "Name another column with --image-column.",
                )
        for name in columns.features:
            kind = self._types[name]
            values = kind.value_type if is_list(kind) and len(columns.features) == 1 else kind
            if not is_number(values):
                raise DataError(
                    f"{file}: column {name} is {kind}, not numbers.",
                    "Choose numeric columns with --feature-columns.",
                )

    def _check_shard(self, file: Path) -> None:
        schema = self._schema(file)
        for name, kind in self._types.items():
            if name not in schema.names or schema.field(name).type != kind:
                actual = schema.field(name).type if name in schema.names else "missing"
                raise DataError(
                    f"{file}: column {name} is {actual}, in {self._files[0]} it is {kind}.",
                    "Write all shards with one schema.",
                )
        if declared_classes(schema.metadata, self._columns.label) != self.declared:
            raise DataError(
                f"{file} has other ClassLabel names than {self._files[0]}.",
                "Write all shards with one schema.",
            )

    def _schema(self, file: Path) -> Any:
        return read_schema(file)
