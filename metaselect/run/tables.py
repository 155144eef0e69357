"""Writing and reading the tables of a run; their columns are checked against the table of artefacts.

A writer with other columns is a bug and raises ValueError. A file with other columns was made by another version of
the program or by hand: ArtefactError names it, what is missing, and the command that makes it anew.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from metaselect.errors import ArtefactError
from metaselect.run.files import format_csv, write_atomically, write_text
from metaselect.run.layout import Run
from metaselect.run.schema import PLACEHOLDER, Artefact
from metaselect.run.stage_names import stage_of
from metaselect.text import short

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Row = TypeVar("Row")


class OtherColumnsError(Exception):
    """A file is not the table that the artefact describes; the message is the sentence for people."""


def format_rows(artefact: Artefact, rows: Iterable[Sequence[object]]) -> str:
    """The text of a CSV table.

    Raises:
        ValueError: a row with other columns.
    """
    return format_csv(artefact.columns, _checked(artefact, rows))


def write_rows(path: Path, artefact: Artefact, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV table atomically.

    Raises:
        ValueError: a row with other columns.
    """
    write_text(path, format_rows(artefact, rows))


def read_rows(path: Path, artefact: Artefact, make: Callable[..., Row], remedy: str) -> tuple[Row, ...]:
    """A CSV table: what ``make`` makes of the cells of each row; empty without a file.

    Raises:
        ArtefactError: other columns, or a row of which ``make`` raises ValueError; ``remedy`` becomes the hint.
    """
    try:
        return _parsed_rows(path, artefact, make)
    except OtherColumnsError as error:
        raise ArtefactError(str(error), remedy) from None


def read_stage_rows(
    run: Run, artefact: Artefact, make: Callable[..., Row], **parts: str | int
) -> tuple[Row, ...]:
    """As ``read_rows``, of a finished stage's table; the hint is the command that makes it anew."""
    path = artefact.path(**parts)
    try:
        return _parsed_rows(run.path(path), artefact, make)
    except OtherColumnsError as error:
        raise ArtefactError(str(error), run.stage(stage_of(path)).recompute_hint) from None


def read_records(run: Run, artefact: Artefact, **parts: str | int) -> tuple[dict[str, str], ...]:
    """As ``read_stage_rows``, each row by column."""

    def record(*cells: str) -> dict[str, str]:
        return dict(zip(artefact.columns, cells, strict=True))

    return read_stage_rows(run, artefact, record, **parts)


def write_parquet(
    path: Path,
    artefact: Artefact,
    columns: "Mapping[str, pa.Array]",
    metadata: Mapping[bytes, str] | None = None,
    row_group_size: int | None = None,
) -> None:
    """Write a Parquet table atomically.

    Args:
        path: of the file.
        artefact: whose columns these must be.
        columns: by name.
        metadata: of the file's schema.
        row_group_size: rows that are read together, where a reader wants few of them; None: pyarrow's.

    Raises:
        ValueError: other columns, or another type.
    """
    import pyarrow as pa  # here and strip_prefix: `status` of a small run and every --help do without it
    import pyarrow.parquet as pq

    table = pa.table(dict(columns))
    if difference := _difference(table.schema, artefact.schema, exact=True):
        raise ValueError(f"{artefact.template}: {difference}")
    if metadata is not None:
        table = table.replace_schema_metadata(metadata)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, row_group_size=row_group_size))


def read_parquet(
    run: Run,
    artefact: Artefact,
    columns: Sequence[str],
    *,
    where: tuple[str, str, Any] | None = None,
    **parts: str | int,
) -> "pa.Table":
    """Some columns of a Parquet table of a finished stage.

    Args:
        run: the run.
        artefact: which table.
        columns: names; columns that the file has beyond those of the artefact are ignored.
        where: (column, operator, value): rows for which it does not hold are left out while reading.
        parts: what stands for the placeholders of the artefact's path.

    Raises:
        ArtefactError: not a Parquet file, or a column is missing or of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = require_parquet(run, artefact, **parts)
    there = set(pq.read_schema(path).names)
    present = [name for name in columns if name in there]
    table = pq.read_table(path, columns=present, filters=None if where is None else [where])
    for name in columns:
        if name not in there:  # optional, or ``require_parquet`` had refused the file
            table = table.append_column(name, pa.nulls(len(table)))
    return table


def require_parquet(run: Run, artefact: Artefact, **parts: str | int) -> Path:
    """The place of a Parquet table whose columns are the artefact's.

    Raises:
        ArtefactError: not a Parquet file, or a column is missing or of another type.
    """
    relative = artefact.path(**parts)
    path = run.path(relative)
    if problem := _parquet_problem(path, artefact):
        raise ArtefactError(problem, run.stage(stage_of(relative)).recompute_hint)
    return path


def check_parquet(path: Path, artefact: Artefact, remedy: str) -> None:
    """Refuse a Parquet table that lacks a column of the artefact; further columns are ignored.

    Raises:
        ArtefactError: not a Parquet file, or a column is missing or of another type; ``remedy`` becomes the hint.
    """
    if problem := _parquet_problem(path, artefact):
        raise ArtefactError(problem, remedy)


def fixed_lists(values: "np.ndarray") -> "pa.FixedSizeListArray":
    """A list column with the rows of ``values`` (n, d)."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def rows_of_lists(column: "pa.ChunkedArray") -> "np.ndarray":
    """(n, d) the rows of a column that ``fixed_lists`` made."""
    import numpy as np

    width = column.type.list_size
    out = np.empty((len(column), width), column.type.value_type.to_pandas_dtype())
    at = 0
    for chunk in column.chunks:
        out[at : at + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        at += len(chunk)
    return out


def _parquet_problem(path: Path, artefact: Artefact) -> str:
    """What is wrong with a Parquet table, as a sentence; empty where nothing is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        return f"{path} cannot be read: {reason}."
    difference = _difference(schema, artefact.schema, exact=False)
    return difference and f"{path}: {difference}."


def _parsed_rows(path: Path, artefact: Artefact, make: Callable[..., Row]) -> tuple[Row, ...]:
    if not path.is_file():
        return ()
    try:
        text = io.StringIO(path.read_bytes().decode(), newline="")  # a cell may hold a line end
        header, *rows = csv.reader(text, strict=True)
        if tuple(header) != artefact.columns:
            raise OtherColumnsError(_other_columns(path, artefact.columns, header))
        if any(len(cells) != len(header) for cells in rows):
            raise ValueError("another number of cells")
        return tuple(make(*cells) for cells in rows)
    except (ValueError, csv.Error):
        raise OtherColumnsError(f"{path} is damaged: a row is not {', '.join(artefact.columns)}.") from None


def _checked(artefact: Artefact, rows: Iterable[Sequence[object]]) -> Iterator[Sequence[object]]:
    """The rows, each with as many cells as there are columns; the fields of named tuples must be the columns."""
    columns = artefact.columns
    for row in rows:
        if len(row) != len(columns) or getattr(row, "_fields", columns) != columns:
            raise ValueError(f"{artefact.template}: {row!r} is not {', '.join(columns)}")
        yield row


def _other_columns(path: Path, wanted: Sequence[str], names: Sequence[str]) -> str:
    missing = [name for name in wanted if name not in names]
    if missing:
        return f"{path} has no column {', '.join(missing)}; it has {short(', '.join(names)) or 'none'}."
    return f"{path} has the columns {', '.join(names)}; they must be {', '.join(wanted)}."


def _difference(schema: "pa.Schema", wanted: Sequence[Any], *, exact: bool) -> str:
    """What is wrong with a Parquet table's columns, as a part of a sentence; empty where nothing is."""
    types = {name: _type_of(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    for column in wanted:
        if PLACEHOLDER.search(column.name):  # predicted_<model>: one column or more
            prefix = PLACEHOLDER.split(column.name)[0]
            matching = [name for name in types if name.startswith(prefix)]
        else:
            matching = [column.name] if column.name in types else []
        if not matching:
            if column.optional and not exact:
                continue
            return f"it has no column {column.name}; it has {', '.join(types) or 'none'}"
        for name in matching:
            if types.pop(name) != column.type:  # what stays in ``types`` is not in the table
                kind = _type_of(schema.field(name).type)
                return f"its column {name} is {kind}, and must be {column.type}"
    return f"the column {', '.join(types)} is not one of the table's" if exact and types else ""


def _type_of(kind: "pa.DataType") -> str:
    """An Arrow type by the word that ``Column.type`` has for it."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return f"list of {_type_of(kind.value_type)}"
    names = {pa.float16(): "float16", pa.float32(): "float32"}  # which Arrow calls halffloat and float
    return names.get(kind, str(kind))
