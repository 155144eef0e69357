"""Agreement of annotators with each other, with the consensus, and with their own earlier answers.

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
    """The answers of one annotator, compared with the consensus and with their own repeats.

    Attributes:
        confusion: consensus -> answer -> number of samples, of those with several annotators and a consensus.
        repeated: samples that were answered again as a blind repeat.
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
        """Samples on its diagonal: answered as the consensus."""
        return sum(row[consensus] for consensus, row in self.confusion.items())

    @property
    def worst(self) -> str:
        """The most frequent confusion as text: "cat as dog (3)"; empty without one."""
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
    """Agreement of all annotators.

    Attributes:
        alpha: Krippendorff's alpha, at most 1; 0 is agreement by chance; None while all answers are the same.
        samples: with answers of two annotators or more, which alpha is computed from.
        annotators: by name, sorted.
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
    """The agreement of the votes that count; "skip" and "unsure" are not answers.

    Args:
        latest: the votes that count, by sample and annotator.
        verdicts: their consensus by sample.
        repeats: votes for blind repeats, each with its sample's id.
    """
    skills = {name: AnnotatorSkill() for name in sorted({vote.annotator for vote in latest.values()})}
    units = []
    answered = sorted(
        (vote.sample_id, vote.annotator, answer) for vote in latest.values() if (answer := answer_of(vote))
    )
    for sample_id, group in groupby(answered, key=lambda each: each[0]):
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
        At most 1; None where all answers are the same, so that the expected disagreement is 0.
    """
    totals: Counter[Hashable] = Counter()
    observed = []
    for unit in units:
        counts = Counter(unit)
        if len(unit) > 1:
            totals.update(counts)
            observed.append(_unequal_pairs(counts) / (len(unit) - 1))  # each unit weighs by its answers
    expected = _unequal_pairs(totals)
    # alpha = 1 - D_o / D_e, where D_o = sum(observed) / N and D_e = expected / (N (N - 1)).
    return 1 - (totals.total() - 1) * fsum(observed) / expected if expected else None


def _unequal_pairs(counts: Counter[Hashable]) -> int:
    """Ordered pairs of different answers."""
    return counts.total() ** 2 - sum(count**2 for count in counts.values())


def _name(status: str, clean_label: str) -> str:
    return clean_label if status == DONE else UNUSABLE
