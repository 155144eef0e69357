"""Why a given label is doubted: what a re-weighting, or the warm-up before there is one, says of it."""

from typing import Any

import pyarrow.compute as pc

from metaselect.records import Json
from metaselect.run.artefacts import CLASSES, DATA, ISSUES, REWEIGHT, WARMUP, WARMUP_PREDICTIONS, WEIGHTS
from metaselect.run.files import read_json
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet
from metaselect.stages.freshness import AnnotationView, state_of

DIGITS = 6  # of numbers that were stored in single precision
NOTHING: dict[str, Json] = dict.fromkeys(
    (
        *("name", "state", "why", "rank", "ranked", "weight", "weight_kind"),
        *("suggested_label", "suggested_prob", "predicted_label", "predicted_prob"),
        *("out_of_fold", "neighbours", "outlier", "conflict", "duplicates"),
    )
)
OF_ISSUES = (
    *("rank", "weight", "suggested_label", "suggested_prob"),
    *("out_of_fold", "neighbours", "outlier", "conflict"),
)


def doubt(run: Run, sample_id: str, name: str, view: AnnotationView) -> dict[str, Json]:
    """What a re-weighting says of a sample's given label.

    Args:
        run: the run.
        sample_id: of a sample of the pool.
        name: of a finished re-weighting with ``issues.parquet``.
        view: the rounds and votes of the run.

    Raises:
        ArtefactError: a file is damaged.
    """
    stage = run.stage(REWEIGHT.name(name=name))
    for artefact in (ISSUES, WEIGHTS):
        stage.verified(artefact.path(name=name))
    state = state_of(run, stage.name, view)
    own = _row(run, ISSUES, [*OF_ISSUES, "duplicate_group"], sample_id, name=name)
    more = ["weight_kind", "predicted_label", "predicted_prob"]
    ranks = read_parquet(run, WEIGHTS, ["label_issue_rank"], name=name)["label_issue_rank"]
    group = own.pop("duplicate_group")
    return {
        **NOTHING,
        "name": name,
        "state": state.state,
        "why": state.why or None,
        "ranked": len(ranks) - ranks.null_count,
        **own,
        **_row(run, WEIGHTS, more, sample_id, name=name),
        "duplicates": None if group is None else _duplicates(run, name, group, sample_id),
    }


def doubt_by_warmup(run: Run, sample_id: str, given: str) -> dict[str, Json] | None:
    """The same keys, with what the warm-up alone says; None where it says nothing."""
    if not given or not run.has_warmup:
        return None
    stage = run.stage(WARMUP.name())
    if WARMUP_PREDICTIONS.within() not in stage.require().outputs:
        return None
    stage.verified(WARMUP_PREDICTIONS.path())
    own = _row(run, WARMUP_PREDICTIONS, ["out_of_fold", "neighbours"], sample_id)
    place = read_json(run.path(CLASSES.path()), run.stage(DATA.name()).recompute_hint).index(given)
    return {**NOTHING, **{key: values and round(values[place], DIGITS) for key, values in own.items()}}


def _duplicates(run: Run, name: str, group: str, sample_id: str) -> Json:
    """The other samples of its group of near duplicates, with their given labels."""
    where = ("duplicate_group", "==", group)
    table = read_parquet(run, ISSUES, ["sample_id", "given_label"], where=where, name=name)
    others: list[Json] = table.filter(pc.not_equal(table["sample_id"], sample_id)).to_pylist()
    return others


def _row(run: Run, artefact: Any, columns: list[str], sample_id: str, **parts: str) -> dict[str, Any]:
    """The cells of one sample, numbers rounded."""
    table = read_parquet(run, artefact, columns, where=("sample_id", "==", sample_id), **parts)
    return {
        key: round(value, DIGITS) if isinstance(value, float) else value
        for key, value in table.to_pylist()[0].items()
    }
