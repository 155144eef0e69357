"""The exports of Label Studio: JSON of tasks, JSON_MIN, CSV, and their older forms.

In release 2.1.2 of its SDK: JSON_MIN and CSV leave out skipped tasks; a task that nobody opened is a row without
annotator and label; two choices are an object, in CSV as text; and a data key ``id`` is lost, so that the sample's key
is ``sample_id``. Older releases call annotations completions. One task may stand alone, and tasks may be JSON lines.
"""

import re
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from metaselect.annotation.formats.base import Answer, has_answers
from metaselect.annotation.formats.csv import read_header, read_records
from metaselect.annotation.formats.json_text import json_records, parse_json
from metaselect.annotation.formats.read_only import argilla, doccano
from metaselect.annotation.votes import SKIP
from metaselect.errors import DataError

LABEL = "clean_label"
STATUS = "status"
NOTE = "note"
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # prefix of the name of an uploaded file
REMEDY = "Export from Label Studio as JSON, JSON-MIN or CSV."
ANSWERED = "annotation_id"  # of a flat row that somebody saved
OF_FLAT_ROWS = frozenset(
    (
        *("image", "sample_id", "batch_id", "given_label", LABEL, STATUS, NOTE, "id", "annotator", ANSWERED),
        *("created_at", "updated_at", "lead_time", "prediction_score", "agreement"),
    )
)
"""Keys of flat rows that are no control's."""


class _Annotation(NamedTuple):
    """Labels, status and note of one annotation; several labels are a conflict."""

    labels: Sequence[str]
    status: str
    note: str


def is_export(content: bytes) -> bool:
    """Whether a file is one, by the columns of its CSV or as JSON of tasks."""
    return ANSWERED in read_header(content) or _tasks(content) is not None


def read_export(content: bytes, name: str) -> list[Answer]:
    """The answers, in the order of the file; a blank one for a task that nobody answered.

    Raises:
        DataError: not an export, or one in which people answered something else than this form asks.
    """
    others: set[str] = set()
    answers: list[Answer] = []
    if ANSWERED in read_header(content):
        for row, cells in enumerate(read_records(content, name), start=2):
            answers += _flat_answers(row, cells, others)
    else:
        tasks = _tasks(content)
        if tasks is None:
            raise DataError(f"{name} is not an export of Label Studio.", REMEDY)
        for row, task in enumerate(tasks, start=1):
            raw = isinstance(task.get("data"), dict)
            answers += _task_answers(row, task, others, name) if raw else _flat_answers(row, task, others)
    if others and not has_answers(answers):
        raise DataError(
            f"{name} holds answers to {', '.join(sorted(others)):.200}, and no choices named {LABEL}.",
            "Use the config.xml that annotate export wrote, or rename the control in the file.",
        )
    return answers


def _tasks(content: bytes) -> list[dict[str, Any]] | None:
    """The tasks of a file of JSON, raw or flat; None where it holds others."""
    found = json_records(content)
    for task in found or ():
        raw = isinstance(task.get("data"), dict)
        flat = not task.keys().isdisjoint(("image", "sample_id"))
        if not raw and (not flat or doccano.is_record(task) or argilla.is_record(task)):
            return None
    return found


def _task_answers(row: int, task: Mapping[str, Any], others: set[str], name: str) -> list[Answer]:
    """One answer per annotation and label of a raw task; a blank one where nobody answered."""
    by_annotator: dict[str, list[_Annotation]] = {}
    skipped: set[str] = set()
    for annotation in _current(task, row, name):
        annotator = _annotator(annotation.get("completed_by"))
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            skipped.add(annotator)
        else:
            by_annotator.setdefault(annotator, []).append(_parse_results(annotation.get("result"), others))
    for annotator in skipped - by_annotator.keys():  # an answer after a skip counts
        by_annotator[annotator] = [_Annotation((), SKIP, "")]
    reference = _task_reference(task["data"])
    found = [
        each
        for annotator, annotations in by_annotator.items()
        for annotation in annotations
        for each in _answers(row, reference, annotator, annotation)
    ]
    return found or _answers(row, reference, "", _Annotation((), "", ""))


def _current(task: Mapping[str, Any], row: int, name: str) -> list[dict[str, Any]]:
    """The annotations of a task, without those that the same person copied and changed.

    Raises:
        DataError: they are no list, or the export has only their number or their ids.
    """
    annotations = task.get("annotations", task.get("completions")) or []
    if not isinstance(annotations, list):
        raise DataError(f"{name}:{row}: the annotations are {annotations!r:.50}, not a list.", REMEDY)
    counted = "annotations" not in task and not annotations and task.get("total_annotations")
    if counted or not all(isinstance(each, dict) for each in annotations):
        raise DataError(f"{name}:{row} has annotations, and the file leaves out what they say.", REMEDY)
    copied = {
        (_text(each.get("parent_annotation")), _annotator(each.get("completed_by")))
        for each in annotations
        if each.get("parent_annotation") is not None
    }
    return [
        each
        for each in annotations
        if (_text(each.get("id")), _annotator(each.get("completed_by"))) not in copied
    ]


def _parse_results(results: Any, others: set[str]) -> _Annotation:
    """Of one annotation; what else it holds is named in ``others``."""
    labels: list[str] = []
    status, note = "", ""
    for result in results if isinstance(results, list) else ():
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            continue
        name, choices = result.get("from_name"), value.get("choices")
        if result.get("type") == "choices" and isinstance(choices, list):
            if name == LABEL:
                labels += map(str, choices)
            elif name == STATUS:
                status = str(choices[0]) if choices else ""
            else:
                others.add(f"{name} (choices)")
        elif name == NOTE:
            note = _joined(value.get("text"))
        else:
            others.add(f"{name} ({result.get('type')})")
    return _Annotation(labels, status, note)


def _flat_answers(row: int, cells: Mapping[str, Any], others: set[str]) -> list[Answer]:
    """Of one row of JSON_MIN or CSV, which is one annotation; other controls with a value are added to ``others``."""
    status = _choices(cells.get(STATUS))
    annotation = _Annotation(
        _choices(cells.get(LABEL)), status[0] if status else "", _joined(cells.get(NOTE))
    )
    saved = ANSWERED not in cells or _text(cells[ANSWERED])  # older releases do not say
    if saved and not annotation.labels and not annotation.status:
        others |= {key for key, value in cells.items() if key not in OF_FLAT_ROWS and _text(value)}
    return _answers(row, _task_reference(cells), _annotator(cells.get("annotator")), annotation)


def _answers(
    row: int, reference: tuple[str, str, str], annotator: str, annotation: _Annotation
) -> list[Answer]:
    sample_id, batch_id, image = reference
    return [
        Answer(row, sample_id, label, annotator, annotation.status, annotation.note, batch_id, image)
        for label in annotation.labels or ("",)
    ]


def _task_reference(data: Mapping[str, Any]) -> tuple[str, str, str]:
    """sample_id, batch_id and image of a task."""
    return _text(data.get("sample_id")), _text(data.get("batch_id")), _image(_text(data.get("image")))


def _image(url: str) -> str:
    """The name or path of the image in a task's URL, without what Label Studio adds to it."""
    if "/" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    inner = parse_qs(parts.query).get("d")
    if inner:
        return inner[0]
    folder, _, name = unquote(parts.path).rpartition("/")
    return f"{folder}/{UPLOADED.sub('', name) if '/upload/' in f'{folder}/' else name}"


def _choices(cell: Any) -> Sequence[str]:
    """Labels of a cell: text, a list, or {"choices": [...]}, the two latter perhaps as text."""
    if isinstance(cell, str) and cell[:1] in "[{" and cell:
        inner = parse_json(cell.encode("utf-8", "surrogatepass"))
        cell = inner if isinstance(inner, dict) and "choices" in inner else cell
    if isinstance(cell, dict):
        cell = cell.get("choices")
    if isinstance(cell, list):
        return [str(each) for each in cell]
    return [_text(cell)] if _text(cell) else []


def _joined(cell: Any) -> str:
    return " ".join(map(str, cell)) if isinstance(cell, list) else _text(cell)


def _annotator(who: Any) -> str:
    """E-mail address or number of an annotator, which all three exports have."""
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    nobody = isinstance(who, bool) or (isinstance(who, float) and isnan(who))
    return "" if nobody else _text(who)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)
