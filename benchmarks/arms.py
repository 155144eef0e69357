"""What the accuracy benchmarks share: the command line as a subprocess, and the table of results."""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MAKE = Path(__file__).parent.parent / "sample_data" / "make.py"


def parser_of(
    description: str, work: str, seeds: list[int], *, data: bool = False
) -> argparse.ArgumentParser:
    """The options that the accuracy benchmarks share; with ``data``, of a training and a test file too."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core; read by the subprocesses
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if data:
        parser.add_argument("--train", type=Path, required=True, help="Parquet, clean")
        parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--work", type=Path, default=Path(work), help="folder for runs")
    return parser


def over_seeds(description: str, work: str, run_seed: Callable[[int, Path], list[dict[str, Any]]]) -> None:
    """The command line of a benchmark on the digits: every arm on every seed, then the table."""
    given = parser_of(description, work, [0, 1, 2, 3, 4]).parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = [each for seed in given.seeds for each in run_seed(seed, given.work)]
    (given.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows, {}))


def make_digits(data: Path, seed: int) -> None:
    """The demo's digits with another split and other wrong labels."""
    subprocess.run([sys.executable, MAKE, "--seed", str(seed), "-o", data], check=True)


def metaselect(*words: object) -> tuple[dict[str, Any], float]:
    """The JSON result of a command and its wall seconds; a dead training (exit 1) is a result too."""
    started = time.monotonic()
    command = [sys.executable, "-m", "metaselect", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout), time.monotonic() - started


def buy(run: Path, truth: Path, *, sham: bool = False) -> None:
    """Answer the round's form from the truth file, or, for the sham, with the labels as given."""
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


def buy_named(run: Path, labels: Mapping[str, str]) -> None:
    """Buy the labels of samples that no selector chose, clean label by sample_id."""
    form = run.parent / f"{run.name}-bought.csv"
    with form.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sample_id", "clean_label"))
        writer.writerows(labels.items())
    metaselect("annotate", "import", form, "--run", run, "--outside-round")


def read_truth(path: Path) -> dict[str, str]:
    """The clean label by sample_id."""
    with path.open(newline="", encoding="utf-8") as stream:
        return {each["sample_id"]: each["clean_label"] for each in csv.DictReader(stream)}


def some_of_each(truth: Mapping[str, str], each: int, draw: np.random.Generator) -> dict[str, str]:
    """As many samples of every class, drawn at random: clean label by sample_id."""
    members: dict[str, list[str]] = {}
    for sample_id, label in sorted(truth.items()):
        members.setdefault(label, []).append(sample_id)
    chosen = {label: draw.choice(ids, each, replace=False).tolist() for label, ids in sorted(members.items())}
    return {sample_id: label for label, ids in chosen.items() for sample_id in ids}


def write_some(data: Path, out: Path, count: int, draw: np.random.Generator) -> Path:
    """A Parquet file with ``count`` of the samples of another, drawn at random."""
    everything = pq.read_table(data)
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(everything.take(pa.array(draw.permutation(len(everything))[:count])), out)
    return out


def row(arm: str, seed: int, found: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One result, printed as soon as it is known."""
    result = {
        "arm": arm,
        "seed": seed,
        "accuracy": found["test_accuracy"],
        "auc": found.get("weight_auc"),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(result), flush=True)
    return result


def table(rows: list[dict[str, Any]], paper: dict[str, str], *, error: bool = False) -> str:
    """A Markdown table: every seed, mean and spread (sample standard deviation), beside the paper's figures.

    With ``error``, 100 less the accuracy.
    """
    classes = any("classes_without" in each for each in rows)
    what = "error" if error else "accuracy"
    columns = ("arm", f"{what} % (each seed)", "mean", "spread", "weight AUC", "s a run, at most", "paper")
    columns = (*columns[:5], "classes not bought", *columns[5:]) if classes else columns
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm in dict.fromkeys(each["arm"] for each in rows):
        mine = [each for each in rows if each["arm"] == arm]
        values = [100 * abs(error - each["accuracy"]) for each in mine]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        aucs = [each["auc"] for each in mine if each["auc"] is not None]
        cells = (
            arm,
            ", ".join(f"{value:.1f}" for value in values),
            f"{statistics.mean(values):.1f}",
            f"{spread:.1f}",
            f"{statistics.mean(aucs):.3f}" if aucs else "-",
            *([", ".join(str(each.get("classes_without", "-")) for each in mine)] if classes else []),
            f"{max(each['seconds'] for each in mine):.0f}",
            paper.get(arm, "-"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
