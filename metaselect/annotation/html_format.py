"""The page as an exchange format: out as one file for a browser, back as the CSV that its button downloads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from metaselect.annotation.csv_format import CsvFormat
from metaselect.annotation.formats import Answer, Item
from metaselect.annotation.page import page
from metaselect.errors import DataError


@dataclass(frozen=True)
class HtmlFormat:
    """One file with all that people need to answer, but for a browser.

    Attributes:
        classes: K names.
        thumbnails: data URIs by sample_id.
    """

    classes: Sequence[str] = ()
    thumbnails: Mapping[str, str] = field(default_factory=dict)
    file_name = "labels.html"

    def write(self, items: Sequence[Item], *, show_given: bool) -> str:
        """The page; the given label stands in an item only where people should see it."""
        del show_given
        return page(items, self.classes, self.thumbnails)

    def read(self, content: bytes, name: str) -> list[Answer]:
        """Never: answers are in the file that the page hands out.

        Raises:
            DataError: always.
        """
        del content
        raise DataError(
            f"{name} is the page itself, which holds no answers.",
            "Open it in a browser, press Download answers, and import that file.",
        )

    def holds_answers(self, content: bytes) -> bool:
        """Never: the browser keeps them."""
        del content
        return False

    def spellings(self, text: str) -> Iterator[str]:
        """As in the CSV that the page hands out."""
        return CsvFormat().spellings(text)
