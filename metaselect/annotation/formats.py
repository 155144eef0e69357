"""What every exchange format does, and the table of them; a new format is its file and one line here."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from metaselect.registry import load

FORMATS: dict[str, str] = {
    "csv": "metaselect.annotation.csv_format:CsvFormat",
    "html": "metaselect.annotation.html_format:HtmlFormat",
}


class Item(NamedTuple):
    """One sample as it goes to people.

    Attributes:
        batch_id: which purchase this is; the same for all items of a round.
        sample_id: the key by which the answer finds its way back.
        image: path of the image, relative to the form; empty without one.
        given_label: as the data came; empty when people should not see it.
        rank: 1 is the first choice of the selector.
        cluster: as in ``selected.csv``.
        cluster_size: as in ``selected.csv``.
    """

    batch_id: str
    sample_id: str
    image: str
    given_label: str
    rank: str
    cluster: str
    cluster_size: str


class Answer(NamedTuple):
    """One row of a file that came back; every text is as the file spells it.

    Attributes:
        row: where in the file, for messages; the first line is 1.
        sample_id: never blank.
        clean_label: blank where nobody chose one.
        annotator: blank where the file does not say.
        status: blank, or what the file says.
        note: free text.
        batch_id: blank where the file does not say.
    """

    row: int
    sample_id: str
    clean_label: str
    annotator: str
    status: str
    note: str
    batch_id: str


class ExchangeFormat(Protocol):
    """One file format that people or annotation tools use."""

    @property
    def file_name(self) -> str:
        """What the form is called below ``RUN/export/round-<k>``."""

    def write(self, items: Sequence[Item], *, show_given: bool) -> str:
        """The form as text, one item after the other."""

    def read(self, content: bytes, name: str) -> list[Answer]:
        """What a file says; ``name`` is its name in messages.

        Raises:
            DataError: not a file of this format; the message names the row.
        """

    def holds_answers(self, content: bytes) -> bool:
        """Whether somebody worked in this form; True also when that cannot be told."""

    def spellings(self, text: str) -> Iterator[str]:
        """What ids or class names a cell may stand for, the likeliest first."""


def load_format(name: str) -> ExchangeFormat:
    """The format of that name."""
    made: ExchangeFormat = load(FORMATS[name])()
    return made
