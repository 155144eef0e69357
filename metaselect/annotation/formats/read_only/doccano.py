"""doccano: the export of an image or text classification project as JSON lines, JSON or CSV.

A record has the name of its image, or its text, the columns that were uploaded beside it, and its labels as a list;
CSV joins several with #. A project in which everybody labels alone exports one file for each annotator.
"""

from collections.abc import Mapping
from typing import Any

from metaselect.annotation.formats.base import Answer, plain_spellings
from metaselect.annotation.formats.csv import read_header, read_records
from metaselect.annotation.formats.json_text import json_records
from metaselect.errors import DataError

SHOWN = frozenset(("filename", "text", "data"))
LABELS = ("label", "labels")  # the latter in releases before 1.2
OTHER_KINDS = ("bbox", "segmentation", "entities", "relations", "cats")
NOT_DOCCANO = frozenset(("annotation_id", "clean_label", "file_name"))
TELLING = frozenset(
    ("comments", "sample_id")
)  # columns of CSV; without one it could be the table of given labels
REMEDY = "Export an image classification or text classification project, as JSONL, JSON or CSV."


class DoccanoFormat:
    """Records with ``label``, found by ``sample_id`` where it was uploaded too, else by the image's name."""

    spellings = staticmethod(plain_spellings)

    def read(self, content: bytes, name: str) -> list[Answer]:
        """One answer per label; a blank one for a record without labels.

        Raises:
            DataError: not an export, one of another kind of project, or one that does not name its samples.
        """
        if _table_columns(content):
            found = [{**each, "label": [each["label"]]} for each in read_records(content, name)]
        else:
            found = json_records(content) or []
        if not found or not all(map(is_record, found)):
            raise DataError(f"{name} is not an export of doccano.", REMEDY)
        return [each for row, record in enumerate(found, start=1) for each in _answers(record, row, name)]

    def recognises(self, content: bytes) -> bool:
        """By the keys of its records, or the columns of its CSV."""
        if not _table_columns(content).isdisjoint(TELLING):
            return True
        found = (json_records(content) if b'"id"' in content else None) or []
        return bool(found) and all(map(is_record, found))


def is_record(record: Mapping[str, Any]) -> bool:
    """Whether an object of JSON is one of doccano's."""
    keys = record.keys()
    labelled = any(isinstance(record.get(key), list) for key in (*LABELS, *OTHER_KINDS))
    return labelled and "id" in keys and not keys.isdisjoint(SHOWN) and keys.isdisjoint(NOT_DOCCANO)


def _table_columns(content: bytes) -> frozenset[str]:
    """The columns of a CSV export; none of another file."""
    header = frozenset(read_header(content))
    is_export = header >= {"id", "label"} and not header.isdisjoint(SHOWN) and header.isdisjoint(NOT_DOCCANO)
    return header if is_export else frozenset()


def _answers(record: Mapping[str, Any], row: int, name: str) -> list[Answer]:
    other = [key for key in OTHER_KINDS if record.get(key)]
    labels: list[Any] = next((record[key] for key in LABELS if isinstance(record.get(key), list)), [])
    if other or not all(isinstance(each, str) for each in labels):
        what = ", ".join(other) or f"the label {labels!r:.100}"
        raise DataError(f"{name}:{row} holds {what}, not a list of class names.", REMEDY)
    meta = record.get("meta")  # before release 1.2
    cells = {**(meta if isinstance(meta, dict) else {}), **record}
    sample_id, batch_id, image = (str(cells.get(key) or "") for key in ("sample_id", "batch_id", "filename"))
    if not sample_id and not image:
        raise DataError(
            f"{name}:{row} names neither a sample_id nor an image.",
            "Upload the ids to doccano beside the texts.",
        )
    comments = cells.get("Comments", cells.get("comments"))
    note = " ".join(map(str, comments)) if isinstance(comments, list) else str(comments or "")
    return [Answer(row, sample_id, label, "", "", note, batch_id, image) for label in labels or [""]]
