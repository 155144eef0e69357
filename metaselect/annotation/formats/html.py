"""The page as an exchange format: out as one file for a browser, back as the CSV that its button downloads."""

from collections.abc import Mapping

from metaselect.annotation.formats.base import GIVEN, INSIDE, NO_IMAGES, PREDICTIONS, STDOUT, Answer, Form
from metaselect.annotation.formats.csv import CsvFormat, csv_spellings
from metaselect.annotation.formats.page import standalone_page
from metaselect.errors import DataError


class HtmlFormat:
    """One file with all that people need to answer, but for a browser."""

    file_name = "labels.html"
    capabilities = frozenset((GIVEN, PREDICTIONS, STDOUT, NO_IMAGES, INSIDE))
    instructions = "Open it in a browser, answer, press Download answers"

    spellings = staticmethod(csv_spellings)  # as in the CSV that the page hands out

    def write(self, form: Form) -> Mapping[str, str]:
        """The page; the given label stands in an item only where people should see it."""
        return {self.file_name: standalone_page(form)}

    def read(self, content: bytes, name: str) -> list[Answer]:
        """What the file says that the page handed out.

        Raises:
            DataError: it is the page itself, or as the CSV form.
        """
        if self.recognises(content):
            raise DataError(
                f"{name} is the page itself, which holds no answers.",
                "Open it in a browser, press Download answers, and import that file.",
            )
        return CsvFormat().read(content, name)

    def recognises(self, content: bytes) -> bool:
        """By its document type, to say what is wrong."""
        return content.lstrip()[:14].lower() == b"<!doctype html"
