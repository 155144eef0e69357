"""fanout: the label that was bought for a sample offered to the other samples of its cluster. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from metaselect.annotation.quality.noise_estimate import wilson
from metaselect.annotation.rounds import Round, rounds
from metaselect.data_options import FanoutOptions
from metaselect.errors import ConditionUnmet
from metaselect.options import key_options
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import (
    CLUSTERS,
    CROSS_FIT,
    FANOUT,
    ISSUES,
    META_SET,
)
from metaselect.run.evaluation_artefacts import OFFERS, REVIEW
from metaselect.run.inputs import inputs_of
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet, read_records, write_parquet, write_rows
from metaselect.stages.export.reweighting_choice import reweighting_with_issues
from metaselect.text import spreadsheet_cell

WITHOUT = "without --accept the offers are made, and none is accepted."
FEWEST_CHECKED = 10  # bought labels above the limit, without which nothing is accepted


class Offer(NamedTuple):
    """A bought label that is offered to a sample; the columns of ``offers.parquet``.

    Attributes:
        sample_id: to which it is offered.
        pick: the bought sample of the same cluster.
        round: whose clusters they are.
        label: the bought label of the pick.
        given_label: of the sample; None where it has none.
        similarity: of the sample to the centre of the cluster, as in ``clusters.parquet``.
        model_agrees: whether the re-weighting suggests this label too.
        risk: 1 less the probability of the label by the re-weighting; 1 where it suggests another.
        accepted: whether the risk is small enough.
    """

    sample_id: str
    pick: str
    round: int
    label: str
    given_label: str | None
    similarity: float
    model_agrees: bool
    risk: float
    accepted: bool


class Checked(NamedTuple):
    """How often suggestions of so high a probability were right on bought labels that no model had seen.

    Attributes:
        labels: bought labels with such a suggestion.
        right: how many of these were right.
        changed: labels of these whose suggestion is not the given label.
        changed_right: how many of these were right.
        low: lower limit of the 95 % interval of the share (Wilson 1927); None without labels.
        high: upper limit.
    """

    labels: int
    right: int
    changed: int
    changed_right: int
    low: float | None
    high: float | None


def fanout(run: Run, options: FanoutOptions, report: Reporter) -> Outcome:
    """Offer every bought label to the members of its sample's cluster that have none, and accept what is sure enough.

    Raises:
        ConditionUnmet: no round has clusters, or --accept could not be checked on enough bought labels.
        UsageError: no re-weighting of that name, or several to choose from.
        ArtefactError: no re-weighting, or one that is stale, damaged or older than its list of issues.
    """
    with run.lock():
        name = reweighting_with_issues(run, options.name)
        found = rounds(run)
        files = [META_SET.path(), ISSUES.path(name=name)]
        has_comparison = run.path(CROSS_FIT.path(name=name)).is_file()
        files += [CROSS_FIT.path(name=name)] * has_comparison
        stage = run.stage(FANOUT.name())
        # Answers do not make the rounds stale that were asked about, though later ones follow from them.
        clusters = inputs_of(run, *(CLUSTERS.path(number=each.number) for each in found), stale_ok=True)
        key = StageKey({**key_options(options), "name": name}, {**inputs_of(run, *files), **clusters})
        if not stage.is_current(key, report, force=options.force):
            with stage.working(key, report) as work:
                limit = options.accept
                checked = None
                if limit is not None:
                    checked = check(read_records(run, CROSS_FIT, name=name) if has_comparison else (), limit)
                    _require_checked(checked, limit)
                offers = list(_offers(run, name, found, limit))
                columns = zip(*offers, strict=True) if offers else ([] for _ in Offer._fields)
                write_parquet(work.folder / OFFERS.within(), OFFERS, _arrays(columns))
                doubtful = to_review(offers)
                write_rows(work.folder / REVIEW.within(), REVIEW, map(_review_row, doubtful))
                work.details["result"] = {
                    **summary(offers),
                    "to_review": len(doubtful),
                    "name": name,
                    "checked": checked and checked._asdict(),
                }
        return Outcome({"run": str(run.root), **stage.require().details["result"]})


def check(rows: Sequence[Mapping[str, str]], limit: float) -> Checked:
    """How often suggestions of at least this probability were right on bought labels.

    A model's probability of a wrong suggestion is in the table where that is the given label. Elsewhere it is what the
    clean and the given label leave, at most, and counts as that much, so that the share is not flattered.

    Args:
        rows: of ``cross_fit.csv``, as text.
        limit: in [0, 1].
    """
    labels = right = changed = changed_right = 0
    for row in rows:
        clean, predicted = row["clean_label"], row["method_predicted"]
        if not clean:
            continue
        probs = {name: float(prob) for name, prob in _known_probs(row) if prob}
        if probs.get(predicted, 1 - sum(probs.values())) >= limit:
            labels += 1
            right += predicted == clean
            changed += predicted != row["given_label"]
            changed_right += predicted == clean != row["given_label"]
    low, high = wilson(right, labels) if labels else (None, None)
    return Checked(labels, right, changed, changed_right, low, high)


def _known_probs(row: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """(label, its probability by the method) of the given and the clean label, as text."""
    return (row["given_label"], row["method_given_prob"]), (row["clean_label"], row["method_prob"])


def _require_checked(checked: Checked, limit: float) -> None:
    """Check that enough bought labels speak for the limit, and that they do not speak against it.

    Raises:
        ConditionUnmet: they do not.
    """
    if checked.labels < FEWEST_CHECKED:
        raise ConditionUnmet(
            f"--accept {limit:g} is checked on bought labels that the models of the comparison did not see. It "
            f"takes {FEWEST_CHECKED} with such a probability, and there are {checked.labels}.",
            f"Buy more labels, or reweight with folds; {WITHOUT}",
        )
    for which, right, count in (
        ("", checked.right, checked.labels),
        (", other than the given one,", checked.changed_right, checked.changed),
    ):
        low, high = wilson(right, count) if count else (0.0, 1.0)
        if high < limit:
            raise ConditionUnmet(
                f"--accept {limit:g} is not kept: of {count} bought labels with a suggestion so sure{which} that the "
                f"models of the comparison did not see, {right} had the right one (95 % interval {low:.0%} to "
                f"{high:.0%}).",
                f"The models are surer than they should be: buy more labels, or train longer; {WITHOUT}",
            )


def summary(offers: Sequence[Offer]) -> dict[str, Json]:
    """Counts of the offers."""
    return {
        "picks": len({offer.pick for offer in offers}),
        "offers": len(offers),
        "agreed": sum(offer.model_agrees for offer in offers),
        "other_than_given": sum(offer.model_agrees and offer.label != offer.given_label for offer in offers),
        "accepted": sum(offer.accepted for offer in offers),
    }


def to_review(offers: Sequence[Offer]) -> list[Offer]:
    """Offers that somebody should look at, the riskiest first, and of equal ones those most like the pick's cluster.

    Left out is what needs nobody: an accepted offer, and a label that the given one and the re-weighting both are.
    """
    doubtful = (
        offer
        for offer in offers
        if not offer.accepted and not (offer.model_agrees and offer.label == offer.given_label)
    )
    return sorted(doubtful, key=lambda offer: (-offer.risk, -offer.similarity, offer.sample_id))


def _review_row(offer: Offer) -> tuple[object, ...]:
    """A row of ``review.csv``."""
    texts = (offer.sample_id, offer.label, offer.given_label or "", offer.pick)
    return *map(spreadsheet_cell, texts), round(offer.risk, 6)


def _offers(run: Run, name: str, found: Sequence[Round], limit: float | None) -> Iterator[Offer]:
    """All offers, by sample; of several rounds those of the latest.

    Raises:
        ConditionUnmet: no round has clusters.
    """
    bought = {row["sample_id"]: row["clean_label"] for row in read_records(run, META_SET)}
    columns = ["sample_id", "given_label", "suggested_label", "suggested_prob"]
    issues = {row["sample_id"]: row for row in read_parquet(run, ISSUES, columns, name=name).to_pylist()}
    offered: dict[str, Offer] = {}
    clustered = False
    for round_ in found:
        table = read_parquet(run, CLUSTERS, ["sample_id", "cluster", "similarity"], number=round_.number)
        members = [row for row in table.to_pylist() if row["cluster"] >= 0]
        clustered |= bool(members)
        cluster_of = {row["sample_id"]: row["cluster"] for row in members}
        picks: dict[int, str] = {}
        for sample_id in round_.samples:  # by rank: of several picks of a cluster the first stands for it
            if bought.get(sample_id) and sample_id in cluster_of:
                picks.setdefault(cluster_of[sample_id], sample_id)
        for row in members:
            pick = picks.get(row["cluster"])
            if pick is not None and row["sample_id"] not in bought:
                known = issues[row["sample_id"]]
                offered[row["sample_id"]] = _offer(pick, round_.number, bought[pick], row, known, limit)
    if not clustered:
        raise ConditionUnmet(
            "No round chose by clusters, so that there is nobody to offer a label to.",
            "The methods k-means, rbc, rbc-k, gbc and typiclust make clusters: metaselect select --method rbc",
        )
    yield from (offered[sample_id] for sample_id in sorted(offered))


def _offer(
    pick: str,
    number: int,
    label: str,
    member: Mapping[str, Any],
    known: Mapping[str, Any],
    limit: float | None,
) -> Offer:
    agrees = known["suggested_label"] == label
    prob = known["suggested_prob"] if agrees else 0.0
    return Offer(
        sample_id=member["sample_id"],
        pick=pick,
        round=number,
        label=label,
        given_label=known["given_label"],
        similarity=member["similarity"],
        model_agrees=agrees,
        risk=1 - prob,
        accepted=limit is not None and agrees and prob >= limit,
    )


def _arrays(columns: Iterator[Sequence[object]]) -> dict[str, pa.Array]:
    """The columns of ``offers.parquet``."""
    kinds = {"round": pa.int64(), "model_agrees": pa.bool_(), "accepted": pa.bool_()}
    kinds |= dict.fromkeys(("similarity", "risk"), pa.float32())
    return {
        name: pa.array(values, kinds.get(name, pa.string()))
        for name, values in zip(Offer._fields, columns, strict=False)
    }
