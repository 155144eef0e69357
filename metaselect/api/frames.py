"""Tables of a run as pandas DataFrames: ids and labels stay text, and a missing one is NA."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from metaselect.records import Json

ID = "sample_id"
EXTENSION_TYPES = {pa.string(): "string", pa.int64(): "Int64", pa.int32(): "Int32", pa.bool_(): "boolean"}
"""Arrow types that pandas would turn into numbers or objects where a cell is missing."""


def frame_of_table(table: pa.Table) -> pd.DataFrame:
    """A Parquet table, by sample_id."""

    def kind(type_: pa.DataType) -> Any:
        name = EXTENSION_TYPES.get(type_)
        return name and pd.api.types.pandas_dtype(name)

    return table.to_pandas(types_mapper=kind).set_index(ID)


def frame_of_cells(rows: Iterable[Sequence[object]], kinds: Mapping[str, str]) -> pd.DataFrame:
    """A CSV table, by sample_id; an empty cell is missing.

    Args:
        rows: each with a cell, text or a number, for every column.
        kinds: of the columns in their order: "string", "Int64", "float64" or "boolean".
    """
    columns = [*zip(*rows, strict=True)] or [()] * len(kinds)
    return pd.DataFrame(
        {name: _column(cells, kind) for (name, kind), cells in zip(kinds.items(), columns, strict=True)}
    ).set_index(ID)


def frame_of_scores(scores: Mapping[str, Mapping[str, Json]], index: str) -> pd.DataFrame:
    """One row for each name; a value within a group has the column "group.value", and lists are left out."""
    grouped = {
        name for row in scores.values() for name, value in row.items() if isinstance(value, dict | list)
    }
    rows = [{index: name, **dict(_flat(row, grouped))} for name, row in scores.items()]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pd.DataFrame(
        {name: pd.array(cells, dtype=_kind_of(cells)) for name, cells in columns.items()}
    ).set_index(index)


def _column(cells: Sequence[object], kind: str) -> Any:
    if kind == "boolean":
        return pd.array([cell == "1" for cell in cells], dtype=kind)
    convert: Any = {"string": str, "Int64": int, "float64": float}[kind]
    return pd.array([None if cell == "" else convert(cell) for cell in cells], dtype=kind)


def _kind_of(cells: Sequence[Json]) -> str:
    """The type of a column that has a place for what is missing."""
    kinds = {type(cell) for cell in cells} - {type(None)}
    names = {bool: "boolean", int: "Int64", str: "string"}
    return names.get(kinds.pop(), "Float64") if len(kinds) == 1 else "Float64"


def _flat(row: Mapping[str, Json], grouped: Collection[str]) -> Iterator[tuple[str, Json]]:
    """The single values of a row; of the names ``grouped``, where they are None, there is nothing to say."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", cell) for inner, cell in _flat(value, ()))
        elif not isinstance(value, list) and name not in grouped:
            yield name, value
