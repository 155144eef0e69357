"""The protocol of an exchange format, and the records that formats write and read.

A new format is a file in this folder with a class that has the members of ``ExchangeFormat``, and one line in
``metaselect.registry.FORMATS``. One that is only read has the members of ``AnswerFormat``; its place is the folder
``read_only``, and its line stands in ``READ_ONLY``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from metaselect.errors import DataError
from metaselect.text import ANNOTATOR_RULE, is_annotator_name, quoted

GIVEN = "given labels"
PREDICTIONS = "predictions"
STDOUT = "a form on stdout"
NO_IMAGES = "a form without images"
FILLED_IN = "a form that comes back itself"
INSIDE = "images inside the form"
NOTES = "notes about classes"


class Prediction(NamedTuple):
    """A model's prediction for a sample.

    Attributes:
        label: a class name.
        score: its probability, in [0, 1].
    """

    label: str
    score: float


class Item(NamedTuple):
    """One sample as a form shows it.

    Attributes:
        sample_id: as answers name it.
        image: path of the image, relative to the form, or a data URI where the form holds it; empty without one.
        given_label: as in the data; empty unless the form shows it.
        rank: 1 is the first choice of the selector.
        cluster: as in ``selected.csv``; empty, as is ``cluster_size``, where it would show repeats or control samples.
        cluster_size: as in ``selected.csv``.
        content_hash: of the sample, as in the data.
        size: (width, height) of the image in pixels; (0, 0) without one.
        prediction: None unless the form shows it.
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


class ClassNote(NamedTuple):
    """What the labelling page shows about a class on demand.

    Attributes:
        label: the class, by its position.
        note: a text; blank where the picture says it all.
        picture: media type and bytes of an example, or None.
    """

    label: int
    note: str
    picture: tuple[str, bytes] | None = None


@dataclass(frozen=True)
class Form:
    """The content of one export.

    Attributes:
        batch_id: of the round.
        items: in the order in which the form shows them.
        classes: K names, in the order of the run.
        show_given: whether the form shows the given labels.
        model: the name of the model that predicts; empty without predictions.
        class_notes: in the order of the classes.
    """

    batch_id: str
    items: Sequence[Item] = field(default_factory=tuple)
    classes: Sequence[str] = ()
    show_given: bool = False
    model: str = ""
    class_notes: Sequence[ClassNote] = ()


class Answer(NamedTuple):
    """One answer in an imported file; every text is as the file spells it.

    Attributes:
        row: line or sample of the file, from 1, for messages.
        sample_id: blank where the file does not carry it.
        clean_label: blank where none was chosen.
        annotator: blank where the file names none.
        status: as in the file, or blank.
        note: free text.
        batch_id: blank where the file names none.
        image: name or path of the image, as exported or as a tool changed it; blank where unknown.
        content_hash: of the labelled sample; blank where the file does not carry it.
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


class AnswerFormat(Protocol):
    """A file format of people or annotation tools whose answers are read."""

    def read(self, content: bytes, name: str) -> list[Answer]:
        """The answers in a file; ``name`` is its name in messages.

        Raises:
            DataError: not a file of this format; the message names the row.
        """

    def recognises(self, content: bytes) -> bool:
        """Whether a file is in this format; at most one format may say so."""

    def spellings(self, text: str) -> Iterable[str]:
        """What ids or class names a cell may stand for, the most likely first."""


class ExchangeFormat(AnswerFormat, Protocol):
    """A format whose forms are written too."""

    @property
    def file_name(self) -> str:
        """The main file of a form, below ``RUN/export/round-<k>``."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Those of GIVEN, PREDICTIONS, STDOUT, NO_IMAGES, FILLED_IN, INSIDE and NOTES that the format supports."""

    @property
    def instructions(self) -> str:
        """What to do with the form before the import; "{folder}" is its folder, "{classes}" some class names."""

    def write(self, form: Form) -> Mapping[str, str]:
        """The form's files: names beside the main file, which comes first, and their text.

        Raises:
            DataError: the format cannot represent a class name or an id.
        """


def require_texts(answers: Sequence[Answer], name: str, content: bytes) -> None:
    """Refuse names that are no annotator's, and what no file can hold: halves of a character.

    Args:
        answers: of the file.
        name: of the file.
        content: of the file; only JSON's escapes can name half of a character.

    Raises:
        DataError: naming the row.
    """
    known: set[str] = {""}
    for answer in answers:
        if answer.annotator not in known:
            if not is_annotator_name(answer.annotator):
                raise DataError(
                    f"{name}:{answer.row}: the annotator {quoted(answer.annotator)} is not {ANNOTATOR_RULE}.",
                    "Correct it, or leave it empty and name the annotator with --annotator.",
                )
            known.add(answer.annotator)
    if b"\\u" not in content:
        return
    for answer in answers:
        for text in answer[1:]:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise DataError(
                    f"{name}:{answer.row}: {text!a:.200} holds half of a character.",
                    "Export the file again, or correct that text.",
                ) from None


def has_answers(answers: Sequence[Answer]) -> bool:
    """Whether any of them has a label, a status or a note."""
    return any((each.clean_label + each.status + each.note).strip() for each in answers)


def plain_spellings(text: str) -> tuple[str, str]:
    """The spellings in a format that keeps texts: as written, then without surrounding space."""
    return text, text.strip()
