"""Shared by the accuracy benchmarks: running commands, buying labels, and the table of results."""

import argparse
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaselect.cli.main import main
from metaselect.signals import INTERRUPTED, TERMINATED

MAKE = Path(__file__).parent.parent / "sample_data" / "make.py"


def make_parser(
    description: str, work: str, seeds: list[int], *, data: bool = False
) -> argparse.ArgumentParser:
    """A parser with the options that the accuracy benchmarks share; with ``data``, also a training and a test file."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread in each subprocess
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if data:
        parser.add_argument("--train", type=Path, required=True, help="Parquet, clean")
        parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--work", type=Path, default=Path(work), help="folder for runs")
    return parser


def run_over_seeds(
    description: str, work: str, run_seed: Callable[[int, Path], list[dict[str, Any]]]
) -> None:
    """Run a benchmark on the digits: every arm on every seed, then print the table."""
    arguments = make_parser(description, work, [0, 1, 2, 3, 4]).parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = [each for seed in arguments.seeds for each in run_seed(seed, arguments.work)]
    (arguments.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows, {}))


def make_digits(data: Path, seed: int) -> None:
    """Write the demo's digits with another split and other wrong labels."""
    subprocess.run([sys.executable, MAKE, "--seed", str(seed), "-o", data], check=True)


def metaselect(*arguments: object) -> tuple[dict[str, Any], float]:
    """Run a command; returns its JSON result and its wall seconds. A failed training (exit 1) is a result too."""
    started = time.monotonic()
    command = [sys.executable, "-m", "metaselect", *map(str, arguments), "--json"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return json.loads(process.stdout), time.monotonic() - started


class CommandFailed(Exception):
    """A command that ended with an error; the message is what it wrote to stderr."""


def in_process(*arguments: object) -> tuple[dict[str, Any], int]:
    """Run a command in this process; returns its JSON result and its exit code, 1 for a training called dead.

    Raises:
        CommandFailed: any other exit code, or 1 without a result, as of a training that diverged.
    """
    words = [*map(str, arguments), "--json"]
    result, notes = io.StringIO(), io.StringIO()
    # stage.json records the command line
    with patch.object(sys, "argv", ["metaselect", *words]), redirect_stdout(result), redirect_stderr(notes):
        code = main(words)
    if code in (INTERRUPTED, TERMINATED):
        raise KeyboardInterrupt
    found: dict[str, Any] = json.loads(result.getvalue() or "{}")
    if code not in (0, 1) or "error" in found:
        raise CommandFailed(f"metaselect {' '.join(words)} ended with {code}:\n{notes.getvalue().strip()}")
    return found, code


def buy_labels(run: Path, truth: Path, *, sham: bool = False) -> None:
    """Answer the round's form from the truth file, or, for the sham, with the given labels."""
    if not sham:
        metaselect("annotate", "simulate", truth, "--run", run)
        return
    form = run.parent / f"{run.name}-sham.csv"
    metaselect("annotate", "export", "--run", run, "--show-given", "--no-images", "-o", form)
    with form.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with form.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "clean_label": row["given_label"]} for row in rows)
    metaselect("annotate", "import", form, "--run", run)


def import_labels(run: Path, labels: Mapping[str, str]) -> None:
    """Import clean labels, by sample_id, of samples that no selector chose."""
    form = run.parent / f"{run.name}-bought.csv"
    with form.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sample_id", "clean_label"))
        writer.writerows(labels.items())
    metaselect("annotate", "import", form, "--run", run, "--outside-round")


def read_truth(path: Path) -> dict[str, str]:
    """The clean labels of a truth file, by sample_id."""
    with path.open(newline="", encoding="utf-8") as stream:
        return {each["sample_id"]: each["clean_label"] for each in csv.DictReader(stream)}


def balanced_subset(truth: Mapping[str, str], each: int, rng: np.random.Generator) -> dict[str, str]:
    """The same number of samples of every class, drawn at random: clean labels by sample_id."""
    members: dict[str, list[str]] = {}
    for sample_id, label in sorted(truth.items()):
        members.setdefault(label, []).append(sample_id)
    chosen = {label: rng.choice(ids, each, replace=False).tolist() for label, ids in sorted(members.items())}
    return {sample_id: label for label, ids in chosen.items() for sample_id in ids}


def write_subset(data: Path, out: Path, count: int, rng: np.random.Generator) -> Path:
    """A Parquet file with ``count`` samples of another one, drawn at random."""
    everything = pq.read_table(data)
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(everything.take(pa.array(rng.permutation(len(everything))[:count])), out)
    return out


def row(arm: str, seed: int, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One row of the results, also printed at once."""
    result = {
        "arm": arm,
        "seed": seed,
        "accuracy": metrics["test_accuracy"],
        "auc": metrics.get("weight_auc"),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(result), flush=True)
    return result


def table(rows: list[dict[str, Any]], paper: dict[str, str], *, error: bool = False) -> str:
    """A Markdown table: every seed, mean and sample standard deviation, beside the paper's figures.

    With ``error``, the error rate instead of the accuracy.
    """
    classes = any("classes_without" in each for each in rows)
    metric = "error" if error else "accuracy"
    columns = ("arm", f"{metric} % (each seed)", "mean", "spread", "weight AUC", "s a run, at most", "paper")
    columns = (*columns[:5], "classes not bought", *columns[5:]) if classes else columns
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm in dict.fromkeys(each["arm"] for each in rows):
        arm_rows = [each for each in rows if each["arm"] == arm]
        values = [100 * abs(error - each["accuracy"]) for each in arm_rows]
        spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else "-"
        aucs = [each["auc"] for each in arm_rows if each["auc"] is not None]
        seconds = [each["seconds"] for each in arm_rows]
        cells = (
            arm,
            ", ".join(f"{value:.1f}" for value in values),
            f"{statistics.mean(values):.1f}",
            spread,
            f"{statistics.mean(aucs):.3f}" if aucs else "-",
            *([", ".join(str(each.get("classes_without", "-")) for each in arm_rows)] if classes else []),
            "-" if None in seconds else f"{max(seconds):.0f}",
            paper.get(arm, "-"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
