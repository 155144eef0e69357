"""Which format a file is in, and the format of a name."""

import json

from metaselect.annotation.formats.base import INSIDE, AnswerFormat, ExchangeFormat, has_answers
from metaselect.annotation.formats.csv import read_header
from metaselect.annotation.formats.json_text import json_records
from metaselect.errors import DataError
from metaselect.registry import FORMATS, READ_ONLY, load

AUTO = "auto"  # in place of a format's name: the content decides


def load_format(name: str) -> ExchangeFormat:
    """The format of that name, of those that write forms."""
    made: ExchangeFormat = load(FORMATS[name])()
    return made


def load_reader(name: str) -> AnswerFormat:
    """The format of that name, of those whose answers are read."""
    made: AnswerFormat = load({**FORMATS, **READ_ONLY}[name])()
    return made


def detect_format(content: bytes, name: str) -> str:
    """The name of the format that a file is in.

    Raises:
        DataError: no format recognises it, or several do.
    """
    formats = (*FORMATS, *READ_ONLY)
    candidates = [each for each in formats if load_reader(each).recognises(content)]
    if len(candidates) == 1:
        return candidates[0]
    if not content.strip():
        raise DataError(f"{name} is empty.", "Check that the file is the one that was filled in.")
    try:
        text = content.decode("utf-8-sig")
        if "".join(text[:64].split()).startswith(("[{", '{"')):
            json.loads(text)
    except RecursionError:
        pass  # valid JSON may be nested deeper than Python parses; no form is
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text ({error.reason}).", "Save it as UTF-8: a table as CSV UTF-8."
        ) from None
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":  # JSON lines: complete, but not a format of this program
            raise DataError(f"{name} is cut off or damaged JSON: {error}.", "Export it again.") from None
    except ValueError as error:  # an integer with thousands of digits
        raise DataError(f"{name} is JSON that cannot be read: {error!s:.100}.", "Export it again.") from None
    what = (
        f"could be {' or '.join(candidates)}"
        if candidates
        else f"is in none of the formats {', '.join(formats)}{_found(content)}"
    )
    raise DataError(
        f"{name} {what}.",
        "Name its format with --format. A CSV file is UTF-8 and has the columns sample_id and clean_label.",
    )


def _found(content: bytes) -> str:
    """The names in a file of which nothing else is understood, for a message."""
    records = json_records(content)
    names = [*records[0]] if records else read_header(content)
    what = "JSON with the keys" if records else "a table with the columns"
    return f": it is {what} {', '.join(names):.200}" if len(names) > 1 else ""


def holds_answers(content: bytes) -> bool:
    """Whether a form of any format has answers; True also where it cannot be read, so that it is not overwritten."""
    if not content.strip():
        return False
    try:
        found = detect_format(content, "")
        # The browser stores the answers of a page, so that the file itself has none.
        if found in FORMATS and INSIDE in load_format(found).capabilities:
            return False
        return has_answers(load_reader(found).read(content, ""))
    except DataError:
        return True
