"""Why a sample was picked, or not: its rank, cluster and score in the latest round."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaselect.annotation.quality.noise_estimate import given_labels
from metaselect.annotation.rounds import Round
from metaselect.errors import ArtefactError
from metaselect.records import Json
from metaselect.run.artefacts import CLUSTERS, NEIGHBOURS, SELECT, SELECTED
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet, read_records


class Representative(NamedTuple):
    """The chosen sample of a cluster, its representative."""

    sample_id: str
    given_label: str | None
    rank: int


class ClusterPosition(NamedTuple):
    """The place of a sample in its cluster.

    Attributes:
        number: number of the cluster.
        size: samples in the cluster.
        mass: its share of the pool, by gradient norm or, for k-means and typiclust, by samples, in [0, 1]; None where
            ``selected.csv`` has none.
        similarity: cosine with the cluster's centre; for typiclust, the typicality.
        place: from 1 by falling similarity; ties in the order of sample_id, as methods break them.
        representative: None where no sample of the cluster was selected.
    """

    number: int
    size: int
    mass: float | None
    similarity: float
    place: int
    representative: Representative | None


class ScorePosition(NamedTuple):
    """The place of a sample in the pool, for a method without clusters.

    Attributes:
        value: the method's score; higher ones are chosen first.
        place: from 1 by falling score; ties in the order of sample_id.
        pool: number of samples with a score; those that the method did not see have none.
    """

    value: float
    place: int
    pool: int


class Surroundings(NamedTuple):
    """What ``neighbours.parquet`` says of a sample.

    Attributes:
        group: the first sample of its group of near duplicates; None where it has none.
        near_duplicates: the other samples of the group.
        outlier: share of the other samples with closer neighbours, in [0, 1]; None where they were not compared.
    """

    group: str | None
    near_duplicates: tuple[str, ...]
    outlier: float | None


class Pick(NamedTuple):
    """The selection of a sample in a round; ``control``: drawn at random, not chosen by the method."""

    round: int
    rank: int
    control: bool


def selection(run: Run, all_rounds: Sequence[Round], sample_id: str, *, bought: bool) -> dict[str, Json]:
    """The rank, cluster or score of a sample in the latest round, and its earlier picks.

    Args:
        run: the run.
        all_rounds: its rounds, at least one.
        sample_id: of a sample of the pool.
        bought: whether its label was bought.

    Raises:
        ArtefactError: a file is damaged.
    """
    latest = all_rounds[-1]
    picks = [
        Pick(each.number, int(each.samples[sample_id].rank), sample_id in each.control)
        for each in all_rounds
        if sample_id in each.samples
    ]
    current_pick = next((pick for pick in picks if pick.round == latest.number), None)
    position = _position(run, latest, sample_id)
    surroundings = _surroundings(run, latest, sample_id)
    options = run.stage(SELECT.name(number=latest.number)).require().key.options
    earlier: list[Json] = [pick._asdict() for pick in picks if pick is not current_pick]
    return {
        "round": latest.number,
        "method": str(options.get("method", "")),
        "selected": current_pick is not None,
        "rank": current_pick and current_pick.rank,
        "control": current_pick is not None and current_pick.control,
        "cluster": _as_json(position) if isinstance(position, ClusterPosition) else None,
        "score": _as_json(position) if isinstance(position, ScorePosition) else None,
        "unjudged": None
        if position
        else _unscored_reason(
            latest,
            sample_id,
            surroundings,
            options.get("max_outlier"),
            already_bought=bought or bool(earlier),
        ),
        "duplicate_group": surroundings.group,
        "near_duplicates": [*surroundings.near_duplicates],
        "outlier": surroundings.outlier,
        "earlier": earlier,
    }


def _unscored_reason(
    latest: Round, sample_id: str, surroundings: Surroundings, max_outlier: Json, *, already_bought: bool
) -> str:
    """Why the method gave a sample no score: "control", "all_random", "taken", "outlier" and so on, as documented."""
    if sample_id in latest.control:
        return "control"
    if latest.samples.keys() == latest.control:
        return "all_random"
    if already_bought:
        return "taken"
    rank = surroundings.outlier
    if isinstance(max_outlier, int | float) and rank is not None and rank > max_outlier:
        return "outlier"
    return "near_duplicate" if surroundings.group is not None else "near_bought"


def _surroundings(run: Run, latest: Round, sample_id: str) -> Surroundings:
    """The near duplicates and the outlier rank of a sample; nothing in rounds from before these were looked for."""
    stage = run.stage(SELECT.name(number=latest.number))
    if NEIGHBOURS.within() not in stage.require().outputs:
        return Surroundings(None, (), None)
    stage.verified(NEIGHBOURS.path(number=latest.number))
    own = read_parquet(
        run,
        NEIGHBOURS,
        ["duplicate_group", "outlier"],
        where=("sample_id", "==", sample_id),
        number=latest.number,
    ).to_pylist()[0]
    group, outlier = own["duplicate_group"], own["outlier"]
    members: list[str] = []
    if group is not None:
        where = ("duplicate_group", "==", group)
        table = read_parquet(run, NEIGHBOURS, ["sample_id"], where=where, number=latest.number)
        members = table["sample_id"].to_pylist()
    others = tuple(member for member in members if member != sample_id)
    return Surroundings(group, others, None if outlier is None else round(outlier, 6))


def _as_json(position: ClusterPosition | ScorePosition) -> dict[str, Json]:
    """The fields as ``--json`` prints them, where the representative is called "pivot"."""
    values: dict[str, Json] = position._asdict()
    if isinstance(position, ClusterPosition):
        del values["representative"]
        values["pivot"] = position.representative and position.representative._asdict()
    return values


def _position(run: Run, latest: Round, sample_id: str) -> ClusterPosition | ScorePosition | None:
    """The place of the sample by the method's clusters or scores; None where the method gave it no score."""
    name = SELECT.name(number=latest.number)
    run.stage(name).verified(CLUSTERS.path(number=latest.number))
    own = _rows(run, latest, ["cluster", "similarity"], ("sample_id", "==", sample_id))
    if not len(own):
        raise ArtefactError(
            f"{run.path(name)} was made from other data: it has no sample {sample_id}.",
            run.stage(name).recompute_hint,
        )
    number, similarity = own["cluster"][0].as_py(), own["similarity"][0].as_py()
    by_method = latest.samples.keys() - latest.control
    # The method did not get the control samples, and did not run where the whole budget was drawn at random.
    if sample_id in latest.control or not by_method or not isfinite(similarity):
        return None
    if number >= 0:
        return _cluster_position(run, latest, number, sample_id, similarity)
    if any(latest.samples[selected].cluster for selected in by_method):
        return None
    table = read_parquet(run, CLUSTERS, ["sample_id", "similarity"], number=latest.number)
    drawn = pc.is_in(table["sample_id"], pa.array(sorted(latest.control), pa.string()))
    unseen = pc.or_(drawn, pc.is_nan(table["similarity"]))  # outliers and near duplicates have none
    scored = table.filter(pc.invert(unseen))
    return ScorePosition(similarity, _place_by_similarity(scored, sample_id), len(scored))


def _cluster_position(
    run: Run, latest: Round, number: int, sample_id: str, similarity: float
) -> ClusterPosition:
    members = _rows(run, latest, ["sample_id", "similarity"], ("cluster", "==", number))
    member_ids = set(members["sample_id"].to_pylist())
    place = _place_by_similarity(members, sample_id)
    # A cluster can have several picks, where clusters are fewer than the budget; the representative is ranked first.
    representative_id = next((selected for selected in latest.samples if selected in member_ids), None)
    if representative_id is None:
        return ClusterPosition(number, len(members), None, similarity, place, None)
    row = next(
        row
        for row in read_records(run, SELECTED, number=latest.number)
        if row["sample_id"] == representative_id
    )
    mass = float(row["cluster_mass"]) if row["cluster_mass"] else None
    representative = Representative(
        representative_id, given_labels(run, [representative_id])[representative_id] or None, int(row["rank"])
    )
    return ClusterPosition(number, len(members), mass, similarity, place, representative)


def _place_by_similarity(table: pa.Table, sample_id: str) -> int:
    """The place from 1 by similarity, the highest first; the table is in the order of sample_id."""
    similarity = table["similarity"].to_numpy()
    position = pc.index(table["sample_id"], sample_id).as_py()
    higher = int(np.sum(similarity > similarity[position]))
    return 1 + higher + int(np.sum(similarity[:position] == similarity[position]))


def _rows(run: Run, latest: Round, columns: Sequence[str], where: tuple[str, str, Json]) -> pa.Table:
    """Rows of ``clusters.parquet`` that pass the filter ``where``; the others never become Python objects."""
    return read_parquet(run, CLUSTERS, columns, where=where, number=latest.number)
