"""The CSV form: one row per sample, filled in with a spreadsheet or a script."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import TextIO

from metaselect.annotation.formats.base import FILLED_IN, GIVEN, NO_IMAGES, STDOUT, Answer, Form
from metaselect.annotation.votes import BAD_SAMPLE, DONE, SKIP, STATUSES, UNSURE
from metaselect.data.classes import class_form
from metaselect.errors import DataError
from metaselect.run.files import format_csv, read_delimiter
from metaselect.text import escape_formula, quoted, short, spreadsheet_cell, unescape_formula

ANSWER_COLUMNS = ("clean_label", "annotator", "status", "note")
OTHER_TOOLS = ("annotation_id", "file_name")  # columns of tables of Label Studio and Hugging Face
# (id, label): ours, Cleanlab Studio's, and the long tables of crowd-kit and cleanlab. A bare `label` counts
# only beside `task`: elsewhere it is the given label, and that is no answer.
ID_AND_LABEL = (("sample_id", "clean_label"), ("id", "clean_label"), ("task", "label"))
OWN_COLUMNS = frozenset(
    (
        *("batch_id", "sample_id", "id", "task", "image", "content_hash", "given_label"),
        *("rank", "cluster", "cluster_size", "worker", *ANSWER_COLUMNS),
    )
)
"""Columns of forms and of the tables that are read; text in others may be answers that were not understood."""
UNUSABLE = "unusable"  # in truth files, another word for the status bad_sample
REMEDY = "Save it as CSV UTF-8 with the columns sample_id and clean_label."


def csv_spellings(text: str) -> Iterator[str]:
    """The texts that a cell may stand for: unescaped, the same without surrounding space, then as written."""
    yield unescape_formula(text)
    plain_spellings = text.strip()
    yield unescape_formula(plain_spellings)
    yield text  # a script may have written the id or name without escaping it
    yield plain_spellings


class CsvFormat:
    """Comma-separated values with a header, as `annotate export` writes them and spreadsheets return them."""

    file_name = "labels.csv"
    capabilities = frozenset((GIVEN, STDOUT, NO_IMAGES, FILLED_IN))
    instructions = "Fill in clean_label with a class ({classes})"

    spellings = staticmethod(csv_spellings)

    def write(self, form: Form) -> Mapping[str, str]:
        """The form; cells that a spreadsheet would take for a formula get an apostrophe."""
        given = ("given_label",) if form.show_given else ()
        rows = (
            (
                form.batch_id,
                escape_formula(item.sample_id),
                escape_formula(item.image),
                *((spreadsheet_cell(item.given_label),) if form.show_given else ()),
                item.rank,
                item.cluster,
                item.cluster_size,
                *("", "", "", ""),
            )
            for item in form.items
        )
        header = ("batch_id", "sample_id", "image", *given, "rank", "cluster", "cluster_size")
        return {self.file_name: format_csv((*header, *ANSWER_COLUMNS), rows)}

    def read(self, content: bytes, name: str) -> list[Answer]:
        """The answers in a file; a byte order mark, CRLF, other columns, any order, ; and tab are accepted.

        Raises:
            DataError: not UTF-8, not CSV, or without columns for id and label.
        """
        return read_table(content, name)

    def recognises(self, content: bytes) -> bool:
        """By the columns of its header."""
        header = read_header(content)
        return names_samples_and_labels(header) and not any(column in header for column in OTHER_TOOLS)


def read_table(content: bytes, name: str, image: str = "image") -> list[Answer]:
    """The answers of a CSV file; ``image`` is the column that names the images.

    Raises:
        DataError: as ``CsvFormat.read``.
    """
    with _csv_errors_as_data_errors(name):
        header, rows, start = _open_table(_text(content))
        return list(table_answers(header, rows, start, name, image))


def read_records(content: bytes, name: str) -> list[dict[str, str]]:
    """The rows of a CSV file by column, without empty rows.

    Raises:
        DataError: not UTF-8, or not CSV.
    """
    with _csv_errors_as_data_errors(name):
        header, rows, _ = _open_table(_text(content))
        return [dict(zip(header, cells, strict=False)) for cells in rows if any(cells)]


def read_header(content: bytes) -> list[str]:
    """The column names of a CSV file, in lower case; empty where there are none."""
    try:
        return _open_table(_text(content))[0]
    except (csv.Error, UnicodeDecodeError):
        return []


def read_truth(content: bytes, name: str) -> dict[str, str]:
    """True labels by id from a CSV with `sample_id` (or `id`), `clean_label` and, if there is one, `status`.

    A label is empty where the sample is unusable: its status says so, or there is neither a status nor a label. Rows
    whose status is skip or unsure are left out: they say nothing. Other columns are ignored.

    Raises:
        DataError: as ``CsvFormat.read``, a row without an id, an id with two labels, a status that there is not, or
            one of done without a label.
    """
    found: dict[str, str] = {}
    for answer in CsvFormat().read(content, name):
        if not answer.sample_id.strip():
            raise DataError(f"{name}:{answer.row} has no sample_id.", REMEDY)
        status = answer.status.lower()
        if status not in ("", *STATUSES, UNUSABLE):
            raise DataError(
                f"{name}:{answer.row}: there is no status {quoted(answer.status)} ({short(answer.sample_id)}).",
                f"Use one of {', '.join(STATUSES)}, or leave it empty.",
            )
        if status in (SKIP, UNSURE):
            continue
        label = "" if status in (BAD_SAMPLE, UNUSABLE) else class_form(answer.clean_label)
        if status == DONE and not label:
            raise DataError(
                f"{name}:{answer.row}: the status is done but there is no clean_label ({short(answer.sample_id)}).",
                "Fill in the label, or set the status to bad_sample.",
            )
        if found.setdefault(answer.sample_id, label) != label:
            raise DataError(
                f"{name}:{answer.row}: {short(answer.sample_id)} has two labels, "
                f"{quoted(found[answer.sample_id] or UNUSABLE)} and {quoted(label or UNUSABLE)}.",
                "A truth file names each sample once.",
            )
    return found


@contextmanager
def _csv_errors_as_data_errors(name: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text ({error.reason}).", REMEDY) from None
    except csv.Error as error:
        raise DataError(f"{name} is not a CSV file: {error}.", REMEDY) from None


def _text(content: bytes) -> TextIO:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")


def _open_table(text: TextIO) -> tuple[list[str], Iterator[list[str]], int]:
    """The column names in lower case, the rows behind them, and the number of the first of these."""
    delimiter, line = read_delimiter(text)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    return [cell.strip().lower() for cell in next(reader, [])], reader, line + 1


def table_answers(
    header: Sequence[str], rows: Iterable[list[str]], start: int, name: str, image: str = "image"
) -> Iterator[Answer]:
    """The answers of a table.

    Args:
        header: column names in lower case.
        rows: the rows behind it.
        start: number of the first of these, for messages.
        name: of the file.
        image: the column that names the images.

    Raises:
        DataError: without columns for id and label; a row with more cells than the header, or with an answer and no
            id; or no answer in the columns for it, and text in columns that are not read.
    """
    pick = itemgetter(*_column_positions(header, name, image))
    others = {
        position: column for position, column in enumerate(header) if column not in (*OWN_COLUMNS, image)
    }
    same: dict[str, str] = {}  # equal texts become one object: a million rows have few labels and names
    people: dict[str, str] = {}
    width = len(header)
    blank = [""]  # the last cell is that of absent columns
    answered, filled = False, set()
    for row, cells in enumerate(rows, start):
        if len(cells) > width and any(cells[width:]):
            raise DataError(f"{name}:{row} has more cells than the header.", "Quote cells that hold commas.")
        cells += blank if len(cells) == width else [""] * (width + 1 - len(cells))
        sample_id, label, annotator, status, note, batch_id, picture, content = pick(cells)
        if not answered:
            answered = bool((label + status + note).strip())
            filled |= {column for position, column in others.items() if cells[position].strip()}
        if sample_id.strip() or picture.strip() or content.strip():
            if annotator not in people:
                people[annotator] = unescape_formula(annotator.strip())
            yield Answer(
                row,
                sample_id,
                same.setdefault(label, label),
                people[annotator],
                status.strip(),
                note and unescape_formula(note.strip()),
                same.setdefault(batch_id, batch_id),
                picture,
                content.strip(),
            )
        elif label.strip() or status.strip():
            raise DataError(
                f"{name}:{row} has an answer but no sample_id.", "Fill in the id, or delete the row."
            )
    if filled and not answered:
        raise not_understood(name, filled)


def not_understood(name: str, filled: Iterable[str]) -> DataError:
    """The error of a file without an answer where answers belong, and with text elsewhere."""
    shown = ", ".join(sorted(column or "a column without a name" for column in filled))
    return DataError(
        f"{name} holds no clean_label and no status, but text in {shown:.200}.",
        "If those are the answers, name the column clean_label; if not, take it out.",
    )


def _column_positions(header: Sequence[str], name: str, image: str) -> tuple[int, ...]:
    """Positions of an answer's fields, the id first; -1 (a blank cell) for a column that is absent."""
    if not any(header):
        raise DataError(f"{name} is empty.", "The first line must name the columns.")
    for column in ("sample_id", "id", "clean_label", "annotator", "status", image):
        if header.count(column) > 1:
            raise DataError(f"{name} has the column {column} {header.count(column)} times.", REMEDY)
    shape = _id_and_label_columns(header, image)
    if shape is None:
        raise DataError(
            f"{name} has no columns sample_id and clean_label; it has {short(', '.join(header))}.", REMEDY
        )
    key, label = shape
    annotator = "worker" if key == "task" and "worker" in header else "annotator"
    wanted = (key, label, annotator, "status", "note", "batch_id", image, "content_hash")
    return tuple(header.index(column) if column in header else -1 for column in wanted)


def names_samples_and_labels(header: Sequence[str], image: str = "image") -> bool:
    """Whether a table has columns for the sample and its label; ``image`` is the one that names the images."""
    return _id_and_label_columns(header, image) is not None


def _id_and_label_columns(header: Sequence[str], image: str = "image") -> tuple[str, str] | None:
    """The columns of id and label, the id perhaps absent where images are named; None without them."""
    for key, label in ID_AND_LABEL:
        if key in header and (label in header or "status" in header):
            return key, label
    named = image in header or "content_hash" in header
    return ("sample_id", "clean_label") if named and "clean_label" in header else None
