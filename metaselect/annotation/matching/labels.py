"""Reads the label and the status of an answer, and explains labels that are no class."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import TypeAlias
from unicodedata import normalize

from metaselect.annotation.formats.base import Answer
from metaselect.annotation.votes import BAD_SAMPLE, DONE, SKIP, STATUSES, UNSURE
from metaselect.data.classes import MISSING, class_form
from metaselect.errors import DataError
from metaselect.text import counted, quoted, short

Spellings: TypeAlias = Callable[[str], Iterable[str]]
"""The texts that a cell may stand for, the most likely first; each exchange format has its own."""
SHOWN = 5


class LabelParser:
    """Parses statuses and class names, and collects the labels that are not classes.

    Args:
        classes: of the run.
        spellings: of the format.
        name: of the file, for messages.
        adds: take labels that are no classes as new ones, unless they differ from one in case only.
    """

    def __init__(
        self, classes: Sequence[str], spellings: Spellings, name: str, *, adds: bool = False
    ) -> None:
        self.adds = adds
        self.folded = frozenset(each.casefold() for each in classes) if adds else frozenset()
        self.classes = classes
        self.names = frozenset(classes)
        # Two classes that differ in the composition of letters alone are told apart by exact spelling only.
        forms = Counter(map(_composed, classes))
        self.composed = {_composed(each): each for each in classes if forms[_composed(each)] == 1}
        self.spellings = spellings
        self.file = name
        self.seen: dict[str, str | None] = {}
        self.unknown: list[Answer] = []

    def parse(self, answer: Answer) -> tuple[str, str]:
        """Status and label of an answer; an empty status where there is no answer yet.

        Raises:
            DataError: there is no such status, or a status of done has no label.
        """
        status = answer.status.lower()
        if status and status not in STATUSES:
            raise DataError(
                f"{self.file}:{answer.row}: there is no status {quoted(answer.status)} "
                f"(sample {_sample_name(answer)}).",
                f"Use one of {', '.join(STATUSES)}, or leave it empty.",
            )
        label = self._class_or_status(answer)
        blank = not answer.clean_label.strip()
        if label in (SKIP, UNSURE, BAD_SAMPLE) and label not in self.names:
            # People put the status into the wrong column, and some tools have labels only.
            status, label, blank = status or label, "", True
        if status == DONE and blank:
            raise DataError(
                f"{self.file}:{answer.row}: the status is done but there is no clean_label "
                f"(sample {_sample_name(answer)}).",
                "Fill in the label, or set the status to skip, unsure or bad_sample.",
            )
        return status or ("" if blank else DONE), label

    def raise_if_unknown(self) -> None:
        """Raise DataError where a label was not a class, with the place of the first and classes that each may mean."""
        if not self.unknown:
            return
        first = self.unknown[0]
        others = len(self.unknown) - 1
        more = f" {counted(others, 'more row has', 'more rows have')} such labels." if others else ""
        raise DataError(
            f"{self.file}:{first.row}: {quoted(first.clean_label.strip())} is not a class "
            f"(sample {_sample_name(first)}).{more} Nothing was imported.",
            " ".join(self._remedies()),
        )

    def _class_or_status(self, answer: Answer) -> str:
        """The class name, or a status; empty for a blank cell, and for a wrong one, which is remembered."""
        cell = answer.clean_label
        if cell not in self.seen:
            candidates = [*self.spellings(cell)] if cell.strip() else [""]
            known = next((each for each in candidates if each in self.names or not each), None)
            if known is None:  # some systems decompose letters: ö is o and a combining mark
                known = next(
                    (self.composed[each] for each in map(_composed, candidates) if each in self.composed),
                    None,
                )
            # A class of that name comes first: "skip" may be a class.
            word = cell.strip().lower()
            if known is None and word in (SKIP, UNSURE, BAD_SAMPLE):
                known = word
            may_add = self.adds and cell.strip() not in MISSING
            if known is None and may_add and class_form(cell).casefold() not in self.folded:
                known = class_form(cell)
            self.seen[cell] = known
        label = self.seen[cell]
        if label is None:
            self.unknown.append(answer)
        return label or ""

    def _remedies(self) -> Iterator[str]:
        """For each unknown label the classes that it may mean, the most frequent first; else a list of the classes."""
        counts = Counter(answer.clean_label.strip() for answer in self.unknown)
        strange = False
        for label, rows in counts.most_common(SHOWN):
            if label in MISSING:
                yield f"{quoted(label)} stands for no answer in many programs: leave such cells empty."
                continue
            same = [name for name in self.classes if name.casefold().strip() == label.casefold()]
            close = same or get_close_matches(label, self.classes, n=3, cutoff=0.6)
            strange = strange or not close
            if close:
                times = f" ({counted(rows, 'row', 'rows')})" if len(counts) > 1 else ""
                meant = " or ".join(quoted(name) for name in close)
                yield f"Did you mean {meant}{f' by {quoted(label)}{times}' if len(counts) > 1 else ''}?"
        if len(counts) > SHOWN:
            yield f"{len(counts) - SHOWN} more names are no classes."
        if strange:
            shown = ", ".join(quoted(name) for name in self.classes[:10])
            yield f"The classes are {shown}{', ...' if len(self.classes) > 10 else ''}; --add-classes adds others."


def _composed(text: str) -> str:
    return normalize("NFC", text)


def _sample_name(answer: Answer) -> str:
    return short(answer.sample_id.strip() or answer.image.strip() or answer.content_hash)
