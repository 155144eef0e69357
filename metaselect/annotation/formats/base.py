"""What every exchange format does, and the table of them; a new format is its file and one line here."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from metaselect.errors import DataError
from metaselect.registry import load

FORMATS: dict[str, str] = {
    "csv": "metaselect.annotation.formats.csv:CsvFormat",
    "label-studio": "metaselect.annotation.formats.label_studio:LabelStudioFormat",
    "cvat": "metaselect.annotation.formats.cvat:CvatFormat",
    "hf": "metaselect.annotation.formats.hf:HfFormat",
    "html": "metaselect.annotation.formats.html:HtmlFormat",
}
AUTO = "auto"
GIVEN = "given labels"
PREDICTIONS = "predictions"
STDOUT = "a form on stdout"
NO_IMAGES = "a form without images"
FILLED_IN = "a form that comes back itself"
INSIDE = "images inside the form"


class Prediction(NamedTuple):
    """What a model says of a sample.

    Attributes:
        label: a class name.
        score: its probability, in [0, 1].
    """

    label: str
    score: float


class Item(NamedTuple):
    """One sample as it goes to people.

    Attributes:
        sample_id: the key by which the answer finds its way back.
        image: path of the image, relative to the form, or a data URI where the form holds it; empty without one.
        given_label: as the data came; empty when people should not see it.
        rank: 1 is the first choice of the selector.
        cluster: as in ``selected.csv``; empty where it would tell a repeat or a control sample, as is the next.
        cluster_size: as in ``selected.csv``.
        content_hash: of the sample, as in the data.
        size: (width, height) of the image in pixels; (0, 0) without one.
        prediction: None unless it was asked for.
    """

    sample_id: str
    image: str
    given_label: str
    rank: str
    cluster: str
    cluster_size: str
    content_hash: str = ""
    size: tuple[int, int] = (0, 0)
    prediction: Prediction | None = None


@dataclass(frozen=True)
class Form:
    """What goes to people in one export.

    Attributes:
        batch_id: which purchase this is.
        items: in the order in which people should see them.
        classes: K names, in the order of the run.
        show_given: whether people see the given labels.
        model: which one the items' predictions are of; empty without predictions.
    """

    batch_id: str
    items: Sequence[Item] = field(default_factory=tuple)
    classes: Sequence[str] = ()
    show_given: bool = False
    model: str = ""


class Answer(NamedTuple):
    """One answer in a file that came back; every text is as the file spells it.

    Attributes:
        row: where in the file, for messages; the first line, or the first sample, is 1.
        sample_id: blank where the file does not carry it.
        clean_label: blank where nobody chose one.
        annotator: blank where the file does not say.
        status: blank, or what the file says.
        note: free text.
        batch_id: blank where the file does not say.
        image: name or path of the image, as it was exported or as a tool made of it; blank where unknown.
        content_hash: of the sample that was looked at; blank where the file does not carry it.
    """

    row: int
    sample_id: str
    clean_label: str
    annotator: str
    status: str
    note: str
    batch_id: str
    image: str = ""
    content_hash: str = ""


class ExchangeFormat(Protocol):
    """One file format that people or annotation tools use."""

    @property
    def file_name(self) -> str:
        """The main file of a form, below ``RUN/export/round-<k>``."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Which of GIVEN, PREDICTIONS, STDOUT, NO_IMAGES, FILLED_IN and INSIDE it can do."""

    @property
    def instructions(self) -> str:
        """What people do with the form before it is imported: "{folder}" is its folder, "{classes}" some names."""

    def write(self, form: Form) -> Mapping[str, str]:
        """The form's files: names beside the main file, which comes first, and their text.

        Raises:
            DataError: the format has no way to spell a class or an id.
        """

    def read(self, content: bytes, name: str) -> list[Answer]:
        """What a file says; ``name`` is its name in messages.

        Raises:
            DataError: not a file of this format; the message names the row.
        """

    def recognises(self, content: bytes) -> bool:
        """Whether a file is of this format, and of no other one."""

    def spellings(self, text: str) -> Iterable[str]:
        """What ids or class names a cell may stand for, the most_probable_answers first."""


def load_format(name: str) -> ExchangeFormat:
    """The format of that name."""
    made: ExchangeFormat = load(FORMATS[name])()
    return made


def detect_format(content: bytes, name: str) -> str:
    """The name of the format that a file is in.

    Raises:
        DataError: it is in none of them, or could be in two.
    """
    found = [each for each in FORMATS if load_format(each).recognises(content)]
    if len(found) == 1:
        return found[0]
    if not content.strip():
        raise DataError(f"{name} is empty.", "Check that the file is the one that was filled in.")
    try:
        text = content.decode("utf-8-sig")
        if "".join(text[:64].split()).startswith(("[{", '{"')):
            json.loads(text)
    except RecursionError:
        pass  # no form is so deep
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text ({error.reason}).", "Save it as CSV UTF-8.") from None
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":  # one object a line is none of ours, and whole
            raise DataError(f"{name} is cut off or damaged JSON: {error}.", "Export it again.") from None
    what = f"could be {' or '.join(found)}" if found else f"is in none of the formats {', '.join(FORMATS)}"
    raise DataError(
        f"{name} {what}.",
        "Name its format with --format. A CSV file is UTF-8 and has the columns sample_id and clean_label.",
    )


def has_answers(answers: Sequence[Answer]) -> bool:
    """Whether any of them says anything."""
    return any((each.clean_label + each.status + each.note).strip() for each in answers)


def holds_answers(content: bytes) -> bool:
    """Whether somebody worked in a form, whatever format it is in; True also when that cannot be told."""
    if not content.strip():
        return False
    try:
        form = load_format(detect_format(content, ""))
        # The browser keeps the answers of a page, so a form with everything inside has none.
        return INSIDE not in form.capabilities and has_answers(form.read(content, ""))
    except DataError:
        return True


def plain_spellings(text: str) -> tuple[str, str]:
    """The spellings of a format that changes no text: as it stands, then without surrounding space."""
    return text, text.strip()
