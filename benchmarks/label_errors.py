"""Finding wrong labels: the ranking of `reweight` beside cleanlab's scores of the same warm-up's probabilities.

    pip install -e '.[bench]'
    python benchmarks/label_errors.py --data-dir data --jobs 2
    python benchmarks/label_errors.py --data digits --noise uniform-40 --budgets 50 --seeds 0
    python benchmarks/label_errors.py --summary

Data, noise, budgets and runs are those of ``table.py``, which may share --work; settings without a wrong label are left
out. cleanlab's scores are those by which `find_label_issues` ranks, self-confidence and normalised margin, of the
out-of-fold probabilities that `warmup` keeps: no model saw the label that it judges. They need no bought label. The
third, find-label-issues, is the list of that function by self-confidence, before all other samples, which are tied.
All rankings of a cell are judged on the same samples, those that were not bought.

Columns: ``auc``, the chance that a right label ranks behind a wrong one; ``average_precision`` of the wrong labels;
``precision_at_k``, the share of wrong labels among the first k, with k the number ``wrong`` of them among ``samples``;
``precision_at_500``, the same among the first 500, empty where there are fewer samples, or where it was not measured.

cleanlab: Kuan, Mueller 2022, "Model-agnostic label quality scoring"; Northcutt, Jiang, Chuang 2021 (arXiv:1911.00068).
"""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from cells import Cell, complete, make_parser, read_table, rounded, train
from common import read_truth
from settings import CLEAN, NOISES, NOT_IN_TABLE
from table_summary import by_method, difference, shown, spread, values

from metaselect.metrics.ranking import ranking
from metaselect.run.artefacts import CLASSES, WARMUP_PREDICTIONS, WEIGHTS

TABLE = Path(__file__).parent / "label_errors.csv"
METRICS = ("auc", "average_precision", "precision_at_k", "precision_at_500")
FIRST = 500  # of a ranking: about as many as somebody looks at
LISTED = "find-label-issues"
SCORES = {"self-confidence": "self_confidence", "normalized-margin": "normalized_margin"}
"""cleanlab's scores, by the name in the table's column ``method``."""


class Row(NamedTuple):
    """One ranking of one cell; ``method`` is a training method or a score of cleanlab's."""

    data: str
    noise: str
    budget: int
    selector: str
    method: str
    seed: int
    auc: float | None
    average_precision: float | None
    precision_at_k: float | None
    wrong: int
    samples: int
    precision_at_500: float | None


class Peer(NamedTuple):
    """Cleanlab's functions of (n,) labels and (n, K) probabilities.

    Attributes:
        scores: (labels, probabilities, method=...) -> (n,) scores, low for likely errors.
        find: (labels, probabilities, return_indices_ranked_by=..., n_jobs=...) -> indices of errors, the surest first.
    """

    scores: Callable[..., np.ndarray]
    find: Callable[..., np.ndarray]


def peer() -> Peer:
    """The functions.

    Raises:
        SystemExit: cleanlab is missing.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        raise SystemExit(
            "This benchmark compares with cleanlab, which is missing: pip install cleanlab"
        ) from None
    return Peer(get_label_quality_scores, find_label_issues)


def rows_of(cells: Sequence[Cell], folds: int) -> Iterator[Row]:
    """Rows of cells that share a setting, a selector and a budget, and of cleanlab's scores beside them."""
    run, trained = train(cells, folds)
    if not trained:
        return
    setting, truth = cells[0].setting, read_truth(cells[0].setting.truth)
    scores = {}
    for method in trained:
        table = pq.read_table(run / WEIGHTS.path(name=method))
        ranked = table["label_issue_rank"].is_valid().to_numpy()
        scores[method] = table["label_issue_rank"].to_numpy()[ranked].astype(float)
    ids, given = table["sample_id"].to_pylist(), table["given_label"].to_pylist()
    clean = np.array([truth[each] == label for each, label in zip(ids, given, strict=True)])[ranked]
    scores |= {name: score[ranked] for name, score in cleanlab_scores(run, ids, given).items()}
    for method, score in scores.items():
        place = (setting.title, setting.noise, cells[0].budget, cells[0].selector, method, setting.seed)
        found = ranking(score, clean, None)
        figures = (found.auc, found.average_precision, found.precision_at_k)
        first = ranking(score, clean, FIRST).precision_at_k if len(clean) >= FIRST else None
        yield rounded(Row(*place, *figures, int((~clean).sum()), len(clean), first))


def cleanlab_scores(run: Path, ids: list[str], given: list[str]) -> dict[str, np.ndarray]:
    """(n,) cleanlab's scores of the warm-up's out-of-fold probabilities, and the places of its list, by name."""
    predictions = pq.read_table(run / WARMUP_PREDICTIONS.path(), columns=["sample_id", "out_of_fold"])
    if predictions["sample_id"].to_pylist() != ids:
        raise SystemExit(f"{run}: the predictions and the weights are not of the same samples.")
    probs = np.array(predictions["out_of_fold"].to_pylist(), float)
    probs /= probs.sum(1, keepdims=True)  # cleanlab wants rows that sum to 1 in float64
    classes = json.loads((run / CLASSES.path()).read_text(encoding="utf-8"))
    labels = np.array([classes.index(label) for label in given])
    cleanlab = peer()
    found = {name: cleanlab.scores(labels, probs, method=method) for name, method in SCORES.items()}
    listed = cleanlab.find(labels, probs, return_indices_ranked_by="self_confidence", n_jobs=1)
    places = np.full(len(labels), float(len(listed)))
    places[listed] = np.arange(len(listed))
    return {**found, LISTED: places}


def summary(rows: Sequence[Row], metric: str) -> str:
    """Markdown: a line for each cell; in parentheses the paired difference to the better score of cleanlab's."""
    methods = list(dict.fromkeys((*SCORES, *(row.method for row in rows))))
    header = ("data", "noise", "wrong %", "bought", "selector", "seeds", *methods)
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    measured = [row for row in rows if getattr(row, metric) is not None]
    for _, group in groupby(measured, key=lambda row: row[:4]):
        cell = list(group)
        lines.append(f"| {' | '.join(_line(cell, metric, methods))} |")
    return "\n".join(lines)


def _line(cell: Sequence[Row], metric: str, methods: Sequence[str]) -> list[str]:
    found, first = by_method(cell), cell[0]
    wrong = statistics.mean(row.wrong / row.samples for row in cell)
    seeds = len({row.seed for row in cell})
    cells = [first.data, first.noise, f"{100 * wrong:.1f}", str(first.budget), first.selector, str(seeds)]
    measured = {name: list(values(found.get(name, {}), metric).values()) for name in methods}
    best = max((name for name in SCORES if measured[name]), key=lambda name: statistics.mean(measured[name]))
    for name in methods:
        text = shown(spread(measured[name]), metric) if measured[name] else "-"
        gain = None if name in SCORES else difference(found.get(name, {}), found[best], metric)
        cells.append(text if gain is None else f"{text} ({shown(gain, metric, sign='+')})")
    return cells


def main() -> None:
    noises = [noise for noise in NOISES if noise not in (*CLEAN, *NOT_IN_TABLE)]
    parser = make_parser(__doc__, noises, "table", TABLE)
    parser.add_argument("--metric", default=METRICS[0], choices=METRICS, help="of --summary")
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary(read_table(Row, arguments.table), arguments.metric))
        return
    peer()
    complete(Row, arguments, rows_of)


if __name__ == "__main__":
    main()
