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
that failed.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from itertools import groupby, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from common import CommandFailed, in_process, read_truth
from settings import DATA, NOISES, Setting, Source, left_out
from table_summary import METRICS, Row, make_row, summary

from metaselect.metrics import clean_label_auc
from metaselect.options import ReweightOptions, SelectOptions
from metaselect.registry import REWEIGHTERS, SELECTORS
from metaselect.run.artefacts import RECORD, WEIGHTS
from metaselect.run.files import format_csv, read_json, read_rows, write_text

TABLE = Path(__file__).parent / "table.csv"
CONTROL = "uniform"
BUDGETS, SEEDS, IMAGES = [20, 50, 200], [0, 1, 2], 10_000


class Cell(NamedTuple):
    """One training of the table."""

    setting: Setting
    selector: str
    budget: int
    method: str

    @property
    def name(self) -> str:
        """The cell's name, which --only is searched in: data/noise/budget/selector/method/seed."""
        setting = self.setting
        parts = (setting.title, setting.noise, self.budget, self.selector, self.method, setting.seed)
        return "/".join(map(str, parts))


def chosen_cells(arguments: argparse.Namespace) -> list[Cell]:
    """The cells that the command names, without those whose noise or budget the data set does not allow."""
    source = Source(arguments.data_dir, arguments.images)
    cells = []
    for data, noise, seed in product(arguments.data, arguments.noise, arguments.seeds):
        if noise in DATA[data].left_out:
            continue
        setting = Setting(data, noise, seed, source, arguments.work)
        budgets = [budget for budget in arguments.budgets if budget < (DATA[data].pool or arguments.images)]
        arms = product(arguments.selectors, budgets, arguments.methods)
        cells += [Cell(setting, selector, budget, method) for selector, budget, method in arms]
    return [cell for cell in cells if re.search(arguments.only, cell.name)]


def run_arm(cells: Sequence[Cell]) -> Iterator[Row]:
    """Rows of cells that share a setting, a selector and a budget."""
    setting, selector, budget, _ = cells[0]
    run = setting.bought(selector, budget)
    codes = {}
    for cell in cells:
        words = ("--method", cell.method, "--seed", setting.seed)
        try:
            codes[cell.method] = in_process("reweight", "--run", run, *words)[1]
        except CommandFailed as failure:  # the other cells have their figures all the same
            print(f"{cell.name}: {failure}", file=sys.stderr, flush=True)
    evaluation = in_process("evaluate", setting.test, "--run", run, "--truth", setting.truth)[0]
    truth = read_truth(setting.truth)
    for cell in cells:
        if cell.method in codes:
            yield measured_row(cell, evaluation, run, truth, codes[cell.method])


def measured_row(
    cell: Cell, evaluation: dict[str, Any], run: Path, truth: dict[str, str], exit_code: int
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
        exit_code=exit_code,
        pool=evaluation["noise"]["samples"],
        test_samples=evaluation["test_samples"],
    )
    return Row(*(round(each, 6) if isinstance(each, float) else each for each in row))  # type: ignore[arg-type]


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


def begin_worker() -> None:
    """Prepare a process that runs cells: one thread."""
    import torch

    torch.set_num_threads(1)


def run_setting(cells: Sequence[Cell], table: Path) -> int:
    """Run the cells of one setting and append their rows to the CSV; returns how many cells failed."""
    done = 0
    for _, arm in groupby(cells, key=lambda cell: (cell.selector, cell.budget)):
        try:
            for row in run_arm(list(arm)):
                append_row(row, table)
                print(", ".join(map(str, row[:7])), flush=True)
                done += 1
        except CommandFailed as failure:
            print(f"{cells[0].setting.folder}: {failure}", file=sys.stderr, flush=True)
    return len(cells) - done


def append_row(row: Row, table: Path) -> None:
    """Add a row to the CSV, by one write: rows of several processes do not mix."""
    line = format_csv(row._fields, [row]).partition("\n")[2]
    with table.open("a", encoding="utf-8", newline="") as stream:
        stream.write(line)


def run_cells(cells: Iterable[Cell], table: Path, jobs: int) -> int:
    """Run the cells in ``jobs`` processes of one thread each; returns how many cells failed."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a worker imports torch
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, begin_worker) as pool:
        tasks: list[Future[int]] = [
            pool.submit(run_setting, list(group), table)
            for _, group in groupby(cells, key=lambda cell: cell.setting)
        ]
        return sum(task.result() for task in as_completed(tasks))


def forget(cells: Sequence[Cell]) -> None:
    """Delete the trainings of cells, so that they are run again."""
    for cell in cells:
        run = cell.setting.folder / f"{cell.selector}-{cell.budget}"
        shutil.rmtree(run / "reweight" / cell.method, ignore_errors=True)


def read_table(table: Path) -> list[Row]:
    """The rows of the CSV; none where there is no file."""
    return list(read_rows(table, Row._fields, make_row, "Move it away, or name another --table."))


def write_table(rows: Iterable[Row], table: Path) -> None:
    """Write the CSV in the order of data, noise, budget, selector, method and seed."""
    order = {name: place for place, name in enumerate((*DATA, *NOISES))}

    def key(row: Row) -> tuple[Any, ...]:
        return order[row.data.partition("-")[0]], row.data, order[row.noise], *row[2:6]

    ordered: list[Row] = sorted(rows, key=key)
    write_text(table, format_csv(Row._fields, ordered))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="folder with the data sets that scikit-learn lacks")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--noise", nargs="+", default=list(NOISES), choices=list(NOISES))
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--selectors", nargs="+", default=[SelectOptions().method], choices=list(SELECTORS))
    defaults = list(dict.fromkeys((CONTROL, ReweightOptions().method)))
    parser.add_argument("--methods", nargs="+", default=defaults, choices=list(REWEIGHTERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument(
        "--only", default="", help="regular expression: data/noise/budget/selector/method/seed"
    )
    parser.add_argument("--images", type=int, default=IMAGES, help="training images of MNIST and CIFAR-10")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--work", type=Path, default=Path("table"), help="folder for runs")
    parser.add_argument("--table", type=Path, default=TABLE, help="CSV of all rows")
    parser.add_argument("--again", action="store_true", help="train the chosen cells again")
    parser.add_argument("--summary", action="store_true", help="print Markdown of the CSV and run nothing")
    parser.add_argument("--metric", default=METRICS[0], choices=METRICS, help="of --summary")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.summary:
        print(summary(read_table(arguments.table), arguments.metric, CONTROL))
        print("\n".join(f"- Not run: {each}" for each in left_out(arguments.data, arguments.noise)))
        return
    cells, rows = chosen_cells(arguments), read_table(arguments.table)
    if arguments.again:
        forget(cells)
        names = {cell.name for cell in cells}
        rows = [row for row in rows if row.name not in names]
    write_table(rows, arguments.table)
    known = {row.name for row in rows}
    missing = [cell for cell in cells if cell.name not in known]
    print(f"{len(cells)} cells, {len(cells) - len(missing)} of them in {arguments.table}", flush=True)
    failed = run_cells(missing, arguments.table, arguments.jobs) if missing else 0
    write_table(read_table(arguments.table), arguments.table)
    if failed:
        raise SystemExit(f"{failed} cells failed; the same command runs them again.")


if __name__ == "__main__":
    main()
