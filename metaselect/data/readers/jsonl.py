"""The reader of manifests of JSON lines: one object a line, whose keys are columns."""

import json
from collections.abc import Iterator
from typing import Any

from metaselect.data.readers.base import label_name
from metaselect.data.readers.csv import CsvSource
from metaselect.errors import DataError


class JsonLinesSource(CsvSource):
    """A manifest of JSON lines, as a ``Source``; a key that a line lacks is an empty cell."""

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """The keys of all objects in the order of their first use, and the values as text."""
        header: dict[str, None] = {}
        for _, row in self._objects():
            header |= dict.fromkeys(row)
        if header:
            yield 1, list(header)
        for line, row in self._objects():
            yield line, [self._cell(line, name, row.get(name)) for name in header]

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self.path.open(encoding="utf-8-sig") as stream:
            try:
                for line, text in enumerate(stream, 1):
                    if text.strip():
                        row = json.loads(text)
                        if not isinstance(row, dict):
                            raise ValueError(f"line {line} is no object")
                        yield line, row
            except (ValueError, RecursionError) as error:  # of json, and UnicodeDecodeError
                raise DataError(
                    f"{self.path} is not a file of JSON lines: {error}.", "Write one object a line, in UTF-8."
                ) from None

    def _cell(self, line: int, name: str, value: object) -> str:
        if isinstance(value, dict | list):
            if hasattr(self, "_columns") and name in self._columns.single:
                kind = "a list" if isinstance(value, list) else "an object"
                raise DataError(
                    f"{self.path}, row {line}: {name} is {kind}, not one name or number.", "Correct it."
                )
            return json.dumps(value)
        return value if isinstance(value, str) else label_name(value) or ""
