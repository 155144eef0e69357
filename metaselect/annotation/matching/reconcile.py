"""Turns the answers of a file into votes, and counts every answer that is not taken."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from metaselect.annotation.consensus import contradicts
from metaselect.annotation.formats.base import Answer
from metaselect.annotation.matching.labels import LabelParser, Spellings
from metaselect.annotation.matching.matcher import AnswerMatcher, ImportScope, Unmatched
from metaselect.annotation.votes import BAD_SAMPLE, DONE, SKIP, UNSURE, Vote, sorted_votes
from metaselect.errors import DataError
from metaselect.options import ImportOptions
from metaselect.text import annotator_form, quoted, short, visible_lines

EXAMPLES = 3


@dataclass
class Reconciliation:
    """The rows of a file by what was done with them.

    Attributes:
        accepted: one vote per sample and annotator, ordered by both.
        unmatched: answers that could not be taken, by reason.
        likely: unknown id -> the id that a spreadsheet may have changed into it; a hint only.
        conflicting: (sample_id, annotator) with two different answers in the file; neither is accepted.
        blank: rows without an answer yet.
    """

    accepted: list[Vote] = field(default_factory=list)
    unmatched: Unmatched = field(default_factory=Unmatched)
    likely: dict[str, str] = field(default_factory=dict)
    conflicting: set[tuple[str, str]] = field(default_factory=set)
    blank: int = 0

    def counts(self) -> dict[str, int]:
        """The counts of the reconciliation table; of answers, or of ids where no answer was taken."""
        accepted = Counter(vote.status for vote in self.accepted)
        return {
            "matched": accepted[DONE],
            "skipped": accepted[SKIP],
            "unsure": accepted[UNSURE],
            "unusable": accepted[BAD_SAMPLE],
            "conflicting": len(self.conflicting),
            "mismatched": len(self.unmatched.mismatched),
            "changed": len(self.unmatched.changed),
            "other_batch": self.unmatched.other_batches.total(),
            "not_selected": len(self.unmatched.not_selected),
            "unknown": len(self.unmatched.unknown),
        }


def reconcile(
    answers: Sequence[Answer],
    scope: ImportScope,
    spellings: Spellings,
    options: ImportOptions,
    *,
    name: str,
    time: str,
) -> Reconciliation:
    """Sort a file's answers into accepted, conflicting and not usable.

    Args:
        answers: in the order of the file; the order decides only which note of two equal answers is kept.
        scope: rounds, pool, classes and exported samples.
        spellings: of the format that the answers were read with.
        options: whether samples outside of the rounds count, and the annotator where the file names none.
        name: the file's name in messages.
        time: when the answers came, for the votes made of them.

    Raises:
        DataError: no answer can be matched, one has a class or status that does not exist, or a status of
            done has no label.
    """
    matcher = AnswerMatcher(scope, spellings, answers, outside=options.outside_round)
    result = Reconciliation(unmatched=matcher.unmatched)
    parser = LabelParser(scope.classes, spellings, name, adds=options.add_classes)
    votes: dict[tuple[str, str], Vote] = {}
    matched_any = False
    for answer in answers:
        sample_id, number = matcher.match(answer)
        if sample_id is None:  # counted in matcher.unmatched
            continue
        matched_any = True
        status, label = parser.parse(answer)
        if not status:
            result.blank += 1
            continue
        vote = Vote(
            sample_id,
            label,
            annotator_form(answer.annotator or options.annotator),
            status,
            visible_lines(answer.note),
            number,
            time,
        )
        key = vote.key
        earlier = votes.get(key)
        if contradicts(earlier, vote):
            result.conflicting.add(key)
        votes[key] = vote  # of equal answers the last one's note is kept
    result.likely = matcher.likely_ids() if matcher.unmatched.unknown else {}
    if not matched_any:
        raise _nothing_matched_error(result, name)
    parser.raise_if_unknown()  # after all rows, so that the message counts every unknown label
    result.accepted = sorted_votes(vote for key, vote in votes.items() if key not in result.conflicting)
    return result


def _nothing_matched_error(result: Reconciliation, name: str) -> DataError:
    unmatched = result.unmatched
    if unmatched.not_selected:
        return DataError(
            f"{name}: none of its {len(unmatched.not_selected)} samples of the pool is in the round.",
            "Add --outside-round to take labels of samples that were not selected.",
        )
    if unmatched.other_batches:
        batches = ", ".join(map(short, sorted(unmatched.other_batches)[:EXAMPLES]))
        return DataError(
            f"{name} is of another run or choice: its batch {batches} is none of this run.",
            "Name the --run that made the form. Without the column batch_id, samples are matched by id alone.",
        )
    if unmatched.mismatched or unmatched.changed:
        return DataError(
            f"{name}: every row names the image or content of another sample, or content that changed since.",
            "Was one column sorted without the others, or was other data ingested since? If the ids are right, and the "
            "images have other names, leave out the column of images.",
        )
    if not unmatched.unknown:
        return DataError(f"{name} has no rows.", "It must have one row per labelled sample.")
    example = min(unmatched.unknown)
    guess = (
        f" It may have been {quoted(result.likely[example])}, spoilt by a spreadsheet."
        if example in result.likely
        else ""
    )
    return DataError(
        f"{name}: none of its {len(unmatched.unknown)} ids is known, for example {quoted(example)}.{guess}",
        "Is this the right --run? Answers are found by the sample_id that annotate export wrote, or by the name "
        "or content of an image that went out.",
    )
