"""The classes: the confusion before and after, and a row for each of the worst."""

from typing import Any

import numpy as np

from metaselect.metrics.classification import ClassCounts
from metaselect.records import MOST_ROWS, Json
from metaselect.run.artefacts import WARMUP
from metaselect.stages.evaluate.scores import ClassScores, class_scores
from metaselect.stages.report.evaluated import Evaluated

MOST_CLASSES = 20


def confusion(evaluated: Evaluated) -> dict[str, Json] | None:
    """The matrices of the warm-up and of the model to take, of the most confused classes; None for one model alone."""
    before, after = _matrices(evaluated)
    if before is None:
        return None
    errors = sum((_errors(matrix) for matrix in (before, after) if matrix is not None), np.zeros(len(before)))
    chosen = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    tables: list[Json] = []
    for role, name, matrix in (("before", WARMUP.kind, before), ("after", evaluated.after, after)):
        if matrix is None:
            continue
        counts: Json = matrix[np.ix_(chosen, chosen)].tolist()
        others: Json = (matrix[chosen].sum(1) - matrix[np.ix_(chosen, chosen)].sum(1)).tolist()
        tables.append({"role": role, "model": name, "counts": counts, "others": others})
    return {
        "classes": [evaluated.pool.classes[place] for place in chosen.tolist()],
        "of": len(before),
        "tables": tables,
    }


def class_rows(evaluated: Evaluated) -> dict[str, Json]:
    """A row for each class, the worst first: its samples, its scores before and after, its bought labels."""
    pool, meta_set, k = evaluated.pool, evaluated.meta_set, len(evaluated.pool.classes)
    before, after = (_scores(evaluated, name) for name in (WARMUP.kind, evaluated.after))
    sizes = np.bincount(pool.labels[pool.labels >= 0], minlength=k)
    bought = np.bincount(meta_set.labels, minlength=k)
    given = pool.labels[meta_set.bought]
    contradicted = np.bincount(given[(given != meta_set.labels) & (given >= 0)], minlength=k)
    recalls = [None if last is None else last.recall for last in after]
    worst = sorted((recall is None, recall or 0, place) for place, recall in enumerate(recalls))
    noise = evaluated.metrics.get("noise_by_class", {})
    rows: list[Json] = []
    for *_, place in worst[:MOST_CLASSES]:
        old, new = before[place], after[place]
        first, last = (each and each.recall for each in (old, new))
        rows.append(
            {
                "class": pool.classes[place],
                "pool": int(sizes[place]),
                "samples": new and new.support,
                "recall_before": first,
                "recall_after": last,
                "recall_after_low": new and new.recall_low,
                "recall_after_high": new and new.recall_high,
                "gain": None if first is None or last is None else last - first,
                "precision_after": new and new.precision,
                "control": noise.get(pool.classes[place]),
                "bought": int(bought[place]),
                "given_and_contradicted": int(contradicted[place]),
            }
        )
    return {"after": evaluated.after, "of": k, "rows": rows}


def _scores(evaluated: Evaluated, name: str) -> list[ClassScores] | list[None]:
    """A model's scores on every class; None for each where it is not judged."""
    classes = evaluated.pool.classes
    matrix = _matrix(evaluated.scores(name)["confusion"], len(classes))
    if matrix is None:
        return [None] * len(classes)
    return class_scores(ClassCounts(matrix.diagonal(), matrix.sum(1), matrix.sum(0), []), classes)


def _matrices(evaluated: Evaluated) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(K, K) counts of the warm-up and of the model after; None where they are not known, or it is the warm-up."""
    size = len(evaluated.pool.classes)
    before = _matrix(evaluated.scores(WARMUP.kind)["confusion"], size)
    same = evaluated.after == WARMUP.kind
    return before, None if same else _matrix(evaluated.scores(evaluated.after)["confusion"], size)


def _matrix(rows: Any, size: int) -> np.ndarray | None:
    """The matrix of which ``records.matrix_rows`` made these rows."""
    if rows is None:
        return None
    if size <= MOST_ROWS:
        return np.array(rows, np.int64)
    matrix = np.zeros((size, size), np.int64)
    for row, column, count in rows:
        matrix[row, column] = count
    return matrix


def _errors(matrix: np.ndarray) -> np.ndarray:
    """(K,) how often each class was taken for another, or another for it."""
    errors: np.ndarray = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
    return errors
