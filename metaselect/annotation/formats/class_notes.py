"""Notes about classes, with pictures of examples, which people read while they label."""

from collections.abc import Sequence
from pathlib import Path

from metaselect.annotation.formats.base import ClassNote
from metaselect.annotation.formats.csv import csv_spellings
from metaselect.data.classes import suggest
from metaselect.data.images import decode
from metaselect.data.readers.base import UnusableContent
from metaselect.data.readers.paths import ImageFiles
from metaselect.data.thumbnails import encode_small
from metaselect.errors import DataError
from metaselect.run.files import read_csv
from metaselect.text import quoted, short

NEEDED, OPTIONAL = ("class", "note"), ("image",)
COLUMNS = "The columns are class, note and, if there are pictures, image."


def read_class_notes(path: Path, classes: Sequence[str]) -> tuple[ClassNote, ...]:
    """The notes of a CSV file with the columns class, note and image, in the order of the classes, then of the rows.

    A class may have several rows or none. ``image`` is a path relative to the file, whose folder it may not leave; the
    picture is encoded again, so that it is small and none of its metadata is passed on.

    Raises:
        DataError: other columns, no such class, a row with neither note nor image, or an image that cannot be used.
    """
    header, rows = read_csv(path)
    missing = [column for column in NEEDED if column not in header]
    unknown = [column for column in header if column not in (*NEEDED, *OPTIONAL)]
    if missing or unknown or len(set(header)) != len(header):
        raise DataError(f"{path} has the columns {short(', '.join(header))}.", COLUMNS)
    places = {name: label for label, name in enumerate(classes)}
    files = ImageFiles(path.parent, outside_hint="copy the picture into it")
    notes = []
    for number, row in enumerate(rows, start=2):
        label = next((places[each] for each in csv_spellings(row["class"]) if each in places), None)
        if label is None:
            raise DataError(
                f"{path}:{number}: {quoted(row['class'])} is not a class: {suggest(row['class'].strip(), classes)}",
                "Correct the name, or delete the row.",
            )
        note = next(csv_spellings(row["note"].strip()))
        name = row.get("image", "").strip()
        if not note and not name:
            raise DataError(
                f"{path}:{number} says nothing about {quoted(classes[label])}.",
                "Fill in note or image, or delete the row.",
            )
        picture = _picture(files, name, f"{path}:{number}") if name else None
        notes.append(ClassNote(label, note, picture))
    return tuple(sorted(notes, key=lambda each: each.label))


def _picture(files: ImageFiles, name: str, place: str) -> tuple[str, bytes]:
    """Media type and bytes of a picture, made small."""
    raw = files.read(files.clean(name))
    image = raw if isinstance(raw, UnusableContent) else decode(raw)
    if isinstance(image, UnusableContent):
        raise DataError(
            f"{place}: the image {quoted(name)} cannot be used: {image.reason}.",
            "Name another picture, relative to the file, or leave the cell empty.",
        )
    return encode_small(image)
