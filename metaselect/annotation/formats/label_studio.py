"""Label Studio: tasks and the labelling configuration out; its exports back (``label_studio_export``)."""

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from metaselect.annotation.formats.base import (
    GIVEN,
    PREDICTIONS,
    Answer,
    Form,
    Item,
    plain_spellings,
)
from metaselect.annotation.formats.label_studio_export import LABEL, STATUS, is_export, read_export
from metaselect.annotation.formats.xml_text import require_xml_characters
from metaselect.annotation.votes import BAD_SAMPLE, UNSURE
from metaselect.records import Json

LOCAL_FILES = "/data/local-files/?d="


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
        return read_export(content, name)

    def recognises(self, content: bytes) -> bool:
        """By the columns of its CSV, or as JSON of tasks."""
        return is_export(content)


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
