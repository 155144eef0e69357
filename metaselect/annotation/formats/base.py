"""The protocol of an exchange format, and the records that formats write and read.

A new format is a file in this folder with a class that has the members of ``ExchangeFormat``, and one line in
``metaselect.registry.FORMATS``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

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


def has_answers(answers: Sequence[Answer]) -> bool:
    """Whether any of them says anything."""
    return any((each.clean_label + each.status + each.note).strip() for each in answers)


def plain_spellings(text: str) -> tuple[str, str]:
    """The spellings of a format that changes no text: as it stands, then without surrounding space."""
    return text, text.strip()
