"""What the rows of the table of artefacts are made of: folders, files and columns."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

PLACEHOLDER = re.compile(r"<(\w+)>")


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: its header.
        type: Arrow's word, "list of ..." for rows of numbers; empty in a CSV.
        optional: files that an earlier version of the program wrote lack it; it is null when they are read.
    """

    name: str
    type: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Folder:
    """The folder of one kind of stage, or of forms.

    Attributes:
        template: below the run; ``<...>`` stands for a name or number where there can be several.
        command: the words after ``metaselect`` that fill it, as messages give them.
    """

    template: str
    command: str

    @property
    def kind(self) -> str:
        """The first part: "select" of "select/round-<number>"."""
        return self.template.split("/")[0]

    @property
    def several(self) -> bool:
        """Whether a run can hold several of them side by side."""
        return "/" in self.template

    def name(self, **parts: str | int) -> str:
        """The folder below the run, which is the stage's name: ``SELECT.name(number=1)`` is "select/round-1"."""
        return _filled(self.template, parts)


@dataclass(frozen=True)
class Artefact:
    """One kind of file in a run directory.

    Attributes:
        folder: of the stage that it belongs to; None for files at the top of the run.
        file: its path within the folder; ``<...>`` stands for a name or number.
        schema: the columns of a table, in their order; empty for other files.
        note: what it holds, for people; of a table, what the columns do not say.
        writer: the command that makes it.
        readers: the kinds of stage whose result depends on it.
    """

    folder: Folder | None
    file: str
    schema: tuple[Column, ...]
    note: str
    writer: str
    readers: tuple[str, ...] = ()

    @property
    def template(self) -> str:
        """The path below the run, with ``<...>`` for names and numbers."""
        return self.file if self.folder is None else f"{self.folder.template}/{self.file}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in their order; ``predicted_<model>`` stands for one or more."""
        return tuple(column.name for column in self.schema)

    @property
    def content(self) -> str:
        """Columns and note, as the documentation gives them."""
        return "; ".join(part for part in (", ".join(self.columns), self.note) if part)

    def path(self, **parts: str | int) -> str:
        """The path below the run: ``WEIGHTS.path(name="direct")`` is "reweight/direct/weights.parquet"."""
        return _filled(self.template, parts)

    def within(self, **parts: str | int) -> str:
        """The path below its stage's folder: "weights.parquet"."""
        return _filled(self.file, parts)


def _filled(template: str, parts: Mapping[str, str | int]) -> str:
    """The template with its placeholders replaced; epochs have four digits, so that they sort by name."""

    def spelt(match: re.Match[str]) -> str:
        value = parts[match[1]]
        return f"{value:04d}" if match[1] == "epoch" and isinstance(value, int) else str(value)

    return PLACEHOLDER.sub(spelt, template)


def csv_columns(*names: str) -> tuple[Column, ...]:
    """Columns of a CSV table, which all are text."""
    return tuple(Column(name) for name in names)


def parquet_columns(columns: Mapping[str, str], *optional: str) -> tuple[Column, ...]:
    """Columns of a Parquet table, from name to type, and the names of those that are optional."""
    return tuple(Column(name, kind, name in optional) for name, kind in columns.items())
