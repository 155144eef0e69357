"""The training curves and the weights."""

from typing import Any

import numpy as np

from metaselect.records import Json
from metaselect.run.artefacts import REWEIGHT, REWEIGHT_HISTORY, WARMUP, WARMUP_HISTORY
from metaselect.run.tables import read_records
from metaselect.stages.report.evaluated import Evaluated
from metaselect.stages.report.shown import was_made

BINS = 20
MOST_EPOCHS = 200  # of a model in the report, evenly spread
SERIES = ("loss", "accuracy", "bought_accuracy")


def training(evaluated: Evaluated) -> list[Json]:
    """By model, its epochs with loss and accuracy on the given labels and, where it is known, on the bought ones."""
    found: list[Json] = []
    for each in evaluated.models:
        artefact = REWEIGHT_HISTORY if each.table else WARMUP_HISTORY
        stage = REWEIGHT.name(name=each.name) if each.table else WARMUP.name()
        if not was_made(evaluated.run, stage, artefact):
            continue
        parts = {"name": each.name} if each.table else {}
        rows = read_records(evaluated.run, artefact, **parts)
        kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_EPOCHS)).round().astype(int))
        shown = [rows[place] for place in kept.tolist()]
        columns = {name: [_number(row.get(name, "")) for row in shown] for name in SERIES}
        found.append({"model": each.name, "epochs": [int(row["epoch"]) for row in shown], **columns})
    return found


def weights(evaluated: Evaluated) -> dict[str, Json] | None:
    """How the weights of the samples that were not bought are spread; None without a re-weighting."""
    if evaluated.subject is None:
        return None
    table = evaluated.weights
    ranked = np.array(table["label_issue_rank"].is_valid())
    values = table["weight"].to_numpy()[ranked].astype(np.float64)
    counts, edges = np.histogram(values, BINS, (0, 1))
    kinds = table["weight_kind"].filter(table["label_issue_rank"].is_valid()).unique().to_pylist()
    return {
        "model": evaluated.subject.name,
        "kind": kinds[0] if kinds else None,
        "samples": len(values),
        "mean": float(values.mean()) if len(values) else None,
        "below_half": int((values < 0.5).sum()),
        "counts": counts.tolist(),
        "edges": [round(edge, 2) for edge in edges.tolist()],
    }


def _number(cell: str) -> Any:
    """A cell as a number; None for an empty one, and for one that is not finite."""
    value = float(cell) if cell else float("nan")
    return value if np.isfinite(value) else None
