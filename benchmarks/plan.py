"""How far the predictions of `plan` were off: predicted beside reached accuracy and right labels, by number of labels.

    python benchmarks/plan.py --data-dir data --data digits mnist --images 5000
    python benchmarks/plan.py --data digits --noise uniform-40 --seeds 0 --starts warm-up
    python benchmarks/plan.py --summary

Every value is predicted at two starts: after the warm-up, from no bought label at all; and after a first round of 10
labels drawn at random (control-10), for 10 to 100 more. Reached are the values of `reweight --method auto --folds 0` on
labels that the default selector chose and that were answered from the truth: its accuracy on the test set, and the
share of the pool's labels that are right, with its suggestions followed where it corrects. At 0 further labels that is
the warm-up, or a training with the 10. Data, noise and runs are those of ``table.py``, which may share --work.

A cell that is in the CSV is not run again, so that the same command goes on where it was stopped; plans are made anew
with --again. --summary prints the tables of the documentation, and the root mean squares that are the constants of
``metaselect/planning/measured.py``.

Columns: ``labels``, further ones; ``start``; ``accuracy`` and ``right``, as predicted, with the 90 % intervals of the
draws (``_low``, ``_high``), which `plan` widens by the constants, and as ``_reached``; ``worth_buying``, the number
that `plan` advises; wall ``seconds`` of `plan` on one thread.
"""

import argparse
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from math import hypot, sqrt
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
from cells import read_table, rounded, write_table
from common import CommandFailed, in_process, read_truth
from settings import DATA, Setting, Source, once

from metaselect.planning.forecast import Z
from metaselect.planning.measured import MEASURED, Errors
from metaselect.run.artefacts import ISSUES, META_SET, RECORD, SAMPLES
from metaselect.run.files import read_json

TABLE = Path(__file__).parent / "plan.csv"
BUDGETS = (10, 20, 50, 100)
WARMUP, CONTROL, CONTROL_LABELS = "warm-up", "control-10", 10
KINDS = ("none", "uniform-40", "asymmetric-40", "adversarial-60-shift")


class Row(NamedTuple):
    """One number of labels of one plan."""

    data: str
    noise: str
    labels: int
    start: str
    method: str
    seed: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_reached: float
    right: float
    right_low: float
    right_high: float
    right_reached: float
    worth_buying: int
    seconds: float


class Reached(NamedTuple):
    """What a run came to: the accuracy on the test set, and the share of right labels."""

    accuracy: float
    right: float


def rows_of(setting: Setting, start: str) -> Iterator[Row]:
    """The rows of one plan."""
    run = setting.warmed() if start == WARMUP else control_run(setting)
    budgets = ",".join(map(str, BUDGETS))
    started = time.monotonic()
    exact = dict.fromkeys(MEASURED, Errors(0, 0))
    with patch.dict(MEASURED, exact):
        planned = in_process("plan", "--run", run, "--budgets", budgets, "--seed", setting.seed)[0]
    seconds = time.monotonic() - started
    samples = planned["samples"]
    for row in planned["budgets"]:
        found = reached(setting, start, row["labels"])
        accuracy, right = row["accuracy"], row["correct_labels"]
        yield rounded(
            Row(
                setting.title,
                setting.noise,
                row["labels"],
                start,
                "auto",
                setting.seed,
                accuracy["mean"],
                accuracy["low"],
                accuracy["high"],
                found.accuracy,
                right["mean"] / samples,
                right["low"] / samples,
                right["high"] / samples,
                found.right,
                planned["worth_buying"],
                round(seconds, 1),
            )
        )


def control_run(setting: Setting) -> Path:
    """The run with a first round drawn at random, made if it is missing."""
    choice = ("--budget", CONTROL_LABELS, "--control", 1)
    return bought(setting, setting.warmed, CONTROL, choice)


def bought(setting: Setting, before: Callable[[], Path], name: str, choice: Sequence[object]) -> Path:
    """A copy of a run with one more round of bought labels, made if it is missing."""

    def make(made: Path) -> None:
        # No links: votes are appended in place.
        shutil.copytree(before(), made, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
        in_process("select", "--run", made, *choice, "--seed", setting.seed)
        in_process("annotate", "simulate", setting.truth, "--run", made)

    return once(setting.folder / name, make)


def reached(setting: Setting, start: str, labels: int) -> Reached:
    """What is reached with further labels."""
    if start == WARMUP and not labels:
        run = setting.bought("auto", BUDGETS[0])
        in_process("reweight", "--run", run, "--method", "auto", "--folds", 0, "--seed", setting.seed)
        return Reached(evaluated(setting, run)["warmup"]["test_accuracy"], right_share(setting, run, {}))
    if start == WARMUP:
        run = setting.bought("auto", labels)
    elif labels:
        choice = ("--round", "next", "--budget", labels)
        run = bought(setting, lambda: control_run(setting), f"{CONTROL}-{labels}", choice)
    else:
        run = control_run(setting)
    in_process("reweight", "--run", run, "--method", "auto", "--folds", 0, "--seed", setting.seed)
    accuracy = evaluated(setting, run)["reweight"]["auto"]["test_accuracy"]
    return Reached(accuracy, right_share(setting, run, final_labels(run)))


def evaluated(setting: Setting, run: Path) -> dict[str, Any]:
    """The scores of the run's models."""
    return in_process("evaluate", setting.test, "--run", run, "--truth", setting.truth)[0]


def final_labels(run: Path) -> dict[str, str]:
    """The bought labels by sample_id, and where `reweight` corrects given ones, all that it suggests."""
    record = read_json(run / "reweight/auto" / RECORD, "Run the cell anew.")
    labels: dict[str, str] = {}
    if record["details"]["method"]["corrects"]:
        table = pq.read_table(run / ISSUES.path(name="auto"), columns=["sample_id", "suggested_label"])
        labels = dict(zip(table["sample_id"].to_pylist(), table["suggested_label"].to_pylist(), strict=True))
    return labels | read_truth(run / META_SET.path())  # the same columns


def right_share(setting: Setting, run: Path, replaced: dict[str, str]) -> float:
    """The share of labels that are right: given ones, but for those that are replaced."""
    table = pq.read_table(run / SAMPLES.path(), columns=["sample_id", "given_label"])
    labels = dict(zip(table["sample_id"].to_pylist(), table["given_label"].to_pylist(), strict=True))
    truth = read_truth(setting.truth)
    return float(np.mean([label == truth[sample_id] for sample_id, label in (labels | replaced).items()]))


def root_mean_square(values: Iterable[float]) -> float:
    """The root of the mean square."""
    squares = [value**2 for value in values]
    return sqrt(sum(squares) / len(squares))


def total(row: Row) -> int:
    """Bought labels, those of the start included."""
    return row.labels + (CONTROL_LABELS if row.start == CONTROL else 0)


def errors(rows: Sequence[Row], labels: int) -> Errors:
    """Root mean squares of predicted less reached values of plans after the warm-up, at a number of labels."""
    of = [row for row in rows if row.start == WARMUP and row.labels == labels]
    return Errors(
        root_mean_square(row.accuracy - row.accuracy_reached for row in of),
        root_mean_square(row.right - row.right_reached for row in of),
    )


def inside(row: Row, rows: Sequence[Row]) -> tuple[bool, bool]:
    """Whether accuracy and right labels lie in intervals that are widened by errors of other seeds' plans."""
    others = [each for each in rows if each.seed != row.seed]
    measured = errors(others, max(number for number in (0, *BUDGETS) if number <= total(row)))
    found = []
    for name, error in zip(("accuracy", "right"), measured, strict=True):
        mean, low, high, value = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high", "_reached"))
        found.append(mean - hypot(mean - low, Z * error) <= value <= mean + hypot(high - mean, Z * error))
    return found[0], found[1]


def summary(rows: Sequence[Row]) -> str:
    """The tables of the documentation."""
    lines = [
        "| data | noise | start | labels | accuracy predicted | reached | right labels predicted | reached |"
    ]
    lines.append("|---" * 8 + "|")
    groups: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.data, row.noise, row.start, row.labels), []).append(row)
    for key, group in sorted(groups.items(), key=lambda item: (item[0][2] != WARMUP, item[0])):
        cells = [" / ".join(f"{100 * getattr(row, name):.1f}" for row in group) for name in VALUES]
        data, noise, start, labels = key
        lines.append(f"| {data} | {noise} | {start} | {labels} | {' | '.join(cells)} |")
    lines += ["", "| start | labels | plans | accuracy off | inside | right labels off | inside |"]
    lines.append("|---" * 7 + "|")
    for start, labels in product((WARMUP, CONTROL), (0, *BUDGETS)):
        of = [row for row in rows if (row.start, row.labels) == (start, labels)]
        if not of:
            continue
        hits = [inside(row, rows) for row in of]
        off = root_mean_square(row.accuracy - row.accuracy_reached for row in of)
        right_off = root_mean_square(row.right - row.right_reached for row in of)
        counts = [sum(column) for column in zip(*hits, strict=True)]
        lines.append(
            f"| {start} | {labels} | {len(of)} | {100 * off:.1f} | {counts[0]} | {100 * right_off:.1f} | {counts[1]} |"
        )
    return "\n".join(lines)


VALUES = ("accuracy", "accuracy_reached", "right", "right_reached")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="folder with mnist/train.parquet and test.parquet")
    parser.add_argument("--data", nargs="+", default=["digits"], choices=list(DATA))
    parser.add_argument("--images", type=int, default=5000, help="training images of MNIST")
    parser.add_argument("--noise", nargs="+", default=list(KINDS))
    parser.add_argument("--starts", nargs="+", default=[WARMUP, CONTROL], choices=[WARMUP, CONTROL])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="regular expression: data/noise/start/seed")
    parser.add_argument("--work", type=Path, default=Path("table"), help="folder for runs")
    parser.add_argument("--table", type=Path, default=TABLE, help="CSV of all rows")
    parser.add_argument("--again", action="store_true", help="make the chosen plans again")
    parser.add_argument("--summary", action="store_true", help="print Markdown of the CSV and run nothing")
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary(read_table(Row, arguments.table)))
        return
    source, failed = Source(arguments.data_dir, arguments.images), 0
    cells = product(arguments.data, arguments.noise, arguments.seeds, arguments.starts)
    for data, noise, seed, start in cells:
        setting = Setting(data, noise, seed, source, arguments.work)
        rows = read_table(Row, arguments.table)
        same = (setting.title, noise, start, seed)
        known = any((row.data, row.noise, row.start, row.seed) == same for row in rows)
        if not re.search(arguments.only, "/".join(map(str, same))) or (known and not arguments.again):
            continue
        try:
            write_table(Row, [*rows, *rows_of(setting, start)], arguments.table)
            print("/".join(map(str, same)), flush=True)
        except CommandFailed as failure:
            print(f"{same}: {failure}", file=sys.stderr, flush=True)
            failed += 1
    if failed:
        raise SystemExit(f"{failed} plans failed; the same command makes them again.")


if __name__ == "__main__":
    main()
