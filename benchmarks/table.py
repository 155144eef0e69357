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
and ``rank_auc``, the chance that a right label weighs more, or stands behind in the ranking of likely errors, than a
wrong one, over samples that were not bought; wall ``seconds`` of `reweight` on one thread; its ``exit_code``, 1 for a
training that failed; with --folds, the ``verdict`` of its own comparison with plain training, for which it takes
longer; and the model that `evaluate` says to ``take`` of those that the cell's run has.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cells import Cell, Trained, complete, make_parser, read_table, rounded, train
from common import in_process
from settings import NOISES, NOT_IN_TABLE, left_out
from table_summary import METRICS, Row, summary

from metaselect.registry import BASELINE
from metaselect.run.artefacts import RECORD
from metaselect.run.files import read_json

TABLE = Path(__file__).parent / "table.csv"


def rows_of(cells: Sequence[Cell], folds: int) -> Iterator[Row]:
    """Rows of cells that share a setting, a selector and a budget."""
    run, trained = train(cells, folds)
    setting = cells[0].setting
    evaluation = in_process("evaluate", setting.test, "--run", run, "--truth", setting.truth)[0]
    for cell in cells:
        if cell.method in trained:
            yield measured_row(cell, evaluation, run, trained[cell.method])


def measured_row(cell: Cell, evaluation: dict[str, Any], run: Path, trained: Trained) -> Row:
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
        balanced_accuracy=scores["balanced_accuracy"],
        warmup_accuracy=evaluation["warmup"]["test_accuracy"],
        noise_rate=evaluation["noise"]["measured_rate"],
        weight_auc=scores["weight_auc"],
        rank_auc=scores["rank_auc"],
        seconds=record["details"]["seconds"],
        exit_code=trained.exit_code,
        verdict=trained.verdict,
        take=evaluation["take"]["model"],
        pool=evaluation["noise"]["samples"],
        test_samples=evaluation["test_samples"],
    )
    return rounded(row)


def main() -> None:
    parser = make_parser(__doc__, [noise for noise in NOISES if noise not in NOT_IN_TABLE], "table", TABLE)
    parser.add_argument("--metric", default=METRICS[0], choices=METRICS, help="of --summary")
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary(read_table(Row, arguments.table), arguments.metric, BASELINE))
        print("\n".join(f"- Not run: {each}" for each in left_out(arguments.data, arguments.noise)))
        return
    complete(Row, arguments, rows_of)


if __name__ == "__main__":
    main()
