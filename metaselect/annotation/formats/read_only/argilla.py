"""Argilla: records as JSON, in a list or one a line, with the responses of each user.

Release 2 writes responses by question, or flat as ``<question>.responses`` beside ``.users`` and ``.status``; release 1
writes them by user. Suggestions are a model's and no answers.
"""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

from metaselect.annotation.formats.base import Answer, plain_spellings
from metaselect.annotation.formats.json_text import json_records
from metaselect.annotation.votes import SKIP
from metaselect.errors import DataError

LABEL = "clean_label"
FLAT = ".responses"
DISCARDED, DRAFT = "discarded", "draft"
REMEDY = f"Export the records of a dataset with one label question, or with one named {LABEL}, as JSON."


class _Response(NamedTuple):
    """What a user answered to a question; ``status`` is "submitted", "draft" or "discarded" where it is known."""

    question: str
    value: Any
    user: str
    status: str


class ArgillaFormat:
    """Responses, found by ``sample_id`` in metadata or fields, else by the record's id or the image's name."""

    spellings = staticmethod(plain_spellings)

    def read(self, content: bytes, name: str) -> list[Answer]:
        """One answer per response and label, a skip for a discarded one; a blank one for a record without any.

        Raises:
            DataError: not records, responses to several questions, or a response that names no class.
        """
        records = json_records(content) or []
        if not records or not all(map(is_record, records)):
            raise DataError(f"{name} has no records of Argilla.", REMEDY)
        responses = [list(_responses(record)) for record in records]
        questions = {each.question for row in responses for each in row}
        if LABEL not in questions and len(questions) > 1:
            raise DataError(f"{name} has responses to {', '.join(sorted(questions)):.200}.", REMEDY)
        wanted = LABEL if LABEL in questions else next(iter(questions), LABEL)
        answers: list[Answer] = []
        for row, (record, given) in enumerate(zip(records, responses, strict=True), start=1):
            blank = _reference(record, row)
            found = [
                blank._replace(clean_label=label, annotator=each.user, status=status)
                for each in given
                if each.question == wanted and each.status != DRAFT
                for label, status in _labels(each, f"{name}:{row}")
            ]
            answers += found or [blank]
        return answers

    def recognises(self, content: bytes) -> bool:
        """By the keys of its records."""
        marked = b'responses"' in content or b'"_server_id"' in content
        found = (json_records(content) if marked else None) or []
        return bool(found) and all(map(is_record, found))


def is_record(record: Mapping[str, Any]) -> bool:
    """Whether an object of JSON is one of Argilla's."""
    nested = isinstance(record.get("fields"), dict) and "responses" in record
    return nested or "_server_id" in record or any(key.endswith(FLAT) for key in record)


def _responses(record: Mapping[str, Any]) -> Iterator[_Response]:
    found = record.get("responses")
    for question, given in found.items() if isinstance(found, dict) else ():
        for each in _objects(given):
            yield _response(question, each.get("value"), each)
    for each in _objects(found):  # of one user
        values = each.get("values")
        for question, given in values.items() if isinstance(values, dict) else ():
            yield _response(question, given.get("value") if isinstance(given, dict) else given, each)
    for key, values in record.items():
        if key.endswith(FLAT) and isinstance(values, list):
            users, states = (_listed(record.get(f"{key}.{part}")) for part in ("users", "status"))
            for value, user, state in zip_longest(values, users, states):
                yield _response(key.removesuffix(FLAT), value, {"user_id": user, "status": state})


def _response(question: str, value: Any, given: Mapping[str, Any]) -> _Response:
    user = _text(given.get("user_id"))
    return _Response(question, value, "" if user == "None" else user, _text(given.get("status")))


def _labels(response: _Response, place: str) -> list[tuple[str, str]]:
    """(label, status) of a response; several of a question with several labels."""
    if response.status == DISCARDED:
        return [("", SKIP)]
    labels = response.value if isinstance(response.value, list) else [response.value]
    if not all(isinstance(each, str | int | None) for each in labels):
        raise DataError(f"{place}: the response {response.value!r:.100} names no class.", REMEDY)
    return [(_text(each), "") for each in labels]


def _reference(record: Mapping[str, Any], row: int) -> Answer:
    """A blank answer for the sample of a record."""
    parts = [record.get("metadata"), record.get("fields"), record]
    cells = [each for each in parts if isinstance(each, dict)]

    def first(key: str) -> str:
        return next((_text(each[key]) for each in cells if each.get(key)), "")

    image = first("image")
    return Answer(
        *(row, first("sample_id") or _text(record.get("external_id") or record.get("id"))),
        *("", "", "", "", first("batch_id")),
        image="" if image.startswith("data:") else image,
    )


def _objects(found: Any) -> list[dict[str, Any]]:
    return [each for each in _listed(found) if isinstance(each, dict)]


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)
