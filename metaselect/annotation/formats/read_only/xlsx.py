"""A workbook of Excel with the columns of the CSV form, as spreadsheets save it; read by openpyxl."""

import io
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from metaselect.annotation.formats.base import Answer
from metaselect.annotation.formats.csv import csv_spellings, names_samples_and_labels, table_answers
from metaselect.annotation.formats.cvat import DAMAGE, WORKBOOK, ZIP
from metaselect.errors import DataError

if TYPE_CHECKING:
    from openpyxl import Workbook

INSTALL = "pip install '.[excel]'"
TABLES = ("xl/worksheets/", "xl/sharedStrings")
MAX_BYTES = 1 << 28  # of the unpacked tables: a small zip may unpack to any size
MAX_PART = 1 << 24  # of any other part, which is held in memory
MAX_CELLS = (
    20_000_000  # of all sheets; the number of a row is all that it takes to make any number of empty ones
)
MAX_SHEETS = 20
REMEDY = "Save the sheet with the columns sample_id and clean_label as CSV UTF-8, and import that."


class XlsxFormat:
    """The one sheet with the columns of the form, which stand in its first row."""

    spellings = staticmethod(csv_spellings)  # a form that went through a spreadsheet keeps its apostrophes

    def read(self, content: bytes, name: str) -> list[Answer]:
        """The answers in the sheet.

        Raises:
            DataError: damaged or too large, no sheet with the columns for id and label, or several; or openpyxl is
                not installed.
        """
        try:
            from openpyxl import load_workbook
        except ImportError:
            raise DataError(
                f"{name} is a workbook of Excel, and openpyxl, which reads it, is not installed.",
                f"Save it as CSV UTF-8, or in MetaSelect's folder: {INSTALL}",
            ) from None
        _require_bounded(content, name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about styles and validation, of which nothing is read
                found = _tables(
                    load_workbook(io.BytesIO(content), True, data_only=True, keep_links=False), name
                )
        except (DataError, MemoryError):
            raise
        except Exception as error:  # openpyxl has no error of its own for what is damaged
            what = f"{type(error).__name__}: {error!s:.200}"
            raise DataError(f"{name} is a damaged workbook: {what}.", REMEDY) from None
        if len(found) != 1:
            raise DataError(
                f"{name} has {len(found)} sheets with the columns sample_id and clean_label, not one.", REMEDY
            )
        return found[0]

    def recognises(self, content: bytes) -> bool:
        """By the name of its main part."""
        return content.startswith(ZIP) and WORKBOOK in content


def _tables(book: "Workbook", name: str) -> list[list[Answer]]:
    """The answers of each sheet that has the columns of the form."""
    found = []
    cells_left = MAX_CELLS

    def texts(rows: Iterable[tuple[object, ...]]) -> Iterator[list[str]]:
        nonlocal cells_left
        for cells in rows:
            cells_left -= max(len(cells), 1)
            if cells_left < 0:
                raise DataError(f"{name} has more than {MAX_CELLS:,} cells.", REMEDY)
            yield [_text(cell) for cell in cells]

    for sheet in book.worksheets[:MAX_SHEETS]:
        sheet.reset_dimensions()  # what the file says of them may be wrong
        rows = texts(sheet.iter_rows(values_only=True))
        header = [cell.strip().lower() for cell in next(rows, [])]
        image = "file_name" if "file_name" in header else "image"
        if names_samples_and_labels(header, image):
            found.append(list(table_answers(header, rows, 2, name, image)))
    return found


def _require_bounded(content: bytes, name: str) -> None:
    """Refuse a workbook of which more would be unpacked than it takes to hold a form.

    Raises:
        DataError: it is larger, or a damaged zip.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = archive.infolist()
    except DAMAGE as error:
        raise DataError(f"{name} is a damaged zip: {error}.", REMEDY) from None
    # zipfile unpacks no more of a part than it says here.
    tables = sum(part.file_size for part in parts if part.filename.startswith(TABLES))
    largest = max((part.file_size for part in parts if not part.filename.startswith(TABLES)), default=0)
    if tables > MAX_BYTES or largest > MAX_PART:
        raise DataError(f"{name} unpacks to more than {MAX_BYTES >> 20} MiB.", REMEDY)


def _text(cell: object) -> str:
    """A cell as a spreadsheet shows it."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)
