"""Counts of answers and rounds, for the tables, the warnings and the JSON output of the commands."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from metaselect.annotation.consensus import TIED, Verdict
from metaselect.annotation.ledger import Ledger
from metaselect.annotation.matching.reconcile import Reconciliation
from metaselect.annotation.quality.agreement import Agreement, agreement
from metaselect.annotation.quality.noise_estimate import NoiseEstimate
from metaselect.annotation.rounds import Round
from metaselect.annotation.votes import BAD_SAMPLE, DONE, SKIP, STATUSES, UNSURE
from metaselect.records import Json
from metaselect.text import examples, short


def import_result(
    ledger: Ledger,
    found: Reconciliation,
    chosen: Sequence[Round],
    *,
    new_votes: int,
    noise: NoiseEstimate | None,
) -> dict[str, Json]:
    """The JSON output of `annotate import`.

    Args:
        ledger: after the import.
        found: the reconciled rows of the file.
        chosen: the rounds of the import.
        new_votes: accepted answers that did not count yet.
        noise: the estimate from the control samples.

    Returns:
        Counts of answers (matched to conflicting, repeated, replaced, new_votes), of rows (other_batch), of ids
        (mismatched, changed, unknown, not_selected; matched_by: found by another way than the id) and of samples
        (missing: selected and still without an answer; tied; bought: with a clean label, in the whole run), and lists.
    """
    unmatched = found.unmatched
    missing = {sample_id for each in chosen for sample_id in each.unanswered_ids(ledger.verdicts)}
    selected = {sample_id for each in chosen for sample_id in each.samples}
    conflicts: list[Json] = [
        {"sample_id": sample_id, "annotator": annotator} for sample_id, annotator in sorted(found.conflicting)
    ]
    return {
        **found.counts(),
        "repeated": 0,
        "replaced": 0,
        "missing": len(missing),
        "tied": sum(
            verdict.status == TIED for sample_id, verdict in ledger.verdicts.items() if sample_id in selected
        ),
        "new_votes": new_votes,
        "bought": count_with_status(ledger.verdicts, DONE),
        "matched_by": {"image": len(unmatched.by_name), "content_hash": len(unmatched.by_content_hash)},
        "conflicts": conflicts,
        "unknown_ids": list(sorted(unmatched.unknown)),
        "likely_ids": dict(sorted(found.likely.items())),
        "not_selected_ids": list(sorted(unmatched.not_selected)),
        "mismatched_ids": list(sorted(unmatched.mismatched)),
        "changed_ids": list(sorted(unmatched.changed)),
        "other_batches": dict(sorted(unmatched.other_batches.items())),
        "noise_estimate": noise and noise._asdict(),
    }


def import_warnings(found: Reconciliation, result: Mapping[str, Json], name: str) -> Iterator[str]:
    """A sentence for each problem of an imported file that the user should look at."""
    if found.conflicting:
        pairs = [f"{short(sample_id)} by {annotator}" for sample_id, annotator in sorted(found.conflicting)]
        yield f"{name} answers twice and differently: {examples(pairs)}. Neither answer was taken."
    changed = result.get("classes_changed")
    if isinstance(changed, list) and changed:
        yield f"The run had other classes when batch {examples([str(each) for each in changed])} went out."
    unmatched = found.unmatched
    if unmatched.mismatched:
        ids = examples(sorted(unmatched.mismatched))
        yield (
            f"Rows that name the image or content of another sample, not taken: {ids}. "
            "Was one column sorted without the others? If the ids are right, leave out the other column."
        )
    if unmatched.changed:
        yield f"Samples whose content changed since they went out, not taken: {examples(sorted(unmatched.changed))}."
    if unmatched.other_batches:
        yield (
            f"Rows of a batch that is none of this run, not taken: {examples(sorted(unmatched.other_batches))}. "
            "Without the column batch_id they are matched by id alone."
        )
    if unmatched.replaced_ids:
        yield f"Unknown ids whose image or content is known, taken by that: {examples(sorted(unmatched.replaced_ids))}."
    if unmatched.unknown:
        yield f"Ids that are not in the pool, or images that never went out: {examples(sorted(unmatched.unknown))}."
    if found.likely:
        pairs = [
            f"{short(spoilt)} for {short(sample_id)}" for spoilt, sample_id in sorted(found.likely.items())
        ]
        yield f"A spreadsheet may have written {examples(pairs)}; import the column as text."
    if unmatched.not_selected:
        listed = examples(sorted(unmatched.not_selected))
        yield f"Not selected, so not taken: {listed}. --outside-round takes them."
    if not found.accepted and not found.conflicting and not result["repeated"]:
        yield f"{name} holds no answer yet."
    if result["tied"]:
        yield f"Samples with as many votes for one answer as for another: {result['tied']}."


class RoundProgress(NamedTuple):
    """The progress of a round in samples; answered to missing add up to selected.

    Attributes:
        round: its number.
        selected: all of it.
        answered: with a clean label.
        skipped: with skips only.
        unsure: with no answer, and at least one "unsure".
        unusable: bad samples.
        conflicts: as many votes for one answer as for another.
        missing: without a vote since the selection.
        exported: whether a form was exported.
    """

    round: int
    selected: int
    answered: int
    skipped: int
    unsure: int
    unusable: int
    conflicts: int
    missing: int
    exported: bool


@dataclass(frozen=True)
class Progress:
    """The output of `annotate status`.

    Attributes:
        rounds: the earliest first.
        bought: samples with a clean label.
        unusable: samples that annotators called unusable.
        outside_round: samples with votes that belong to no round.
        annotators: answers of each status by annotator.
        noise: the estimate from the control samples; None where there are none.
        method: how votes become a consensus.
        conflict_ids: tied samples, sorted.
        agreement: of annotators with each other, the consensus, and themselves.
    """

    rounds: Sequence[RoundProgress]
    bought: int
    unusable: int
    outside_round: int
    annotators: Mapping[str, Mapping[str, int]]
    noise: NoiseEstimate | None
    method: str
    conflict_ids: Sequence[str]
    agreement: Agreement

    def as_json(self) -> dict[str, Json]:
        """The fields as JSON values."""
        return {
            "rounds": [each._asdict() for each in self.rounds],
            "bought": self.bought,
            "unusable": self.unusable,
            "outside_round": self.outside_round,
            "annotators": {name: dict(counts) for name, counts in self.annotators.items()},
            "noise_estimate": self.noise and self.noise._asdict(),
            "consensus": self.method,
            "conflict_ids": list(self.conflict_ids),
            "agreement": self.agreement.as_json(),
        }


def progress(ledger: Ledger, rounds: Sequence[Round], noise: NoiseEstimate | None) -> Progress:
    """The progress of every round, and the votes of each annotator."""
    annotators: dict[str, dict[str, int]] = {}
    for vote in ledger.latest.values():
        annotators.setdefault(vote.annotator, dict.fromkeys(STATUSES, 0))[vote.status] += 1
    again = [  # votes for blind repeats of annotators who answered the first showing too
        (vote, ledger.sample_of_repeat[vote.sample_id])
        for vote in ledger.latest_with_repeats.values()
        if (ledger.sample_of_repeat.get(vote.sample_id, ""), vote.annotator) in ledger.latest_with_repeats
    ]
    return Progress(
        [_round_progress(each, ledger) for each in rounds],
        count_with_status(ledger.verdicts, DONE),
        count_with_status(ledger.verdicts, BAD_SAMPLE),
        len({vote.sample_id for vote in ledger.latest.values() if vote.round == 0}),
        {name: annotators[name] for name in sorted(annotators)},
        noise,
        ledger.method,
        [sample_id for sample_id, verdict in ledger.verdicts.items() if verdict.status == TIED],
        agreement(ledger.latest, ledger.verdicts, again),
    )


def _round_progress(each: Round, ledger: Ledger) -> RoundProgress:
    missing = set(each.unanswered_ids(ledger.verdicts))  # a skip counts as answered until the next round
    found = [ledger.verdicts[sample_id].status for sample_id in each.samples if sample_id not in missing]
    return RoundProgress(
        round=each.number,
        selected=len(each.samples),
        answered=found.count(DONE),
        skipped=found.count(SKIP),
        unsure=found.count(UNSURE),
        unusable=found.count(BAD_SAMPLE),
        conflicts=found.count(TIED),
        missing=len(missing),
        exported=each.number in ledger.exported_rounds,
    )


def count_with_status(verdicts: Mapping[str, Verdict], wanted: str) -> int:
    """The number of samples with that verdict."""
    return sum(verdict.status == wanted for verdict in verdicts.values())
