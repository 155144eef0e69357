"""The labelling page as an exchange format: one HTML file, answered in a browser, which downloads a CSV of answers."""

from collections.abc import Mapping

from metaselect.annotation.formats.base import (
    GIVEN,
    INSIDE,
    NO_IMAGES,
    NOTES,
    PREDICTIONS,
    STDOUT,
    Answer,
    Form,
)
from metaselect.annotation.formats.csv import CsvFormat, csv_spellings
from metaselect.annotation.formats.page import standalone_page
from metaselect.errors import DataError


class HtmlFormat:
    """One HTML file with images, keys and instructions; people need only a browser."""

    file_name = "labels.html"
    capabilities = frozenset((GIVEN, PREDICTIONS, STDOUT, NO_IMAGES, INSIDE, NOTES))
    instructions = "Open it in a browser, answer, press Download answers"

    spellings = staticmethod(csv_spellings)  # as in the CSV that the page downloads

    def write(self, form: Form) -> Mapping[str, str]:
        """The page; an item has the given label only where the form shows it."""
        return {self.file_name: standalone_page(form)}

    def read(self, content: bytes, name: str) -> list[Answer]:
        """The answers in the file that the page downloaded.

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
        """By its document type, so that ``read`` can explain what to import instead."""
        return content.lstrip()[:14].lower() == b"<!doctype html"
