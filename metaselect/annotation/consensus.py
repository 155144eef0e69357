"""What people say together: the latest vote of each annotator counts, and the most votes win."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from metaselect.annotation.votes import BAD_SAMPLE, DONE, UNSURE, WITHDRAWN, Vote
from metaselect.run.files import format_csv

TIED = "tied"
BOUGHT = (DONE, BAD_SAMPLE, TIED)
"""What was paid for and answered; `skip` and `unsure` samples stay in the noisy pool."""
META_SET_HEADER = ("sample_id", "clean_label")


class Verdict(NamedTuple):
    """What the votes for one sample come to.

    Attributes:
        status: "done", "bad_sample", "tied" (two answers with as many votes), "unsure" or "skip".
        clean_label: the class name where the status is done, else empty.
        round: the latest round in which anybody voted; 0 for votes outside of all rounds.
    """

    status: str
    clean_label: str
    round: int


def latest_votes(votes: Iterable[Vote]) -> dict[tuple[str, str], Vote]:
    """The last vote of each annotator for each sample, by (sample_id, annotator); not where it was withdrawn."""
    latest = {vote.key: vote for vote in votes}
    return {key: vote for key, vote in latest.items() if vote.status != WITHDRAWN}


def verdicts(latest: Mapping[tuple[str, str], Vote]) -> dict[str, Verdict]:
    """One verdict per sample that has a vote, ordered by sample_id."""
    by_sample = attrgetter("sample_id")
    ordered = sorted(latest.values(), key=by_sample)
    return {sample_id: _verdict(list(votes)) for sample_id, votes in groupby(ordered, key=by_sample)}


def meta_set_text(found: Mapping[str, Verdict]) -> str:
    """``meta_set.csv``: sorted by sample_id; an unusable sample has an empty label, a tie has no row."""
    rows = (
        (sample_id, verdict.clean_label)
        for sample_id, verdict in sorted(found.items())
        if verdict.status in (DONE, BAD_SAMPLE)
    )
    return format_csv(META_SET_HEADER, rows)


@lru_cache(maxsize=4096)
def _sole_verdict(status: str, clean_label: str, number: int) -> Verdict:
    """The verdict of one vote; nearly all samples have no more, and share these few objects."""
    return Verdict(status, clean_label if status == DONE else "", number)


def _verdict(votes: Sequence[Vote]) -> Verdict:
    if len(votes) == 1:
        return _sole_verdict(votes[0].status, votes[0].clean_label, votes[0].round)
    latest_round = max(vote.round for vote in votes)
    # "Unusable" is one more answer beside the classes; skipping and being unsure are none.
    counts = Counter(
        (vote.status, vote.clean_label if vote.status == DONE else "")
        for vote in votes
        if vote.status in (DONE, BAD_SAMPLE)
    )
    if not counts:
        unsure = any(vote.status == UNSURE for vote in votes)
        return Verdict(UNSURE if unsure else "skip", "", latest_round)
    (winner, most), *others = counts.most_common(2)
    if others and others[0][1] == most:
        return Verdict(TIED, "", latest_round)
    return Verdict(winner[0], winner[1], latest_round)
