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
from pathlib import Path

from arms import buy, metaselect, row, table

PAPER = {"warmup": "51.7 +- 1.5", "random + direct": "85.7 +- 0.9", "rbc + direct": "93.0 +- 1.0"}
ARMS = {"rbc": ("direct", "mw-net", "l2rw"), "random": ("direct",)}
NOISE = ("--noise", "adversarial", "--map", "random", "--rate", 0.6)


def run_seed(seed: int, train: Path, test: Path, work: Path) -> list[dict]:
    """Every arm on one draw of the noise."""
    noisy = work / f"data-{seed}"
    metaselect("corrupt", train, "-o", noisy, *NOISE, "--seed", seed)
    base = work / f"run-{seed}"
    warmup_seconds = metaselect("warmup", noisy / "train.parquet", "--run", base, "--seed", seed)[1]
    rows = []
    for selector, methods in ARMS.items():
        run = work / f"run-{seed}-{selector}"
        shutil.copytree(base, run)
        choose = ("select", "--run", run, "--budget", 20, "--method", selector, "--seed", seed)
        select_seconds = metaselect(*choose)[1]
        buy(run, noisy / "truth.csv")
        seconds = {m: metaselect("reweight", "--run", run, "--method", m, "--seed", seed)[1] for m in methods}
        found = metaselect("evaluate", test, "--run", run, "--truth", noisy / "truth.csv")[0]
        if selector == "rbc":
            rows.append(row("warmup", seed, found["warmup"], warmup_seconds))
        for method in methods:
            total = warmup_seconds + select_seconds + seconds[method]
            rows.append(row(f"{selector} + {method}", seed, found["reweight"][method], total))
    return rows


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
    rows = [each for seed in given.seeds for each in run_seed(seed, given.train, given.test, given.work)]
    (given.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows, PAPER))


if __name__ == "__main__":
    main()
