"""How far people agree: with each other, with the consensus, and with themselves.

Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", Annenberg School for Communication: section C,
nominal data, any number of observers, missing data.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import fsum

from metaselect.annotation.consensus import Verdict, answer_of
from metaselect.annotation.votes import BAD_SAMPLE, DONE, Vote
from metaselect.records import Json

UNUSABLE = f"({BAD_SAMPLE})"


@dataclass
class AnnotatorSkill:
    """How one annotator answers.

    Attributes:
        confusion: consensus -> answer -> samples, of those that others answered too and that have a consensus.
        repeated: samples that were answered twice, unnoticed.
        repeated_same: those of them that got the same answer.
    """

    confusion: dict[str, Counter[str]] = field(default_factory=dict)
    repeated: int = 0
    repeated_same: int = 0

    @property
    def compared(self) -> int:
        """Samples in the confusion matrix."""
        return sum(sum(row.values()) for row in self.confusion.values())

    @property
    def same(self) -> int:
        """Those on its diagonal."""
        return sum(row[consensus] for consensus, row in self.confusion.items())

    @property
    def worst(self) -> str:
        """The most frequent confusion, as people read it; empty without one."""
        wrong = [
            (-times, consensus, answer)
            for consensus, row in self.confusion.items()
            for answer, times in row.items()
            if answer != consensus
        ]
        if not wrong:
            return ""
        times, consensus, answer = min(wrong)
        return f"{consensus} as {answer} ({-times})"


@dataclass(frozen=True)
class Agreement:
    """How far all agree.

    Attributes:
        alpha: Krippendorff's; 1 is full agreement, 0 that of chance; None while no two answers can differ.
        samples: answered by two or more; alpha is theirs.
        annotators: by name, in its order.
    """

    alpha: float | None
    samples: int
    annotators: Mapping[str, AnnotatorSkill]

    def as_json(self) -> dict[str, Json]:
        """The fields as JSON values; unusable samples are "(bad_sample)" in the confusion."""
        people: dict[str, Json] = {
            name: {
                "compared": each.compared,
                "same": each.same,
                "repeated": each.repeated,
                "repeated_same": each.repeated_same,
                "confusion": {
                    row: dict(sorted(each.confusion[row].items())) for row in sorted(each.confusion)
                },
            }
            for name, each in self.annotators.items()
        }
        return {"alpha": self.alpha, "samples": self.samples, "annotators": people}


def agreement(
    latest: Mapping[tuple[str, str], Vote],
    verdicts: Mapping[str, Verdict],
    repeats: Iterable[tuple[Vote, str]] = (),
) -> Agreement:
    """How far the votes that count agree; skipping and being unsure are no answers.

    Args:
        latest: those votes.
        verdicts: what they come to.
        repeats: votes for blind repeats, each with the sample that it is about.
    """
    skills = {name: AnnotatorSkill() for name in sorted({vote.annotator for vote in latest.values()})}
    units = []
    said = sorted(
        (vote.sample_id, vote.annotator, answer) for vote in latest.values() if (answer := answer_of(vote))
    )
    for sample_id, group in groupby(said, key=lambda each: each[0]):
        answers = [(annotator, _name(*answer)) for _, annotator, answer in group]
        if len(answers) < 2:
            continue
        units.append([name for _, name in answers])
        verdict = verdicts[sample_id]
        if verdict.status in (DONE, BAD_SAMPLE):
            consensus = _name(verdict.status, verdict.clean_label)
            for annotator, name in answers:
                skills[annotator].confusion.setdefault(consensus, Counter())[name] += 1
    for vote, sample_id in repeats:
        first = latest.get((sample_id, vote.annotator))
        if first is not None and answer_of(first) and answer_of(vote):
            skills[vote.annotator].repeated += 1
            skills[vote.annotator].repeated_same += answer_of(first) == answer_of(vote)
    return Agreement(alpha(units), len(units), skills)


def alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha of nominal data.

    Args:
        units: the answers to each; those with fewer than two do not count.

    Returns:
        At most 1; None where every answer is the same, so that nothing says whether people could have differed.
    """
    totals: Counter[Hashable] = Counter()
    observed = []
    for unit in units:
        counts = Counter(unit)
        if len(unit) > 1:
            totals.update(counts)
            observed.append(_unequal_pairs(counts) / (len(unit) - 1))
    expected = _unequal_pairs(totals)
    return 1 - (totals.total() - 1) * fsum(observed) / expected if expected else None


def _unequal_pairs(counts: Counter[Hashable]) -> int:
    """Ordered pairs of different answers."""
    return counts.total() ** 2 - sum(count**2 for count in counts.values())


def _name(status: str, clean_label: str) -> str:
    return clean_label if status == DONE else UNUSABLE
