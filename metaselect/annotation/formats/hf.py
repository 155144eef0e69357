"""Hugging Face's imagefolder: images, a ``metadata.csv`` with one row each, and ``classes.json``.

``datasets`` (release 5.2.0) drops images without a row, and sorts the classes, both silently. So every image has its
row, and ``classes.json`` has the order of the classes.
"""

import json
from collections.abc import Mapping
from typing import Any

from metaselect.annotation.formats.base import FILLED_IN, GIVEN, Answer, Form, has_answers
from metaselect.annotation.formats.csv import (
    ANSWER_COLUMNS,
    OWN_COLUMNS,
    csv_spellings,
    not_understood,
    read_header,
    read_table,
)
from metaselect.annotation.formats.json_text import parse_json
from metaselect.errors import DataError
from metaselect.run.files import format_csv
from metaselect.text import escape_formula, spreadsheet_cell

COLUMNS = ("file_name", "sample_id", "batch_id", "content_hash")


class HfFormat:
    """``metadata.csv`` of an imagefolder, as `annotate export` writes it; ``metadata.jsonl`` is read too."""

    file_name = "hf/train/metadata.csv"
    capabilities = frozenset((GIVEN, FILLED_IN))
    instructions = "Fill in clean_label with a class ({classes})"

    spellings = staticmethod(csv_spellings)

    def write(self, form: Form) -> Mapping[str, str]:
        """The table and the classes; cells that a spreadsheet would take for a formula get an apostrophe."""
        given = ("given_label",) if form.show_given else ()
        rows = (
            (
                escape_formula(item.image),
                escape_formula(item.sample_id),
                form.batch_id,
                item.content_hash,
                *((spreadsheet_cell(item.given_label),) if form.show_given else ()),
                *(item.rank, item.cluster, item.cluster_size),
                *("", "", "", ""),
            )
            for item in form.items
        )
        header = (*COLUMNS, *given, "rank", "cluster", "cluster_size", *ANSWER_COLUMNS)
        classes = json.dumps(list(form.classes), indent=2, ensure_ascii=False) + "\n"
        return {"metadata.csv": format_csv(header, rows), "classes.json": classes}

    def read(self, content: bytes, name: str) -> list[Answer]:
        """The answers in the table.

        Raises:
            DataError: as the CSV form, or a line of ``metadata.jsonl`` is not a JSON object.
        """
        if _is_jsonl(content):
            return _jsonl_answers(content, name)
        return read_table(content, name, image="file_name")

    def recognises(self, content: bytes) -> bool:
        """By its column ``file_name``, which imagefolder requires."""
        if _is_jsonl(content):
            return b'"file_name"' in content.split(b"\n", 1)[0]
        return "file_name" in read_header(content)


def _is_jsonl(content: bytes) -> bool:
    return content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def _jsonl_answers(content: bytes, name: str) -> list[Answer]:
    answers = []
    filled = set()
    for row, line in enumerate(content.splitlines(), 1):
        if line.strip():
            record = _record(row, line, name)
            filled |= {
                key for key, cell in record.items() if key not in OWN_COLUMNS and cell not in (None, "")
            }
            answers.append(_answer(row, record))
    if filled - {"file_name"} and not has_answers(answers):
        raise not_understood(name, filled - {"file_name"})
    return answers


def _record(row: int, line: bytes, name: str) -> dict[str, Any]:
    found = parse_json(line)
    if not isinstance(found, dict):
        raise DataError(f"{name}:{row} is no JSON object.", "metadata.jsonl has one object a line.")
    return found


def _answer(row: int, record: Mapping[str, Any]) -> Answer:
    cells = (
        record.get(column)
        for column in ("sample_id", *ANSWER_COLUMNS, "batch_id", "file_name", "content_hash")
    )
    texts = ["" if cell is None else str(cell) for cell in cells]
    sample_id, label, annotator, status, note, batch_id, image, content_hash = texts
    return Answer(row, sample_id, label, annotator, status, note, batch_id, image, content_hash)
