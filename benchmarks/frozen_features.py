"""What the whole pipeline gives on the features of a frozen encoder, beside learners that take the labels as given.

    taskset -c 0 python benchmarks/frozen_features.py --data-dir data
    python benchmarks/frozen_features.py --data wine --noise uniform-40 --budgets 20 --seeds 0
    python benchmarks/frozen_features.py --summary

Each seed of each kind of noise runs `corrupt`, `warmup`, `select`, `annotate simulate`, `reweight` and
`evaluate --truth` anew with their defaults, each as a process of one thread; nothing is shared with ``table.py``.
``seconds`` are wall clock and ``cpu_seconds`` CPU time of all six together. No default was chosen on these seeds.
``settings.py`` lists the files of --data-dir.

Beside the method: ``warm-up``, the pipeline's own model of the given labels, a logistic regression whose weight decay
is chosen by cross-validation; ``logistic-regression``, scikit-learn's (C = 1) on the given labels and rows of norm 1;
``30-nn``, the vote of the given labels of the 30 nearest samples by cosine; and ``bought-alone``, a logistic regression
(C = 30) on the bought labels and nothing else.

Columns: ``accuracy`` on the test set; ``rank_auc``, the chance that a right label stands behind a wrong one in the
ranking of likely errors, over samples that were not bought. For ``logistic-regression`` that ranking is by
self-confidence, the probability of the given label by five-fold cross-validation.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from cells import Cell, complete, make_parser, read_table, rounded
from common import metaselect
from selectors_on_features import head
from settings import DATA, noise_options, once
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from table_summary import by_method, shown, spread, values

from metaselect.metrics.ranking import clean_label_auc
from metaselect.options import ReweightOptions
from metaselect.run.artefacts import WEIGHTS

TABLE = Path(__file__).parent / "frozen_features.csv"
NOISE = (
    *("none", "uniform-40", "uniform-60", "adversarial-40-shift", "adversarial-60-shift"),
    *("human-worst", "human-random1", "human-aggregate"),
)
METHOD = ReweightOptions().method
NEIGHBOURS, FOLDS = 30, 5
OTHERS = ("warm-up", "logistic-regression", f"{NEIGHBOURS}-nn", "bought-alone")
WANTED = {"human-worst": 0.955, "human-random1": 0.965, "adversarial-60-shift": 0.96}
"""The mean accuracy that was wanted of ``cifar10_dinov2`` with 50 bought labels."""
WANTED_AUC, MOST_SECONDS = 0.985, 30


class Row(NamedTuple):
    """One learner on one setting; a figure that it does not have is None."""

    data: str
    noise: str
    budget: int
    selector: str
    method: str
    seed: int
    accuracy: float
    rank_auc: float | None
    seconds: float | None
    cpu_seconds: float | None
    noise_rate: float


def rows_of(cells: Sequence[Cell], folds: int) -> Iterator[Row]:
    """Rows of cells that share a setting, a selector and a budget, and of the other learners beside them."""
    setting, _, budget, _ = cells[0]
    for cell in cells:
        run = setting.folder / f"{cell.selector}-{budget}-{cell.method}"
        evaluation, seconds, cpu = pipeline(cell, run, folds)
        scores, rate = evaluation["reweight"][cell.method], evaluation["noise"]["measured_rate"]
        place = (setting.title, setting.noise, budget, cell.selector)
        figures = (scores["test_accuracy"], scores["rank_auc"], seconds, cpu)
        yield rounded(Row(*place, cell.method, setting.seed, *figures, rate))
    scores = evaluation["warmup"]
    others = [(scores["test_accuracy"], scores["rank_auc"]), *other_learners(cell, run)]
    for name, (accuracy, auc) in zip(OTHERS, others, strict=True):
        yield rounded(Row(*place, name, setting.seed, accuracy, auc, None, None, rate))


def pipeline(cell: Cell, run: Path, folds: int) -> tuple[dict[str, Any], float, float]:
    """The result of `evaluate` after all commands before it, and the wall and CPU seconds of all."""
    setting = cell.setting
    data, noisy, seed = DATA[setting.data], setting.truth.parent, ("--seed", setting.seed)
    right = once(setting.test.parent, lambda folder: data.write(setting.source, setting.seed, folder))
    noise = noise_options(setting.noise, data, setting.seed, right)
    shutil.rmtree(run, ignore_errors=True)
    commands: tuple[tuple[object, ...], ...] = (
        ("corrupt", right / "train.parquet", "-o", noisy, "--force", *noise, *seed),
        ("warmup", noisy / "train.parquet", "--run", run, *data.warmup, *seed),
        ("select", "--run", run, "--method", cell.selector, "--budget", cell.budget, *seed),
        ("annotate", "simulate", setting.truth, "--run", run),
        ("reweight", "--run", run, "--method", cell.method, "--folds", folds, *seed),
        ("evaluate", setting.test, "--run", run, "--truth", setting.truth),
    )
    before = getrusage(RUSAGE_CHILDREN)
    results = [metaselect(*words) for words in commands]
    after = getrusage(RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return results[-1][0], sum(seconds for _, seconds in results), cpu


def other_learners(cell: Cell, run: Path) -> list[tuple[float, float | None]]:
    """Test accuracy and AUC, or None, of the learners that see nothing but features and labels, as in ``OTHERS``."""
    setting = cell.setting
    ids, rows, given = read_features(setting.truth.parent / "train.parquet")
    same_ids, _, right = read_features(setting.test.parent / "train.parquet")
    _, *test = read_features(setting.test)
    weights = pq.read_table(run / WEIGHTS.path(name=cell.method)).sort_by("sample_id")
    if not ids == same_ids == weights["sample_id"].to_pylist():
        raise SystemExit(f"{run}: the data, the right labels and the weights are not of the same samples.")
    bought = weights["bought"].to_numpy()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=setting.seed)
    probs = cross_val_predict(
        LogisticRegression(max_iter=2000), rows, given, cv=folds, method="predict_proba"
    )
    own = probs[np.arange(len(given)), np.searchsorted(np.unique(given), given)]
    auc = clean_label_auc(own[~bought], (given == right)[~bought])
    neighbours = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(rows, given)
    return [
        (head(rows, given, 1.0).score(*test), auc),
        (neighbours.score(*test), None),
        (head(rows[bought], right[bought]).score(*test), None),
    ]


def read_features(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids in their order, (n, d) float64 rows of norm 1, and (n,) labels.

    Raises:
        SystemExit: the file has no features.
    """
    table = pq.read_table(path).sort_by("sample_id")
    if "features" not in table.column_names:
        raise SystemExit(f"{path} has no features; choose --data cifar10_dinov2, breast_cancer or wine.")
    rows = np.array(table["features"].to_pylist())
    ids: list[str] = table["sample_id"].to_pylist()
    return ids, rows / np.linalg.norm(rows, axis=1, keepdims=True), table["label"].to_numpy()


def summary(rows: Sequence[Row]) -> str:
    """Markdown: a line for each setting, mean and spread over seeds, and a sentence for each aim that is missed."""
    methods = sorted(
        {row.method for row in rows}, key=lambda name: OTHERS.index(name) if name in OTHERS else -1
    )
    ranked = [name for name in methods if any(row.rank_auc is not None for row in rows if row.method == name)]
    header = ["data", "noise", "wrong %", "bought", "seeds", "wanted", *methods]
    header += [*(f"AUC {name}" for name in ranked), "s", "CPU s"]
    lines, sentences = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"], []
    for _, group in groupby(rows, key=lambda row: row[:4]):
        setting = list(group)
        lines.append(f"| {' | '.join(_line(setting, methods, ranked))} |")
        sentences += [f"- {setting[0].noise}: {each}." for each in misses(setting)]
    return "\n".join([*lines, "", *sentences])


def _line(setting: Sequence[Row], methods: Sequence[str], ranked: Sequence[str]) -> list[str]:
    found, first = by_method(setting), setting[0]
    wrong, wanted = mean(row.noise_rate for row in setting), WANTED.get(first.noise)
    seeds = len({row.seed for row in setting})
    cells = [first.data, first.noise, f"{100 * wrong:.1f}", str(first.budget), str(seeds)]
    cells.append("-" if wanted is None else f"{100 * wanted:.1f}")
    for metric, names in (("accuracy", methods), ("rank_auc", ranked)):
        cells += [_shown(found.get(name, {}), metric) for name in names]
    return cells + [_shown(found.get(METHOD, {}), metric) for metric in ("seconds", "cpu_seconds")]


def _shown(rows: Mapping[int, Row], metric: str) -> str:
    measured = list(values(rows, metric).values())
    return shown(spread(measured), "seconds" if metric == "cpu_seconds" else metric) if measured else "-"


def misses(setting: Sequence[Row]) -> list[str]:
    """What the method misses on one setting: by its means over the seeds, and by its longest run."""
    rows = by_method(setting).get(METHOD, {})
    accuracies, aucs, seconds = (
        list(values(rows, metric).values()) for metric in ("accuracy", "rank_auc", "seconds")
    )
    wanted, found = WANTED.get(setting[0].noise, 0.0), []
    if accuracies and mean(accuracies) < wanted:
        found.append(f"accuracy {100 * mean(accuracies):.1f} %, wanted {100 * wanted:.1f} %")
    if aucs and mean(aucs) < WANTED_AUC:
        found.append(f"AUC {mean(aucs):.3f}, wanted {WANTED_AUC}")
    if seconds and max(seconds) > MOST_SECONDS:
        found.append(f"a run took up to {max(seconds):.1f} s, wanted {MOST_SECONDS} s")
    return found


def main() -> None:
    parser = make_parser(__doc__, NOISE, "frozen-features", TABLE)
    parser.set_defaults(data=["cifar10_dinov2"], budgets=[50], seeds=[5, 6, 7, 8, 9])
    parser.set_defaults(methods=[METHOD], folds=ReweightOptions().folds)
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary(read_table(Row, arguments.table)))
        return
    complete(Row, arguments, rows_of)


if __name__ == "__main__":
    main()
