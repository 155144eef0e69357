"""Names from data in messages and in tables for people: control characters are escaped, long names cut."""

import re
from collections.abc import Sequence
from functools import lru_cache
from unicodedata import normalize

LONGEST = 200  # characters of a name in a message
LONGEST_ANNOTATOR = 100
ANNOTATOR_RULE = f"a name of 1 to {LONGEST_ANNOTATOR} visible characters"
# Those that move a terminal's cursor, start its commands or turn the direction of text; halves of characters, which
# cannot be written.
CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a cell that begins so for a formula
ESCAPED = (*FORMULA, "'")


def visible(text: str) -> str:
    """The text with control characters escaped as Python writes them."""
    if text.isprintable():  # no such character is; this is by far the faster question
        return text
    return CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def visible_lines(text: str) -> str:
    """As ``visible``, but for the ends of lines."""
    return text if text.isprintable() else "\n".join(map(visible, text.split("\n")))


@lru_cache(maxsize=4096)
def annotator_form(name: str) -> str:
    """The one form of an annotator's name: no outer spaces, letters composed (NFC)."""
    return normalize("NFC", name.strip())


def is_annotator_name(name: str) -> bool:
    """Whether this can name an annotator: ``ANNOTATOR_RULE``, without spaces around it."""
    return bool(name) and name == name.strip() and len(name) <= LONGEST_ANNOTATOR and name.isprintable()


def short(name: str) -> str:
    """The name for a message: not longer than ``LONGEST`` characters, control characters escaped."""
    return visible(name[:LONGEST]) + ("..." if len(name) > LONGEST else "")


def quoted(name: str) -> str:
    """As ``short``, as a quoted text."""
    return repr(name[:LONGEST]) + ("..." if len(name) > LONGEST else "")


def examples(names: Sequence[str], shown: int = 5) -> str:
    """The first names, as ``short``, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(short, names[:shown])) + more


def counted(number: int, one: str, many: str) -> str:
    """The number and the words for it, in the singular or the plural."""
    return f"{number} {one if number == 1 else many}"


def escape_formula(cell: str) -> str:
    """The cell with an apostrophe before what a spreadsheet would take for a formula (CSV injection)."""
    return f"'{cell}" if cell.startswith(ESCAPED) else cell


def spreadsheet_cell(text: str) -> str:
    """A text from data as the cell of a table for people: ``visible``, and no formula."""
    return escape_formula(visible(text))


def unescape_formula(cell: str) -> str:
    """The cell without the apostrophe of ``escape_formula``; other apostrophes stay."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(ESCAPED) else cell
