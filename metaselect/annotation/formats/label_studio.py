"""Label Studio: tasks and the labelling configuration out; JSON, JSON_MIN or CSV back.

Its exports, in release 2.1.2 of its SDK: JSON_MIN and CSV leave out skipped tasks; a task that nobody opened is a row
without annotator and label; two choices are an object, in CSV as text; and a data key ``id`` is lost, so that the
sample's key is ``sample_id``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from metaselect.annotation.formats.base import (
    GIVEN,
    PREDICTIONS,
    Answer,
    Form,
    Item,
    has_answers,
    plain_spellings,
)
from metaselect.annotation.formats.csv import read_header, read_records
from metaselect.annotation.formats.xml_text import require_xml_characters
from metaselect.annotation.votes import BAD_SAMPLE, SKIP, UNSURE
from metaselect.errors import DataError
from metaselect.records import Json

LABEL = "clean_label"
STATUS = "status"
NOTE = "note"
LOCAL_FILES = "/data/local-files/?d="
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # prefix of the name of an uploaded file
REMEDY = "Export from Label Studio as JSON, JSON-MIN or CSV."


class LabelStudioFormat:
    """Tasks as JSON with ``sample_id`` and ``batch_id`` in their data."""

    file_name = "label-studio/tasks.json"
    capabilities = frozenset((GIVEN, PREDICTIONS))
    instructions = (
        "Serve {folder} as Label Studio's local files, create a project with config.xml, import tasks.json, "
        "and export it as JSON"
    )

    spellings = staticmethod(plain_spellings)

    def write(self, form: Form) -> Mapping[str, str]:
        """Tasks and ``config.xml``, the labelling configuration for them.

        Raises:
            DataError: a class name holds a character that XML does not have.
        """
        tasks = [_task(item, form) for item in form.items]
        return {
            "tasks.json": json.dumps(tasks, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "config.xml": _config(form.classes),
        }

    def read(self, content: bytes, name: str) -> list[Answer]:
        """The answers of an export, in the order of the file.

        Raises:
            DataError: not an export, or one of another labelling configuration.
        """
        if "annotation_id" in read_header(content):
            rows = read_records(content, name)
            return [each for row, cells in enumerate(rows, start=2) for each in _flat_answers(row, cells)]
        tasks = _json(content)
        if not _are_tasks(tasks):
            raise DataError(f"{name} is not an export of Label Studio.", REMEDY)
        answers: list[Answer] = []
        other_controls: set[str] = set()
        for row, task in enumerate(tasks, start=1):
            raw = isinstance(task.get("data"), dict)
            answers += _task_answers(row, task, other_controls) if raw else _flat_answers(row, task)
        if other_controls and not has_answers(answers):
            raise DataError(
                f"{name} holds choices named {', '.join(sorted(other_controls))}, and none named {LABEL}.",
                "Use the config.xml that annotate export wrote, or rename the control in the file.",
            )
        return answers

    def recognises(self, content: bytes) -> bool:
        """By the columns of its CSV, or as a JSON list of tasks."""
        return "annotation_id" in read_header(content) or _are_tasks(_json(content))


class _Annotation(NamedTuple):
    """Labels, status and note of one annotation; several labels are a conflict."""

    labels: Sequence[str]
    status: str
    note: str


def _task(item: Item, form: Form) -> dict[str, Json]:
    data: dict[str, Json] = {
        "image": LOCAL_FILES + quote(item.image),
        "sample_id": item.sample_id,
        "batch_id": form.batch_id,
    }
    if form.show_given:
        data["given_label"] = item.given_label
    task: dict[str, Json] = {"data": data}
    if item.prediction is not None:
        choice: dict[str, Json] = {
            "from_name": LABEL,
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [item.prediction.label]},
        }
        score = round(item.prediction.score, 6)
        task["predictions"] = [{"model_version": form.model, "score": score, "result": [choice]}]
    return task


def _config(classes: Sequence[str]) -> str:
    """The configuration; a label is not required, since some samples cannot be judged."""
    require_xml_characters(classes, "class name")
    lines = [
        "<View>",
        '  <Image name="image" value="$image"/>',
        f'  <Choices name="{LABEL}" toName="image" choice="single">',
        *(f"    <Choice value={quoteattr(each)}/>" for each in classes),
        "  </Choices>",
        f'  <Choices name="{STATUS}" toName="image" choice="single">',
        *(f'    <Choice value="{each}"/>' for each in (UNSURE, BAD_SAMPLE)),
        "  </Choices>",
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def _json(content: bytes) -> Any:
    """The parsed text; None where it is not JSON."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # a decoding error is a ValueError
        return None


def _are_tasks(found: Any) -> bool:
    """Whether this is a list of tasks, raw or flat."""
    return (
        isinstance(found, list)
        and all(isinstance(task, dict) for task in found)
        and all(isinstance(task.get("data"), dict) or {"image", "sample_id"} & task.keys() for task in found)
    )


def _task_answers(row: int, task: Mapping[str, Any], other_controls: set[str]) -> list[Answer]:
    """One answer per annotation and label of a raw task; a blank one where nobody answered."""
    by_annotator: dict[str, list[_Annotation]] = {}
    skipped: set[str] = set()
    for annotation in task.get("annotations") or ():
        if not isinstance(annotation, dict):
            continue  # an export without annotations has their ids here
        annotator = _annotator(annotation.get("completed_by"))
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            skipped.add(annotator)
        else:
            by_annotator.setdefault(annotator, []).append(
                _parse_results(annotation.get("result") or (), other_controls)
            )
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


def _parse_results(results: Sequence[Any], other_controls: set[str]) -> _Annotation:
    labels: list[str] = []
    status, note = "", ""
    for result in results:
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
                other_controls.add(str(name))
        elif name == NOTE:
            note = _joined(value.get("text"))
    return _Annotation(labels, status, note)


def _flat_answers(row: int, cells: Mapping[str, Any]) -> list[Answer]:
    """Of one row of JSON_MIN or CSV, which is one annotation."""
    status = _choices(cells.get(STATUS))
    annotation = _Annotation(
        _choices(cells.get(LABEL)), status[0] if status else "", _joined(cells.get(NOTE))
    )
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
        inner = _json(cell.encode("utf-8", "surrogatepass"))
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
    return _text(who)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)
