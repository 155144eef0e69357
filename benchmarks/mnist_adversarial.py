"""MNIST with 60 % adversarial label noise and 20 bought labels: every arm through one command line.

    python benchmarks/mnist_adversarial.py --train train.parquet --test test.parquet --seeds 0 1 2

Noise is a random derangement of the classes, drawn per seed; the model is LeNet; accuracy is that of the last epoch;
there is no clean validation set. Paper: Wu, Stein, Gardner, Naik 2023 (arXiv:2302.04418), Table 1, column MNIST
(500 epochs, best epoch on clean validation data).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

PAPER = {"warmup": "51.7 +- 1.5", "random + direct": "85.7 +- 0.9", "rbc + direct": "93.0 +- 1.0"}
ARMS = {"rbc": ("direct", "mw-net", "l2rw"), "random": ("direct",)}


def metaselect(*words: object) -> tuple[dict, float]:
    """The JSON result of a command and its wall seconds; a dead training (exit 1) is a result too."""
    started = time.monotonic()
    command = [sys.executable, "-m", "metaselect", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout), time.monotonic() - started


def run_seed(seed: int, train: Path, test: Path, work: Path) -> list[dict]:
    noisy = work / f"data-{seed}"
    noise = ("--noise", "adversarial", "--map", "random", "--rate", 0.6, "--seed", seed)
    metaselect("corrupt", train, "-o", noisy, *noise)
    base = work / f"run-{seed}-rbc"
    _, warmup_seconds = metaselect("warmup", noisy / "train.parquet", "--run", base, "--seed", seed)
    shutil.copytree(base, work / f"run-{seed}-random")
    rows = []
    for selector, methods in ARMS.items():
        run = work / f"run-{seed}-{selector}"
        _, select_seconds = metaselect(
            "select", "--run", run, "--budget", 20, "--method", selector, "--seed", seed
        )
        metaselect("annotate", "simulate", noisy / "truth.csv", "--run", run)
        seconds = {m: metaselect("reweight", "--run", run, "--method", m, "--seed", seed)[1] for m in methods}
        found, _ = metaselect("evaluate", test, "--run", run, "--truth", noisy / "truth.csv")
        if selector == "rbc":
            rows.append({"seed": seed, "arm": "warmup", "accuracy": found["warmup"]["test_accuracy"],
                         "auc": None, "seconds": warmup_seconds})  # fmt: skip
        for method in methods:
            result = found["reweight"][method]
            total = warmup_seconds + select_seconds + seconds[method]
            rows.append({"seed": seed, "arm": f"{selector} + {method}", "accuracy": result["test_accuracy"],
                         "auc": result["weight_auc"], "seconds": total})  # fmt: skip
        for row in rows[-len(methods) - 1 :]:
            print(json.dumps(row), flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """A Markdown table: mean and spread over seeds, beside the paper."""
    columns = ("arm", "accuracy % (each seed)", "mean", "spread", "weight AUC", "s a run, at most", "paper")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        values = [100 * row["accuracy"] for row in mine]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        aucs = [row["auc"] for row in mine if row["auc"] is not None]
        auc = f"{statistics.mean(aucs):.3f}" if aucs else "-"
        each = ", ".join(f"{value:.1f}" for value in values)
        lines.append(
            f"| {arm} | {each} | {statistics.mean(values):.1f} | {spread:.1f} | {auc} | "
            f"{max(row['seconds'] for row in mine):.0f} | {PAPER.get(arm, '-')} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("mnist-adversarial"), help="folder for runs")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core; read by the subprocesses
    rows = [row for seed in given.seeds for row in run_seed(seed, given.train, given.test, given.work)]
    (given.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
