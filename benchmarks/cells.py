"""The cells of ``table.py``, ``label_errors.py`` and ``frozen_features.py``: choice, training, and the CSV of rows."""

import argparse
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from common import CommandFailed, in_process
from settings import DATA, NOISES, Setting, Source

from metaselect.options import ReweightOptions, SelectOptions
from metaselect.registry import AUTO_SELECTOR, BASELINE, REWEIGHTERS, SELECTORS, load
from metaselect.run.files import format_csv, read_rows, write_text

BUDGETS, SEEDS, IMAGES = [20, 50, 200], [0, 1, 2], 10_000

Record = TypeVar("Record", bound=tuple[Any, ...])
"""A NamedTuple of str, int and float fields; None is an empty cell. Its first six fields name the cell."""


class Cell(NamedTuple):
    """One training."""

    setting: Setting
    selector: str
    budget: int
    method: str

    @property
    def name(self) -> str:
        """data/noise/budget/selector/method/seed, in which --only is searched."""
        setting = self.setting
        parts = (setting.title, setting.noise, self.budget, self.selector, self.method, setting.seed)
        return "/".join(map(str, parts))


def name_of(row: tuple[Any, ...]) -> str:
    """The name of a row's cell."""
    return "/".join(map(str, row[:6]))


def make_parser(description: str, noises: Sequence[str], work: str, table: Path) -> argparse.ArgumentParser:
    """A parser with the options that choose cells.

    Args:
        description: of the program.
        noises: names of ``NOISES`` that it runs by default.
        work: folder for runs.
        table: CSV of rows.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    methods = list(dict.fromkeys((BASELINE, ReweightOptions().method)))
    selectors = [SelectOptions().method]
    parser.add_argument("--data-dir", type=Path, help="folder with the data sets that scikit-learn lacks")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--noise", nargs="+", default=list(noises), choices=list(noises))
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--selectors", nargs="+", default=selectors, choices=[AUTO_SELECTOR, *SELECTORS])
    parser.add_argument("--methods", nargs="+", default=methods, choices=list(REWEIGHTERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument(
        "--only", default="", help="regular expression: data/noise/budget/selector/method/seed"
    )
    parser.add_argument("--images", type=int, default=IMAGES, help="training images of MNIST and CIFAR-10")
    parser.add_argument(
        "--full", action="store_true", help="CIFAR-10 with ResNet-32 and the papers' schedule, for a GPU"
    )
    parser.add_argument("--folds", type=int, default=0, help="of the comparison that reweight makes")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--work", type=Path, default=Path(work), help="folder for runs")
    parser.add_argument("--table", type=Path, default=table, help="CSV of all rows")
    parser.add_argument("--again", action="store_true", help="train the chosen cells again")
    parser.add_argument("--summary", action="store_true", help="print Markdown of the CSV and run nothing")
    return parser


def complete(kind: type[Record], arguments: argparse.Namespace, rows_of: "RowsOf[Record]") -> None:
    """Run the chosen cells that the CSV lacks, and leave it sorted.

    Raises:
        SystemExit: cells failed; the others have their rows.
    """
    cells, rows = chosen_cells(arguments), read_table(kind, arguments.table)
    if arguments.again:
        _forget(cells)
        names = {cell.name for cell in cells}
        rows = [row for row in rows if name_of(row) not in names]
    write_table(kind, rows, arguments.table)
    known = {name_of(row) for row in rows}
    missing = [cell for cell in cells if cell.name not in known]
    print(f"{len(cells)} cells, {len(cells) - len(missing)} of them in {arguments.table}", flush=True)
    try:
        _run_cells(missing, rows_of, arguments)
    finally:
        write_table(kind, read_table(kind, arguments.table), arguments.table)


def _forget(cells: Sequence[Cell]) -> None:
    """Delete the trainings of cells, so that they are run again."""
    for cell in cells:
        run = cell.setting.folder / f"{cell.selector}-{cell.budget}"
        shutil.rmtree(run / "reweight" / cell.method, ignore_errors=True)


def chosen_cells(arguments: argparse.Namespace) -> list[Cell]:
    """The cells that a command names, without those whose noise or budget the data set does not allow."""
    source = Source(arguments.data_dir, arguments.images, arguments.full)
    cells = []
    for data, noise, seed in product(arguments.data, arguments.noise, arguments.seeds):
        if noise in DATA[data].left_out:
            continue
        setting = Setting(data, noise, seed, source, arguments.work)
        budgets = [budget for budget in arguments.budgets if budget < (DATA[data].pool or arguments.images)]
        arms = product(arguments.selectors, budgets, arguments.methods)
        cells += [Cell(setting, selector, budget, method) for selector, budget, method in arms]
    return [cell for cell in cells if re.search(arguments.only, cell.name)]


class Trained(NamedTuple):
    """A training: its exit code, and the verdict of its comparison with plain training, or "" without one."""

    exit_code: int
    verdict: str


def train(cells: Sequence[Cell], folds: int) -> tuple[Path, dict[str, Trained]]:
    """The run of cells that share a setting, a selector and a budget, and the training of each method.

    A method that ended with an error is left out and named on stderr.
    """
    setting, selector, budget, _ = cells[0]
    run = setting.bought(selector, budget)
    trained = {}
    for cell in cells:
        truth = ("--oracle-truth", setting.truth) if load(REWEIGHTERS[cell.method]).needs_truth else ()
        full = ("--init", "scratch", *setting.full_training) if setting.full_training else ()
        words = ("--method", cell.method, *truth, *full, "--folds", folds, "--seed", setting.seed)
        try:
            result, code = in_process("reweight", "--run", run, *words)
        except CommandFailed as failure:  # the other cells have their figures all the same
            print(f"{cell.name}: {failure}", file=sys.stderr, flush=True)
            continue
        trained[cell.method] = Trained(code, (result["comparison"] or {}).get("verdict") or "")
    return run, trained


RowsOf = Callable[[Sequence[Cell], int], Iterable[Record]]
"""(cells that share a setting, a selector and a budget; --folds) -> their rows. A function of a module, so that other
processes can import it."""


def _run_cells(cells: Iterable[Cell], rows_of: RowsOf[Any], arguments: argparse.Namespace) -> None:
    """Append the rows of all cells to the CSV, by processes of one thread each.

    Raises:
        SystemExit: cells failed; the others have their rows.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a process imports torch
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, context, _begin) as pool:
        groups = [list(group) for _, group in groupby(cells, key=lambda cell: cell.setting)]
        rest = (rows_of, arguments.table, arguments.folds)
        tasks = [pool.submit(_run_setting, group, *rest) for group in groups]
        failed = sum(task.result() for task in as_completed(tasks))
    if failed:
        raise SystemExit(f"{failed} groups of cells failed; the same command runs them again.")


def _begin() -> None:
    """Prepare a process that runs cells: one thread."""
    import torch

    torch.set_num_threads(1)


def _run_setting(cells: Sequence[Cell], rows_of: RowsOf[Any], table: Path, folds: int) -> int:
    """Append the rows of one setting; returns how many groups of cells did not give all their rows."""
    failed = 0
    for _, arm in groupby(cells, key=lambda cell: (cell.selector, cell.budget)):
        group = list(arm)
        methods = {cell.method for cell in group}
        try:
            for row in rows_of(group, folds):
                _append(row, table)
                print(", ".join(map(str, row[:7])), flush=True)
                methods.discard(row[4])
        except CommandFailed as failure:
            print(f"{group[0].name}: {failure}", file=sys.stderr, flush=True)
        failed += bool(methods)
    return failed


def _append(row: tuple[Any, ...], table: Path) -> None:
    """Add a row to the CSV, by one write: rows of several processes do not mix."""
    line = format_csv((), [row]).partition("\n")[2]
    with table.open("a", encoding="utf-8", newline="") as stream:
        stream.write(line)


def rounded(row: Record) -> Record:
    """The row with floats of six decimals."""
    make: Callable[..., Record] = type(row)
    return make(*(round(each, 6) if isinstance(each, float) else each for each in row))


def parse_row(kind: Callable[..., Record], *cells: str) -> Record:
    """A row of a CSV; ValueError if a cell is not of its column's type."""
    made: list[str | int | float | None] = []
    for text, column in zip(cells, kind.__annotations__.values(), strict=True):
        made.append(text if column is str else int(text) if column is int else float(text) if text else None)
    return kind(*made)


def read_table(kind: type[Record], table: Path) -> list[Record]:
    """The rows of a CSV; none where there is no file."""
    header = tuple(kind.__annotations__)
    rows = read_rows(table, header, partial(parse_row, kind), "Move it away, or name another --table.")
    return list(rows)


def write_table(kind: type[Record], rows: Iterable[Record], table: Path) -> None:
    """Write a CSV in the order of data, noise, budget, selector, method and seed; the last row of a cell stands."""
    order = {name: place for place, name in enumerate((*DATA, *NOISES))}

    def key(row: tuple[Any, ...]) -> tuple[Any, ...]:
        return order[row[0].partition("-")[0]], row[0], order[row[1]], *row[2:6]

    ordered: list[Record] = sorted({name_of(row): row for row in rows}.values(), key=key)
    write_text(table, format_csv(tuple(kind.__annotations__), ordered))
