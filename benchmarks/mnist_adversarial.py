"""MNIST with adversarial label noise and 20 bought labels: selectors, or re-weighters, with the same commands.

    python benchmarks/mnist_adversarial.py --data-dir data --selectors rbc gbc random --methods direct --seeds 0 1 2
    python benchmarks/mnist_adversarial.py --data-dir data --methods finetune direct l2rw mw-net
    python benchmarks/mnist_adversarial.py --data-dir data --noise uniform-60 adversarial-80-derangement
    python benchmarks/mnist_adversarial.py --summary

All 60,000 images; the model is LeNet and its accuracy that of the last epoch; there is no clean validation set. A
derangement of the classes is drawn for each seed. All arms of a seed share one warm-up, and all re-weighters of a
selector one purchase. A cell that is in the CSV is not run again, so that the same command goes on where it was
stopped; ``cells.py`` has the options.

Columns of the CSV: ``accuracy`` and ``warmup_accuracy`` on the test set; ``weight_auc``, the chance that a right label
weighs more than a wrong one; ``classes_without`` any bought label; wall ``seconds`` of `reweight` on one thread; its
``exit_code``, 1 for a training that failed.

Paper: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418): Table 1, column MNIST (500 epochs, best epoch on clean
validation data), which has the re-weighter `direct` with every selector and fine-tuning on a random choice, and Table
3, the AUC of the weights at 80 %. It has no figure of uniform noise, which it says costs a few percent on MNIST, and
its Figure 3, other noise rates, has no table. The papers of `l2rw`, `mw-net` and `fsr` have no label noise on MNIST.
"""

import csv
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from cells import Cell, complete, make_parser, read_table, rounded, train
from common import in_process, table
from settings import DATA

from metaselect.run.artefacts import META_SET, RECORD
from metaselect.run.files import read_json

TABLE = Path(__file__).parent / "mnist_adversarial.csv"
NOISE = ("adversarial-60-derangement", "adversarial-80-derangement", "uniform-60")
IMAGES = 60_000
PAPER = {
    "adversarial-60-derangement": {
        "warmup": "51.7 +- 1.5",
        "random + finetune": "53.4 +- 1.2",
        "random + direct": "85.7 +- 0.9",
        "certain + direct": "81.8 +- 0.9",
        "uncertain + direct": "76.4 +- 0.5",
        "craig + direct": "92.8 +- 0.1",
        "ta-vaal + direct": "79.3 +- 0.2",
        "rbc-k + direct": "93.8 +- 0.6",
        "rbc + direct": "93.0 +- 1.0",
        "gbc + direct": "94.3 +- 0.2",
    },
    "adversarial-80-derangement": {
        "random + direct": "AUC 0.922",
        "rbc + direct": "AUC 0.958",
        "gbc + direct": "AUC 0.949",
    },
}


class Row(NamedTuple):
    """One training; accuracies are in [0, 1], and an AUC without a value is None."""

    data: str
    noise: str
    budget: int
    selector: str
    method: str
    seed: int
    accuracy: float
    warmup_accuracy: float
    noise_rate: float
    weight_auc: float | None
    classes_without: int
    seconds: float
    exit_code: int


def rows_of(cells: Sequence[Cell], folds: int) -> Iterator[Row]:
    """Rows of cells that share a setting, a selector and a budget."""
    run, trained = train(cells, folds)
    setting, selector, budget, _ = cells[0]
    evaluation = in_process("evaluate", setting.test, "--run", run, "--truth", setting.truth)[0]
    with (run / META_SET.path()).open(newline="", encoding="utf-8") as stream:
        bought = {answer["clean_label"] for answer in csv.DictReader(stream)}
    shared = (evaluation["warmup"]["test_accuracy"], evaluation["noise"]["measured_rate"])
    without = len(DATA[setting.data].classes) - len(bought)
    for method, (exit_code, _) in trained.items():
        scores = evaluation["reweight"][method]
        record = read_json(run / "reweight" / method / RECORD, "Run the cell with --again.")
        figures = (
            scores["test_accuracy"],
            *shared,
            scores["weight_auc"],
            without,
            record["details"]["seconds"],
        )
        yield rounded(
            Row(setting.title, setting.noise, budget, selector, method, setting.seed, *figures, exit_code)
        )


def summary(rows: Sequence[Row]) -> str:
    """Markdown: a table for each kind of noise and budget, the best arms first, and the trainings that failed."""
    parts = []
    for (data, noise, budget), group in groupby(rows, key=lambda row: row[:3]):
        found = list(group)
        parts += [f"{data}, {noise}, {budget} bought", "", table(arms(found), PAPER.get(noise, {})), ""]
        failed = [f"{row.selector} + {row.method}, seed {row.seed}" for row in found if row.exit_code]
        parts += [f"Failed: {'; '.join(failed)}.", ""] if failed else []
    return "\n".join(parts).rstrip()


def arms(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Results for ``common.table``: the warm-up of each seed, then the arms by falling mean accuracy."""
    warm = {row.seed: row.warmup_accuracy for row in rows}
    found: list[dict[str, Any]] = [
        {"arm": "warmup", "seed": seed, "accuracy": accuracy, "auc": None, "seconds": None}
        for seed, accuracy in sorted(warm.items())
    ]
    by_arm = {
        arm: list(group) for arm, group in groupby(rows, key=lambda row: f"{row.selector} + {row.method}")
    }
    for arm in sorted(by_arm, key=lambda arm: -mean(row.accuracy for row in by_arm[arm])):
        found += [
            {
                **{"arm": arm, "seed": row.seed, "accuracy": row.accuracy, "auc": row.weight_auc},
                **{"seconds": row.seconds, "classes_without": row.classes_without},
            }
            for row in by_arm[arm]
        ]
    return found


def main() -> None:
    parser = make_parser(__doc__, NOISE, "mnist-adversarial", TABLE)
    parser.set_defaults(data=["mnist"], images=IMAGES, noise=[NOISE[0]], budgets=[20])
    parser.set_defaults(selectors=["rbc"], methods=["direct"])
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary(read_table(Row, arguments.table)))
        return
    complete(Row, arguments, rows_of)


if __name__ == "__main__":
    main()
