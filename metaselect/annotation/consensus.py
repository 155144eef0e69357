"""Which answer counts where a sample has several, and what ``meta_set.csv`` says.

- Two different answers of one annotator in one file: neither is taken (``contradicts``).
- A later answer of the same annotator: it replaces the earlier one (``latest_votes``). The labelling page is stricter:
  it refuses a second, different answer of the same annotator in a round, until undo (``web/labeling_session.py``).
- Answers of several annotators: one method combines them (``aggregate_votes``). ``majority``: the answer with the most
  votes; two with as many are a tie, and a tie has no label (``majority_vote``). ``dawid-skene``: the most probable
  answer, with the error rates of each annotator estimated from all votes; for several annotators of different
  reliability with some dozens of votes each (``most_probable_answers``).
- What an undo takes back: ``annotation.undo``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from metaselect.annotation.votes import BAD_SAMPLE, DONE, UNSURE, WITHDRAWN, Vote, sorted_votes
from metaselect.errors import ArtefactError
from metaselect.run.artefacts import META_SET
from metaselect.run.files import read_json
from metaselect.run.tables import format_rows

TIED = "tied"
BOUGHT = (DONE, BAD_SAMPLE, TIED)
"""Statuses of samples that count as bought; `skip` and `unsure` samples stay in the noisy pool."""
MAJORITY, DAWID_SKENE = "majority", "dawid-skene"
METHODS = (MAJORITY, DAWID_SKENE)
TIE_TOLERANCE = 1e-9  # probabilities that differ by less are a tie


class Verdict(NamedTuple):
    """The consensus of the votes for one sample.

    Attributes:
        status: "done", "bad_sample", "tied" (two answers with as many votes, or as likely), "unsure" or "skip".
        clean_label: the class name where the status is done, else empty.
        round: the latest round of its votes; 0 for votes outside of all rounds.
    """

    status: str
    clean_label: str
    round: int


def contradicts(earlier: Vote | None, later: Vote) -> bool:
    """Whether an annotator answers a sample twice and differently; in one file, neither of the two is then taken."""
    return earlier is not None and earlier.answer != later.answer


def latest_votes(votes: Iterable[Vote]) -> dict[tuple[str, str], Vote]:
    """The last vote of each annotator for each sample, by (sample_id, annotator); not where it was withdrawn."""
    latest = {vote.key: vote for vote in votes}
    for key in [key for key, vote in latest.items() if vote.status == WITHDRAWN]:
        del latest[key]
    return latest


def read_consensus_method(path: Path) -> str:
    """The method that ``consensus.json`` names; majority where there is none.

    Raises:
        ArtefactError: it names none.
    """
    if not path.is_file():
        return MAJORITY
    remedy = "Choose again: delete it, then metaselect annotate consensus --method METHOD."
    choice = read_json(path, remedy)
    if not isinstance(choice, dict) or choice.get("method") not in METHODS:
        raise ArtefactError(f"{path} is damaged: it names none of {', '.join(METHODS)}.", remedy)
    return str(choice["method"])


def answer_of(vote: Vote) -> tuple[str, str] | None:
    """Status and class name of an answer; "unusable" is an answer too, "skip" and "unsure" are none."""
    if vote.status == DONE:
        return _answer(DONE, vote.clean_label)
    return _answer(BAD_SAMPLE, "") if vote.status == BAD_SAMPLE else None


def aggregate_votes(latest: Mapping[tuple[str, str], Vote], method: str = MAJORITY) -> dict[str, Verdict]:
    """One verdict per sample that has a vote, ordered by sample_id.

    Args:
        latest: the votes that count.
        method: one of ``METHODS``.
    """
    ordered = sorted_votes(latest.values())
    by_sample = groupby(ordered, key=attrgetter("sample_id"))
    groups = ((sample_id, list(votes)) for sample_id, votes in by_sample)
    if method == MAJORITY:
        return {sample_id: majority_vote(votes) for sample_id, votes in groups}
    likely = most_probable_answers(ordered)
    return {sample_id: _verdict(votes, likely.get(sample_id, ())) for sample_id, votes in groups}


def most_probable_answers(votes: Sequence[Vote]) -> dict[str, list[tuple[str, str]]]:
    """The most probable answers by Dawid and Skene, more than one where they tie; only of answered samples.

    Args:
        votes: by sample and annotator, an order that rounding depends on.
    """
    # Imported here: it needs numpy, and a majority does not.
    from metaselect.annotation.dawid_skene import dawid_skene, integer_codes

    answered = [vote for vote in votes if answer_of(vote)]
    if not answered:
        return {}
    samples, sample = integer_codes([vote.sample_id for vote in answered])  # n ids, (V,)
    _, annotator = integer_codes([vote.annotator for vote in answered])
    answers, answer = integer_codes([each for vote in answered if (each := answer_of(vote))])
    probs = dawid_skene(sample, annotator, answer)  # (n, A)
    best = probs >= probs.max(1, keepdims=True) - TIE_TOLERANCE
    rows: list[list[tuple[str, str]]] = [[] for _ in samples]
    for row, answer in zip(*best.nonzero(), strict=True):
        rows[row].append(answers[answer])
    return dict(zip(samples, rows, strict=True))


def meta_set_text(verdicts: Mapping[str, Verdict]) -> str:
    """The text of ``meta_set.csv``, sorted by sample_id; an unusable sample has an empty label, a tie has no row."""
    rows = (
        (sample_id, verdict.clean_label)
        for sample_id, verdict in sorted(verdicts.items())
        if verdict.status in (DONE, BAD_SAMPLE)
    )
    return format_rows(META_SET, rows)


@lru_cache(maxsize=4096)
def _answer(status: str, clean_label: str) -> tuple[str, str]:
    """One shared object for equal answers, of which a million votes have few."""
    return status, clean_label


@lru_cache(maxsize=4096)
def _verdict_of_one_vote(status: str, clean_label: str, number: int) -> Verdict:
    """The verdict of a single vote; most samples have one, so that the few different verdicts are shared."""
    return Verdict(status, clean_label if status == DONE else "", number)


def majority_vote(votes: Sequence[Vote]) -> Verdict:
    """The verdict by the most votes, of the votes that count for one sample; TIED where two answers have as many."""
    if len(votes) == 1:
        return _verdict_of_one_vote(votes[0].status, votes[0].clean_label, votes[0].round)
    answers = [answer for vote in votes if (answer := answer_of(vote))]
    if len({*answers}) == 1:  # most samples; counting takes ten times as long
        return _verdict(votes, answers[:1])
    counts = Counter(answers)
    most = max(counts.values(), default=0)
    return _verdict(votes, [answer for answer, count in counts.items() if count == most])


def _verdict(votes: Sequence[Vote], best: Sequence[tuple[str, str]]) -> Verdict:
    """The verdict where ``best`` are the answers that win."""
    latest_round = max(map(attrgetter("round"), votes))
    if not best:
        unsure = any(vote.status == UNSURE for vote in votes)
        return Verdict(UNSURE if unsure else "skip", "", latest_round)
    return Verdict(*best[0], latest_round) if len(best) == 1 else Verdict(TIED, "", latest_round)
