"""select --explain: where one sample stands in the latest round, and why. No torch."""

from bisect import bisect_left
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaselect.annotation.consensus import BOUGHT
from metaselect.annotation.ledger import read_ledger
from metaselect.annotation.quality.noise_estimate import given_labels
from metaselect.annotation.rounds import Round, nothing_selected_error, rounds
from metaselect.data.classes import suggest
from metaselect.errors import ArtefactError, UsageError
from metaselect.records import Json, Outcome
from metaselect.run.artefacts import CLUSTERS, SAMPLES, SELECT, SELECTED
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet, read_records

NEAR = 10_000  # ids that are compared letter by letter with one that is not there; all would take minutes


class Pivot(NamedTuple):
    """The selected sample that stands for a cluster."""

    sample_id: str
    given_label: str
    rank: int


class InCluster(NamedTuple):
    """Where a sample stands among its like.

    Attributes:
        number: the cluster's.
        size: samples in it.
        mass: its share of the pool, by gradient norm or (typiclust) by samples, in [0, 1]; None where the method or
            its picks do not tell.
        similarity: to the cluster's centre, a cosine; of typiclust, the typicality.
        place: by similarity, from 1, the closest; ties in the order of sample_id, as methods break them.
        pivot: None where no sample of it was selected.
    """

    number: int
    size: int
    mass: float | None
    similarity: float
    place: int
    pivot: Pivot | None


class Score(NamedTuple):
    """Where a sample stands in the pool for a method without clusters.

    Attributes:
        value: the method's score; it prefers the higher.
        place: from 1; ties in the order of sample_id.
        pool: samples that have a score; those that were drawn at random have none.
    """

    value: float
    place: int
    pool: int


class Pick(NamedTuple):
    """A purchase that a sample was part of; ``control``: drawn at random, not by the method."""

    round: int
    rank: int
    control: bool


def explain(run: Run, sample_id: str) -> Outcome:
    """Where a sample stands in the latest round; changes nothing.

    Raises:
        ArtefactError: nothing was selected yet, or a file is damaged.
        UsageError: there is no such sample; the hint names near ones.
    """
    run.info()
    found = rounds(run)
    if not found:
        raise nothing_selected_error(run)
    latest = found[-1]
    given = _given_label(run, sample_id)
    picks = [
        Pick(each.number, int(each.samples[sample_id].rank), sample_id in each.control)
        for each in found
        if sample_id in each.samples
    ]
    now = next((pick for pick in picks if pick.round == latest.number), None)
    verdict = read_ledger(run).verdicts.get(sample_id)
    place = _place(run, latest, sample_id)
    options = run.stage(SELECT.name(number=latest.number)).require().key.options
    earlier: list[Json] = [pick._asdict() for pick in picks if pick is not now]
    bought = verdict is not None and verdict.status in BOUGHT
    return Outcome(
        {
            "run": str(run.root),
            "sample_id": sample_id,
            "given_label": given,
            "round": latest.number,
            "method": str(options.get("method", "")),
            "selected": now is not None,
            "rank": now and now.rank,
            "control": now is not None and now.control,
            "cluster": _as_json(place) if isinstance(place, InCluster) else None,
            "score": _as_json(place) if isinstance(place, Score) else None,
            "unjudged": None if place else _why_not(latest, sample_id, taken=bought or bool(earlier)),
            "earlier": earlier,
            "bought": bought,
            "answer": verdict and verdict._asdict(),
        }
    )


def _why_not(latest: Round, sample_id: str, *, taken: bool) -> str:
    """Why the method did not judge a sample: "control", "all_random", "taken" or "near_bought"."""
    if sample_id in latest.control:
        return "control"
    if latest.samples.keys() == latest.control:
        return "all_random"
    return "taken" if taken else "near_bought"


def _as_json(place: InCluster | Score) -> dict[str, Json]:
    found: dict[str, Json] = place._asdict()
    if isinstance(place, InCluster):
        found["pivot"] = place.pivot and place.pivot._asdict()
    return found


def _place(run: Run, latest: Round, sample_id: str) -> InCluster | Score | None:
    """None where the method did not judge the sample."""
    name = SELECT.name(number=latest.number)
    run.stage(name).verified(CLUSTERS.path(number=latest.number))
    own = _rows(run, latest, ["cluster", "similarity"], ("sample_id", "==", sample_id))
    if not len(own):
        raise ArtefactError(
            f"{run.path(name)} was made from other data: it knows no {sample_id}.",
            run.stage(name).redo,
        )
    number, similarity = own["cluster"][0].as_py(), own["similarity"][0].as_py()
    by_method = latest.samples.keys() - latest.control
    # The method never saw the control, nor anything where all of the budget was drawn at random.
    if sample_id in latest.control or not by_method or not isfinite(similarity):
        return None
    if number >= 0:
        return _in_cluster(run, latest, number, sample_id, similarity)
    if any(latest.samples[selected].cluster for selected in by_method):
        return None
    table = read_parquet(run, CLUSTERS, ["sample_id", "similarity"], number=latest.number)
    drawn = pc.is_in(table["sample_id"], pa.array(sorted(latest.control), pa.string()))
    judged = table.filter(pc.invert(drawn))
    return Score(similarity, _place_among(judged, sample_id), len(judged))


def _in_cluster(run: Run, latest: Round, number: int, sample_id: str, similarity: float) -> InCluster:
    members = _rows(run, latest, ["sample_id", "similarity"], ("cluster", "==", number))
    inside = set(members["sample_id"].to_pylist())
    place = _place_among(members, sample_id)
    # A cluster can have several picks, where clusters are fewer than the budget; its own has the lowest rank.
    pivot_id = next((selected for selected in latest.samples if selected in inside), None)
    if pivot_id is None:
        return InCluster(number, len(members), None, similarity, place, None)
    row = next(
        row for row in read_records(run, SELECTED, number=latest.number) if row["sample_id"] == pivot_id
    )
    mass = float(row["cluster_mass"]) if row["cluster_mass"] else None
    pivot = Pivot(pivot_id, _given_label(run, pivot_id), int(row["rank"]))
    return InCluster(number, len(members), mass, similarity, place, pivot)


def _place_among(table: pa.Table, sample_id: str) -> int:
    """The place from 1 by similarity, the highest first; the table is in the order of sample_id."""
    similarity = table["similarity"].to_numpy()
    position = pc.index(table["sample_id"], sample_id).as_py()
    higher = int(np.sum(similarity > similarity[position]))
    return 1 + higher + int(np.sum(similarity[:position] == similarity[position]))


def _rows(run: Run, latest: Round, columns: Sequence[str], where: tuple[str, str, Json]) -> pa.Table:
    """Rows of ``clusters.parquet``; the others never become Python objects."""
    return read_parquet(run, CLUSTERS, columns, where=where, number=latest.number)


def _given_label(run: Run, sample_id: str) -> str:
    """The class name of one sample.

    Raises:
        UsageError: it is not in the pool.
    """
    found = given_labels(run, [sample_id])
    if sample_id not in found:
        raise _unknown(run, sample_id)
    return found[sample_id]


def _unknown(run: Run, sample_id: str) -> UsageError:
    """The error for an id that is not there, with near ones: a part of an id is what people often have."""
    ids: list[str] = read_parquet(run, SAMPLES, ["sample_id"])["sample_id"].to_pylist()
    containing = [known for known in ids if sample_id and sample_id.casefold() in known.casefold()][:3]
    if containing:
        hint = f"Did you mean {' or '.join(repr(known) for known in containing)}?"
    else:
        # The pool is sorted, so that ids which begin alike stand together.
        start = max(0, min(bisect_left(ids, sample_id) - NEAR // 2, len(ids) - NEAR))
        near = suggest(sample_id, ids[start : start + NEAR])
        hint = f"{near[0].upper()}{near[1:].removesuffix('?')}{'?' if near.endswith('?') else '.'}"
    return UsageError(f"There is no sample {sample_id!r} in {run.root}.", hint)
