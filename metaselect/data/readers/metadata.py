"""Image folders with a table of labels beside the images, ``metadata.csv`` or ``metadata.jsonl``.

Source: the form "imagefolder" of Hugging Face's datasets: a column ``file_name`` with paths relative to the table.
Differs: where the table and the folders disagree about a label, nothing is read; images that the table does not name
are counted.
"""

from dataclasses import replace
from pathlib import Path

from metaselect.data.classes import class_form
from metaselect.data.readers.base import Source
from metaselect.data.readers.columns import FILE_NAME
from metaselect.data.readers.csv import CsvSource
from metaselect.data.readers.folder import SUFFIXES, FolderSource, class_folders
from metaselect.data.readers.jsonl import JsonLinesSource
from metaselect.data.readers.paths import require_inside
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.text import examples, quoted, short

MANIFESTS = {".csv": CsvSource, ".tsv": CsvSource, ".jsonl": JsonLinesSource}
"""Readers of tables by suffix."""
NAME = "metadata"


def image_folder(root: Path, options: ReadOptions) -> Source:
    """A folder of images, by its table if it has one, else by the names of its folders.

    Raises:
        DataError: no images, or a table that contradicts the folders.
    """
    if options.image_folder is not None or options.image_suffix:
        raise DataError(
            f"{root} is a folder of images.",
            "--image-folder and --image-suffix are for tables; leave them out.",
        )
    tables = [root / f"{NAME}{suffix}" for suffix in MANIFESTS if (root / f"{NAME}{suffix}").is_file()]
    if not tables:
        return FolderSource(root, options)
    if len(tables) > 1:
        raise DataError(f"{root} holds {' and '.join(table.name for table in tables)}.", "Keep one of them.")
    table = tables[0]
    require_inside(tables, root, options)
    header = MANIFESTS[table.suffix].header(table)
    if options.label_column not in header and len(class_folders(root)) > 1:
        folder = FolderSource(root, options)
        folder.remarks += (
            f"{table} has no column {options.label_column}, so the names of folders are the labels "
            f"(--label-column: {examples(header)}).",
        )
        return folder
    column = options.image_column if options.image_column in header else FILE_NAME
    source = MANIFESTS[table.suffix](table, replace(options, image_column=column))
    _check_folders(source, table, column)
    unnamed = _unnamed(source, root)
    if unnamed:
        source.remarks += (f"{root}: images that {table.name} does not name were left out: {unnamed}.",)
    return source


def _check_folders(source: CsvSource, table: Path, column: str) -> None:
    """Check that no image lies in the folder of another class than the table says.

    Raises:
        DataError: one does.
    """
    labels = {entry.label for entry in source.entries()}
    for entry in source.entries():
        folder = class_form(entry.path.split("/")[0]) if "/" in entry.path else entry.label
        if folder != entry.label and folder in labels:
            raise DataError(
                f"{table}, row {entry.row}: {short(entry.path)} has the label {quoted(entry.label or '')}, and its "
                f"folder is named like the class {quoted(folder or '')}.",
                f"To go by the table, name it: {table} --image-column {column}; to go by the folders, take it away.",
            )


def _unnamed(source: CsvSource, root: Path) -> int:
    """Images below the root that the table does not name."""
    named = {entry.path for entry in source.entries()}
    images = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sum(path.relative_to(root).as_posix() not in named for path in images)
