"""Matching what came back with what went out, so that no answer is lost or misread in silence."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TypeAlias

from metaselect.annotation.formats import Answer
from metaselect.annotation.rounds import Round
from metaselect.annotation.votes import BAD_SAMPLE, DONE, SKIP, STATUSES, UNSURE, Vote
from metaselect.errors import DataError
from metaselect.options import ImportOptions

Spellings: TypeAlias = Callable[[str], Iterable[str]]
"""What a cell may stand for, the likeliest first; every exchange format has its own."""


@dataclass(frozen=True)
class Known:
    """What answers can refer to.

    Attributes:
        rounds: those that the import is about.
        pool_ids: gives all ids; called only when a file has ids that no round has.
        classes: K names.
    """

    rounds: Sequence[Round]
    pool_ids: Callable[[], Container[str]]
    classes: Sequence[str]


@dataclass
class Reconciliation:
    """What became of a file's rows.

    Attributes:
        accepted: one vote per sample and annotator, ordered by both.
        unknown: ids that are not in the pool.
        not_selected: ids of the pool that are in none of the rounds, where only those count.
        conflicting: (sample_id, annotator) with two different answers in the file; neither is accepted.
        blank: rows without an answer yet.
    """

    accepted: list[Vote] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    not_selected: set[str] = field(default_factory=set)
    conflicting: set[tuple[str, str]] = field(default_factory=set)
    blank: int = 0

    def count(self, status: str) -> int:
        """Accepted answers of a status."""
        return sum(answer.status == status for answer in self.accepted)

    def counts(self) -> dict[str, int]:
        """The reconciliation as people read it; answers, or ids where there was no answer to take."""
        return {
            "matched": self.count(DONE),
            "skipped": self.count(SKIP),
            "unsure": self.count(UNSURE),
            "unusable": self.count(BAD_SAMPLE),
            "conflicting": len(self.conflicting),
            "not_selected": len(self.not_selected),
            "unknown": len(self.unknown),
        }


def reconcile(
    answers: Iterable[Answer],
    known: Known,
    spellings: Spellings,
    options: ImportOptions,
    *,
    name: str,
    time: str,
) -> Reconciliation:
    """Sort a file's answers into accepted, conflicting and not usable.

    Args:
        answers: in the order of the file, which bears on nothing but which of two equal answers' notes stays.
        known: rounds, pool and classes.
        spellings: of the format that the answers were read with.
        options: which samples count, and who answered where the file does not say.
        name: the file's name in messages.
        time: when the answers came, for the votes made of them.

    Raises:
        DataError: no id of the file is known, an answer has a class or status that does not exist, or a
            status of done has no label.
    """
    result = Reconciliation()
    places = _Places(known, spellings, result, outside=options.outside_round)
    labels = _Labels(known.classes, spellings)
    found: dict[tuple[str, str], Vote] = {}
    matched_any = False
    for answer in answers:
        sample_id, number = places.find(answer)
        if sample_id is None:
            continue
        matched_any = True
        status, label = _understand(answer, labels, name)
        if not status:
            result.blank += 1
            continue
        vote = Vote(
            sample_id, label, answer.annotator or options.annotator, status, answer.note, number, time
        )
        earlier = found.get(vote.key, vote)
        if (earlier.clean_label, earlier.status) != (label, status):
            result.conflicting.add(vote.key)
        found[vote.key] = vote
    if not matched_any:
        raise _nothing_matched(result, name)
    labels.complain(name)
    result.accepted = [found[key] for key in sorted(found.keys() - result.conflicting)]
    return result


class _Places:
    """Finds the sample and round of an answer, and notes in ``result`` where there is none."""

    def __init__(self, known: Known, spellings: Spellings, result: Reconciliation, *, outside: bool) -> None:
        self.known, self.spellings, self.result, self.outside = known, spellings, result, outside
        self.rounds = {each.batch_id: each for each in known.rounds}
        self.latest = {sample_id: each.number for each in known.rounds for sample_id in each.samples}

    def find(self, answer: Answer) -> tuple[str | None, int]:
        """The sample's id and its round, 0 outside of all; None when the answer cannot be taken."""
        for spelling in self.spellings(answer.sample_id):
            if spelling in self.latest:
                batch = self.rounds.get(answer.batch_id.strip())
                inside = batch is not None and spelling in batch.samples
                return spelling, batch.number if batch and inside else self.latest[spelling]
        pool = self.known.pool_ids()
        for spelling in self.spellings(answer.sample_id):
            if spelling in pool:
                if self.outside:
                    return spelling, 0
                self.result.not_selected.add(spelling)
                return None, 0
        self.result.unknown.add(answer.sample_id.strip())
        return None, 0


class _Labels:
    """Turns cells into class names, and collects those that are none."""

    def __init__(self, classes: Sequence[str], spellings: Spellings) -> None:
        self.classes = classes
        self.names = frozenset(classes)
        self.spellings = spellings
        self.seen: dict[str, str | None] = {}
        self.wrong: list[Answer] = []

    def find(self, answer: Answer) -> str:
        """The class name; empty for a blank cell, and for a wrong one, which is remembered."""
        cell = answer.clean_label
        if cell not in self.seen:
            candidates = self.spellings(cell) if cell.strip() else ("",)
            self.seen[cell] = next(
                (spelling for spelling in candidates if spelling in self.names or not spelling), None
            )
        label = self.seen[cell]
        if label is None:
            self.wrong.append(answer)
        return label or ""

    def complain(self, name: str) -> None:
        """Raise for the first wrong label, if there was one."""
        if not self.wrong:
            return
        first = self.wrong[0]
        others = len(self.wrong) - 1
        more = f" {others} more rows have such labels." if others else ""
        raise DataError(
            f"{name}:{first.row}: {first.clean_label.strip()!r} is not a class (sample "
            f"{first.sample_id.strip()}).{more} Nothing was imported.",
            self._remedy(first.clean_label.strip()),
        )

    def _remedy(self, label: str) -> str:
        same = [name for name in self.classes if name.casefold().strip() == label.casefold()]
        close = same or get_close_matches(label, self.classes, n=3, cutoff=0.6)
        if close:
            return f"Did you mean {' or '.join(repr(name) for name in close)}?"
        shown = ", ".join(repr(name) for name in self.classes[:10])
        return f"The classes are {shown}{', ...' if len(self.classes) > 10 else ''}."


def _understand(answer: Answer, labels: _Labels, name: str) -> tuple[str, str]:
    """Status and label of an answer; an empty status where there is no answer yet."""
    status = answer.status.lower()
    if status and status not in STATUSES:
        raise DataError(
            f"{name}:{answer.row}: there is no status {answer.status!r} (sample {answer.sample_id.strip()}).",
            f"Use one of {', '.join(STATUSES)}, or leave it empty.",
        )
    label = labels.find(answer)
    blank = not answer.clean_label.strip()
    if status == DONE and blank:
        raise DataError(
            f"{name}:{answer.row}: the status is done but there is no clean_label "
            f"(sample {answer.sample_id.strip()}).",
            "Fill in the label, or set the status to skip, unsure or bad_sample.",
        )
    return status or ("" if blank else DONE), label


def _nothing_matched(result: Reconciliation, name: str) -> DataError:
    if result.not_selected:
        return DataError(
            f"{name}: none of its {len(result.not_selected)} samples of the pool is in the round.",
            "Add --outside-round to take labels of samples that were not selected.",
        )
    if not result.unknown:
        return DataError(f"{name} has no rows.", "It must have one row per labelled sample.")
    example = min(result.unknown)
    return DataError(
        f"{name}: none of its {len(result.unknown)} ids is known, for example {example!r}.",
        "Is this the right --run? The column sample_id must hold the ids that annotate export wrote.",
    )
