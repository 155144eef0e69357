"""Recognises ids that a spreadsheet changed: 007 to 7, 1e5 to 1.00E+05, 3-4 to a date."""

import re
from collections.abc import Iterable, Iterator
from datetime import date

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
SHORT = re.compile(r"[+-]?\d\.\d\d[eE][+-]?\d{1,3}", re.ASCII)  # the form that 1e5 is shown in
KEPT_DIGITS = 15
SHOWN_DIGITS = 6  # of a long number
SHORT_DIGITS = 3
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NUMERIC_DATE = re.compile(r"(\d{1,4})[-/.](\d{1,2})(?:[-/.](\d{1,4}))?(?: 0?0:00(?::00)?)?", re.ASCII)
NAMED_DATE = re.compile(r"(\d{1,2})?[-/. ]?([a-z]{3})[a-z]{0,6}[-/. ]?(\d{1,4})?", re.ASCII)
Reading = tuple[object, ...]


class SpreadsheetDamage:
    """Finds the id that a spreadsheet may have changed into a cell's text."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids_by_reading: dict[Reading, set[str]] = {}
        for each in ids:
            for reading in (*_numbers(each, SHORT_DIGITS, SHOWN_DIGITS), *_days(each)):
                self.ids_by_reading.setdefault(reading, set()).add(each)

    def likely_id(self, cell: str) -> str | None:
        """The id that may have been changed into this text; None where there is none, or several."""
        text = cell.strip()
        shown = ((SHORT_DIGITS,) if SHORT.fullmatch(text) else ()) + (
            (SHOWN_DIGITS,) if "e" in text.lower() else ()
        )
        for reading in _numbers(text, *shown):  # the most exact first
            if reading in self.ids_by_reading:
                return _single(self.ids_by_reading[reading])
        return _single(set().union(*(self.ids_by_reading.get(reading, set()) for reading in _days(text))))


def _single(found: set[str]) -> str | None:
    return next(iter(found)) if len(found) == 1 else None


def _numbers(text: str, *shown: int) -> Iterator[Reading]:
    """The number that a text is, and the same as shown with fewer digits."""
    if NUMBER.fullmatch(text):
        for digits in (KEPT_DIGITS, *sorted(shown, reverse=True)):
            yield digits, f"{float(text):.{digits - 1}e}"


def _days(text: str) -> Iterator[Reading]:
    """("day", day, month) of every date that a text may stand for, the day 1 where it names none."""
    text = text.lower()
    numeric, named = NUMERIC_DATE.fullmatch(text), NAMED_DATE.fullmatch(text)
    pairs: set[tuple[int, int]] = set()
    if numeric:
        first, second, third = (int(part) if part else 0 for part in numeric.groups())
        year_first = len(numeric[1]) == 4
        pairs = {(third or 1, second)} if year_first else {(first, second), (second, first)}
    elif named and named[2] in MONTHS and (named[1] or named[3]):
        month = MONTHS.index(named[2]) + 1
        # Behind a month stands the day or, where the cell names no other day, the year.
        pairs = {(int(named[1]), month)} if named[1] else {(int(named[3]), month), (1, month)}
    yield from (("day", *pair) for pair in sorted(pairs) if _is_day(*pair))


def _is_day(day: int, month: int) -> bool:
    try:
        date(2000, month, day)
    except ValueError:
        return False
    return True
