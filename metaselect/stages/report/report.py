"""The report of an evaluation: ``report.html`` for people, and ``report.json`` with every number of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metaselect.data.store import preprocess_of
from metaselect.report.figures import Marks, curves, histogram, scatter
from metaselect.report.page import render
from metaselect.run.evaluation_artefacts import REPORT, REPORT_JSON
from metaselect.run.files import write_json, write_text
from metaselect.run.layout import IMAGES
from metaselect.run.stage import Work
from metaselect.stages.report.classes import class_rows, confusion
from metaselect.stages.report.conclusions import checks, verdict
from metaselect.stages.report.evaluated import Evaluated
from metaselect.stages.report.galleries import SIDE, doubts, galleries, pictures
from metaselect.stages.report.pool_map import PoolMap, pool_map
from metaselect.stages.report.provenance import provenance
from metaselect.stages.report.purchases import Bought, bought_labels, purchases
from metaselect.stages.report.training import training, weights

CONTRADICTED, CONFIRMED, DOUBTED = "bought, and another label", "bought, and the given label", "most doubted"
MARKERS = {CONTRADICTED: ("X", 70, True), CONFIRMED: ("o", 45, True), DOUBTED: ("^", 30, False)}
MOST_MARKED = 80  # doubted samples on the map


def write_report(evaluated: Evaluated, inputs: Mapping[str, str], work: Work) -> None:
    """Write both files.

    Args:
        evaluated: the evaluation.
        inputs: that it was made from, with their hashes.
        work: takes the files.
    """
    found = checks(evaluated)
    bought = bought_labels(evaluated)
    samples = galleries(evaluated, bought)
    plane = pool_map(evaluated, _marks(evaluated, bought, samples))
    report: dict[str, Any] = {
        "test": evaluated.test,
        "verdict": verdict(evaluated, found),
        "checks": [check._asdict() for check in found],
        "labels": purchases(evaluated, bought),
        "training": training(evaluated),
        "weights": weights(evaluated),
        "confusion": confusion(evaluated),
        "classes": class_rows(evaluated),
        "doubts": doubts(evaluated),
        "samples": samples,
        "map": plane and plane.as_json(evaluated.pool.sample_ids),
        "provenance": provenance(evaluated, inputs),
    }
    ids = [row["sample_id"] for rows in samples.values() for row in rows]
    page = render(report, _figures(report, plane), pictures(evaluated, ids), tiny=_tiny(evaluated))
    write_json(work.folder / REPORT_JSON.within(), report)
    write_text(work.folder / REPORT.within(), page)


def _tiny(evaluated: Evaluated) -> bool:
    """Whether the images are so small that one looks at their pixels."""
    images = preprocess_of(evaluated.run).kinds.get(IMAGES)
    return images is not None and max(images.size) < SIDE // 2


def _marks(
    evaluated: Evaluated, bought: Sequence[Bought], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[int]]:
    """Pool indices of the samples that the map marks, by kind."""
    doubted = {row["sample_id"] for row in samples["doubted"][:MOST_MARKED]}
    return {
        CONTRADICTED: [each.place for each in bought if each.contradicts],
        CONFIRMED: [each.place for each in bought if not each.contradicts],
        DOUBTED: [index for index, sample_id in enumerate(evaluated.pool.sample_ids) if sample_id in doubted],
    }


def _figures(report: Mapping[str, Any], plane: PoolMap | None) -> dict[str, str]:
    """By name, every figure as an ``svg`` element."""
    figures: dict[str, str] = {}
    table = "The numbers are in the table below it."
    for key, what, percent in (
        ("accuracy", "accuracy on the given labels", True),
        ("bought_accuracy", "accuracy on the bought labels", True),
        ("loss", "loss", False),
    ):
        lines = {each["model"]: (each["epochs"], each[key]) for each in report["training"]}
        known = any(value is not None for _, values in lines.values() for value in values)
        if known and max(len(values) for _, values in lines.values()) > 1:  # one epoch is no curve
            figures[key] = curves(f"figure-{key}", lines, what=what, percent=percent, description=table)
    if report["weights"]:
        figures["weights"] = histogram(
            "figure-weights",
            report["weights"]["counts"],
            report["weights"]["edges"],
            title="Weights of the samples that were not bought",
            description=table,
        )
    if plane is not None:
        marks = [
            Marks(kind, plane.places[rows], *MARKERS[kind])
            for kind, rows in plane.marked.items()
            if rows.any()
        ]
        others = ~np.logical_or.reduce(list(plane.marked.values()))
        counts = ", ".join(f"{int(rows.sum())} {kind}" for kind, rows in plane.marked.items())
        figures["map"] = scatter(
            "figure-map",
            plane.places[others],
            marks,
            title="The pool and the marked samples",
            description=f"{len(plane.ids)} samples in the plane of the first two principal components of {plane.of}: "
            f"{counts}, and others. The lists of samples below name them.",
        )
    return figures
