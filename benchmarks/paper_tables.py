"""The papers' tables on MNIST and CIFAR-10: selectors and re-weighters by kind of noise, beside the published figures.

    python benchmarks/paper_tables.py --data-dir data --selectors rbc gbc random --methods direct --seeds 0 1 2
    python benchmarks/paper_tables.py --data-dir data --noise uniform-60 --methods finetune direct l2rw mw-net
    python benchmarks/paper_tables.py --data-dir data --data cifar10 --images 10000 --budgets 50 --noise uniform-40
    python benchmarks/paper_tables.py --data-dir data --data cifar10 --budgets 50 --full    # on a GPU
    python benchmarks/paper_tables.py --summary

All images unless --images says fewer; the model is LeNet and its accuracy that of the last epoch; there is no clean
validation set. With --full CIFAR-10 has ResNet-32 and the schedule of Ren et al. in every training. A derangement of
the classes is drawn for each seed. All arms of a seed share one warm-up, and all re-weighters of a selector one
purchase. A cell that is in the CSV is not run again, so that the same command goes on where it was stopped;
``cells.py`` has the options.

Columns of the CSV: ``accuracy`` and ``warmup_accuracy`` on the test set; ``weight_auc``, the chance that a right label
weighs more than a wrong one; ``classes_without`` any bought label; wall ``seconds`` of `reweight` on one thread; its
``exit_code``, 1 for a training that failed.

Papers, with what they have that the arms here have not:

* Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Tables 1 to 3: 500 epochs, the best epoch on clean validation data;
  ResNet-34 on CIFAR-10. The re-weighter is `direct` with every selector; fine-tuning is on a random choice. Table 3 has
  the AUC of the weights. They leave out uniform noise on MNIST and CIFAR-10, which cost them a few percent only.
* Zhang, Pfister 2021 (arXiv:2109.03216), Tables 1 and 3: `fsr` with ResNet-32, the others with larger networks;
  MentorNet, `l2rw` and `mw-net` there have 1,000 clean samples.
* Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050), Table 1, at 40 % uniform noise: WideResNet-28-10; 1,000 clean
  samples for `clean-only` and fine-tuning.
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

TABLE = Path(__file__).parent / "paper_tables.csv"
WHOLE = {"mnist": 60_000, "cifar10": 50_000}
NOISE = (
    *("adversarial-60-derangement", "adversarial-80-derangement", "longtail-200"),
    *("none", "uniform-20", "uniform-40", "uniform-60", "uniform-80", "asymmetric-20", "asymmetric-40"),
)
PAPER = {
    ("mnist", "adversarial-60-derangement"): {
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
    ("mnist", "adversarial-80-derangement"): {
        "random + direct": "AUC 0.922",
        "rbc + direct": "AUC 0.958",
        "gbc + direct": "AUC 0.949",
    },
    ("cifar10", "adversarial-60-derangement"): {
        "warmup": "40.2 +- 0.4",
        "random + finetune": "23.1 +- 7.6",
        "random + direct": "76.0 +- 2.0",
        "certain + direct": "70.8 +- 5.0",
        "uncertain + direct": "74.5 +- 6.1",
        "craig + direct": "78.6 +- 1.0",
        "ta-vaal + direct": "61.5 +- 4.7",
        "rbc-k + direct": "75.7 +- 1.2",
        "rbc + direct": "79.2 +- 0.6",
        "gbc + direct": "80.9 +- 1.5",
    },
    ("cifar10", "longtail-200"): {
        "warmup": "61.5 +- 0.6",
        "random + finetune": "60.0 +- 1.7",
        "random + direct": "66.0 +- 1.7",
        "certain + direct": "66.1 +- 1.2",
        "uncertain + direct": "64.5 +- 1.2",
        "craig + direct": "66.6 +- 0.9",
        "ta-vaal + direct": "61.6 +- 1.2",
        "rbc-k + direct": "66.0 +- 1.0",
        "rbc + direct": "68.2 +- 1.6",
        "gbc + direct": "67.4 +- 1.5",
    },
    ("cifar10", "none"): {
        **{"rbc + gce": "93.5", "rbc + mentornet": "96.0", "rbc + l2rw": "96.1", "rbc + mw-net": "92.0"},
        **{"rbc + crust": "94.4", "rbc + elr": "94.5", "rbc + fsr": "94.4"},
    },
    ("cifar10", "uniform-20"): {
        **{"rbc + gce": "89.9 +- 0.2", "rbc + mentornet": "92.0", "rbc + l2rw": "90.0 +- 0.4"},
        **{"rbc + mw-net": "90.3 +- 0.6", "rbc + crust": "91.1 +- 0.2", "rbc + elr": "92.1 +- 0.4"},
        "rbc + fsr": "91.8 +- 0.7",
    },
    ("cifar10", "uniform-40"): {
        "warmup": "68.0 +- 0.6",
        **{"rbc + gce": "87.1 +- 0.2", "rbc + mentornet": "89.0", "rbc + l2rw": "86.9 +- 0.2"},
        **{"rbc + mw-net": "87.5 +- 0.2", "rbc + crust": "89.2 +- 0.2", "rbc + elr": "91.4 +- 0.2"},
        **{"rbc + fsr": "90.2 +- 0.7", "rbc + reed-hard": "69.7 +- 1.2", "rbc + s-model": "70.6 +- 3.1"},
        **{"rbc + random": "86.1 +- 0.3", "rbc + clean-only": "46.6 +- 3.9", "rbc + finetune": "78.7 +- 0.4"},
    },
    ("cifar10", "uniform-80"): {
        **{"rbc + gce": "67.9 +- 0.6", "rbc + mentornet": "49.0", "rbc + l2rw": "73.0 +- 0.8"},
        **{"rbc + crust": "58.3 +- 1.8", "rbc + elr": "80.7 +- 0.6", "rbc + fsr": "74.2 +- 0.9"},
    },
    ("cifar10", "asymmetric-20"): {
        **{"rbc + gce": "89.5 +- 0.3", "rbc + forward": "89.1 +- 0.5", "rbc + l2rw": "89.2 +- 0.3"},
        "rbc + fsr": "91.5 +- 0.1",
    },
    ("cifar10", "asymmetric-40"): {
        **{"rbc + gce": "82.3 +- 0.7", "rbc + forward": "83.6 +- 0.3", "rbc + l2rw": "84.8"},
        "rbc + fsr": "90.2 +- 0.1",
    },
}
"""Published test accuracies in % (or AUC) by data set and kind of noise."""


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
        parts += [
            f"{data}, {noise}, {budget} bought",
            "",
            table(arms(found), PAPER.get((data.partition("-")[0], noise), {})),
            "",
        ]
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
    parser = make_parser(__doc__, NOISE, "paper-tables", TABLE)
    parser.set_defaults(data=["mnist"], images=None, noise=[NOISE[0]], budgets=[20])
    parser.set_defaults(selectors=["rbc"], methods=["direct"])
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary(read_table(Row, arguments.table)))
        return
    if arguments.images is None:
        arguments.images = min(WHOLE.get(name, WHOLE["mnist"]) for name in arguments.data)
    complete(Row, arguments, rows_of)


if __name__ == "__main__":
    main()
