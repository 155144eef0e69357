"""Parquet files in batches of a few rows, and the types and cells of their columns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaselect.errors import DataError
from metaselect.memory import block_size

READ_ROWS = 256  # rows held at a time: images of 100 kB make 25 MB
READ_BUFFER = 1 << 20  # bytes; without it a whole column of a row group is loaded at once


def read_batches(file: Path, names: Sequence[str], groups: list[int] | None = None) -> Iterator[Any]:
    """Record batches of some columns, so that never more than a few rows are held.

    Raises:
        DataError: the file is no Parquet file or is damaged.
    """
    with readable(file), pq.ParquetFile(file, buffer_size=READ_BUFFER) as parquet:
        rows = block_size(_row_bytes(parquet.metadata), READ_ROWS)
        yield from parquet.iter_batches(rows, row_groups=groups, columns=list(names), use_threads=False)


def _row_bytes(metadata: Any) -> float:
    """Bytes of a row, on average, by the file's own statistics."""
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    size: int = sum(group.total_byte_size for group in groups)
    rows: int = metadata.num_rows
    return size / max(rows, 1)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """A context in which pyarrow's errors become one sentence about the file.

    Raises:
        DataError: the file is no Parquet file or is damaged.
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: of a column's name
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{file} is not a readable Parquet file: {reason}.", "Write or copy it anew."
        ) from None


def read_schema(file: Path) -> Any:
    """The schema of a Parquet file.

    Raises:
        DataError: the file is no Parquet file or is damaged, or the name of a column is no text.
    """
    with readable(file):
        schema = pq.read_schema(file)
        schema.names  # noqa: B018  # decodes them
        return schema


def read_group_rows(file: Path) -> list[int]:
    """The numbers of rows of a Parquet file's row groups.

    Raises:
        DataError: the file is damaged.
    """
    with readable(file):
        metadata = pq.read_metadata(file)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def texts(column: Any) -> list[object]:
    """The cells of a column; bytes are text, and stay bytes where they are none in UTF-8."""
    try:
        cells = column.to_pylist()
    except UnicodeDecodeError:  # Parquet does not check what it calls text
        cells = column.cast(pa.binary()).to_pylist()
    return [_decoded(cell) if isinstance(cell, bytes) else cell for cell in cells]


def _decoded(cell: bytes) -> object:
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell


def id_text(cell: object) -> str | None:
    """The id in a cell as text, numbers too; None where the cell is empty."""
    return None if cell is None or cell == "" else str(cell)


def numbers(values: Any) -> np.ndarray:
    """(n,) float64, null as NaN."""
    # Not safe: integers above 2^53 are rounded, as any number is to float32 afterwards.
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def is_binary(kind: Any) -> bool:
    """Whether an Arrow type is one of bytes."""
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of strings, in a dictionary or not."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_number(kind: Any) -> bool:
    """Whether an Arrow type is one of integers or floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is a list of any kind."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
