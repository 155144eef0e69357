"""The reader of manifests of JSON lines: one object a line, whose keys are columns."""

import json
from collections.abc import Iterator
from typing import Any

from metaselect.data.readers.base import label_name
from metaselect.data.readers.csv import CsvSource
from metaselect.errors import DataError


class JsonLinesSource(CsvSource):
    """A manifest of JSON lines, as a ``Source``; a key that a line lacks is an empty cell."""

    def _read_header(self) -> list[str]:
        """The keys of all objects, in the order of their first use."""
        header: dict[str, None] = {}
        for _, row in self._objects():
            header |= dict.fromkeys(row)
        if not header:
            raise self._empty()
        return list(header)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line, values as text) of every object."""
        for line, row in self._objects():
            yield line, [self._cell(line, name, row.get(name)) for name in self._header]

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
                reason = "it is not in UTF-8" if isinstance(error, UnicodeDecodeError) else error
                raise DataError(
                    f"{self.path} is not a file of JSON lines: {reason}.",
                    "Write one object a line, in UTF-8.",
                ) from None

    def _cell(self, line: int, name: str, value: object) -> str:
        if isinstance(value, dict | list):
            if name in self._columns.single:
                kind = "a list" if isinstance(value, list) else "an object"
                raise DataError(
                    f"{self.path}, row {line}: {name} is {kind}, not one name or number.", "Correct it."
                )
            return json.dumps(value)
        text = value if isinstance(value, str) else label_name(value) or ""
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON's escapes can name half a character
            raise DataError(
                f"{self.path}, row {line}: {name} is {text!a}, which is no text.", "Correct it."
            ) from None
        return text
