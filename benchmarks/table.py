"""Test accuracy of training methods by data set, label noise, number of bought labels, selector and seed.

    python benchmarks/table.py --data-dir data --jobs 2
    python benchmarks/table.py --data digits wine --noise uniform-40 --budgets 20 --methods uniform direct --seeds 0
    python benchmarks/table.py --data-dir data --only '^digits/adversarial.*/20/'
    python benchmarks/table.py --summary

Every cell goes through the stages of the command line, with their defaults (for CIFAR-10 --model lenet). All cells of a
draw of the noise share one warm-up, and all methods of a selector and a budget one purchase, answered from the truth.
``settings.py`` lists the data, the kinds of noise and the files of --data-dir.

A cell that is in the CSV is not run again, so that the same command goes on where it was stopped; runs stay in --work
for that and for ``label_errors.py``. --again trains the chosen cells anew. After a change of the program that bears on
the warm-up or the selection, name another --work.

Columns: ``accuracy`` and ``balanced_accuracy`` (mean over the classes) of the last epoch's model on the test set, with
``warmup_accuracy`` beside them; ``noise_rate``, the share of wrong labels among the ``pool`` samples; ``weight_auc``
and ``rank_auc``, the chance that a right label weighs more, or ranks lower among the likely errors, than a wrong one,
over samples that were not bought; wall ``seconds`` of `reweight` on one thread; its ``exit_code``, 1 for a training
that failed; with --folds, the ``verdict`` of its own comparison with plain training, for which it takes longer.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from cells import Cell, Trained, complete, make_parser, read_table, rounded, train
from common import in_process, read_truth
from settings import NOISES, left_out
from table_summary import METRICS, Row, summary

from metaselect.metrics import clean_label_auc
from metaselect.registry import BASELINE
from metaselect.run.artefacts import RECORD, WEIGHTS
from metaselect.run.files import read_json

TABLE = Path(__file__).parent / "table.csv"


def rows_of(cells: Sequence[Cell], folds: int) -> Iterator[Row]:
    """Rows of cells that share a setting, a selector and a budget."""
    run, trained = train(cells, folds)
    setting = cells[0].setting
    evaluation = in_process("evaluate", setting.test, "--run", run, "--truth", setting.truth)[0]
    truth = read_truth(setting.truth)
    for cell in cells:
        if cell.method in trained:
            yield measured_row(cell, evaluation, run, truth, trained[cell.method])


def measured_row(
    cell: Cell, evaluation: dict[str, Any], run: Path, truth: dict[str, str], trained: Trained
) -> Row:
    """The row of a cell whose run was evaluated."""
    scores = evaluation["reweight"][cell.method]
    record = read_json(run / "reweight" / cell.method / RECORD, "Run the cell with --again.")
    row = Row(
        data=cell.setting.title,
        noise=cell.setting.noise,
        budget=cell.budget,
        selector=cell.selector,
        method=cell.method,
        seed=cell.setting.seed,
        accuracy=scores["test_accuracy"],
        balanced_accuracy=balanced(scores),
        warmup_accuracy=evaluation["warmup"]["test_accuracy"],
        noise_rate=evaluation["noise"]["measured_rate"],
        weight_auc=scores["weight_auc"],
        rank_auc=rank_auc(run / WEIGHTS.path(name=cell.method), truth),
        seconds=record["details"]["seconds"],
        exit_code=trained.exit_code,
        verdict=trained.verdict,
        pool=evaluation["noise"]["samples"],
        test_samples=evaluation["test_samples"],
    )
    return rounded(row)


def balanced(scores: dict[str, Any]) -> float:
    """The mean accuracy of the classes that the test set has samples of."""
    found = [each for each in scores["per_class_accuracy"].values() if each is not None]
    return float(np.mean(found))


def rank_auc(weights: Path, truth: dict[str, str]) -> float | None:
    """AUC of ``label_issue_rank`` as a score for right labels, over the samples that have a rank."""
    table = pq.read_table(weights, columns=["sample_id", "given_label", "label_issue_rank"])
    rows = [each for each in table.to_pylist() if each["label_issue_rank"] is not None]
    clean = np.array([truth[each["sample_id"]] == each["given_label"] for each in rows])
    return clean_label_auc(np.array([each["label_issue_rank"] for each in rows], float), clean)


def main() -> None:
    parser = make_parser(__doc__, list(NOISES), "table", TABLE)
    parser.add_argument("--metric", default=METRICS[0], choices=METRICS, help="of --summary")
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary(read_table(Row, arguments.table), arguments.metric, BASELINE))
        print("\n".join(f"- Not run: {each}" for each in left_out(arguments.data, arguments.noise)))
        return
    complete(Row, arguments, rows_of)


if __name__ == "__main__":
    main()
