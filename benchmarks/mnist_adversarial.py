"""MNIST with 60 % adversarial label noise and 20 bought labels: every selector with the same commands.

    python benchmarks/mnist_adversarial.py --train train.parquet --test test.parquet --seeds 0 1 2
    python benchmarks/mnist_adversarial.py ... --selectors rbc --methods direct l2rw mw-net

Noise is a random derangement of the classes, drawn per seed; the model is LeNet; accuracy is that of the last epoch;
there is no clean validation set. All arms of a seed share one warm-up. Paper: Wu, Stein, Gardner, Naik 2023
(arXiv:2302.04418), Table 1, column MNIST (500 epochs, best epoch on clean validation data).
"""

import csv
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from common import buy_labels, make_parser, metaselect, row, table

from metaselect.registry import SELECTORS

PAPER = {
    "warmup": "51.7 +- 1.5",
    "random + direct": "85.7 +- 0.9",
    "certain + direct": "81.8 +- 0.9",
    "uncertain + direct": "76.4 +- 0.5",
    "craig + direct": "92.8 +- 0.1",
    "ta-vaal + direct": "79.3 +- 0.2",
    "rbc-k + direct": "93.8 +- 0.6",
    "rbc + direct": "93.0 +- 1.0",
    "gbc + direct": "94.3 +- 0.2",
}
ONE_SEED = ("ta-vaal",)
NOISE = ("--noise", "adversarial", "--map", "random", "--rate", 0.6)


class Bench:
    """Runs all arms of the benchmark.

    Args:
        train: MNIST, clean.
        test: MNIST's test set.
        work: folder for runs.
        methods: re-weighters.
    """

    def __init__(self, train: Path, test: Path, work: Path, methods: list[str]) -> None:
        self.train, self.test, self.work, self.methods = train, test, work, methods

    def warm(self, seed: int) -> tuple[int, float]:
        """Make the noise and the warm-up that all arms of a seed share; returns the seed and the warm-up's seconds."""
        noisy = self.work / f"data-{seed}"
        metaselect("corrupt", self.train, "-o", noisy, *NOISE, "--seed", seed)
        base = self.work / f"run-{seed}"
        return seed, metaselect("warmup", noisy / "train.parquet", "--run", base, "--seed", seed)[1]

    def arm(self, selector: str, seed: int, warmup_seconds: float) -> list[dict[str, Any]]:
        """Select, buy, re-weight and evaluate; returns the results."""
        truth = self.work / f"data-{seed}/truth.csv"
        run = self.work / f"run-{seed}-{selector}"
        shutil.copytree(self.work / f"run-{seed}", run)
        choose = ("select", "--run", run, "--budget", 20, "--method", selector, "--seed", seed)
        select_seconds = metaselect(*choose)[1]
        buy_labels(run, truth)
        seconds = {
            method: metaselect("reweight", "--run", run, "--method", method, "--seed", seed)[1]
            for method in self.methods
        }
        evaluation = metaselect("evaluate", self.test, "--run", run, "--truth", truth)[0]
        with (run / "annotate/meta_set.csv").open(newline="") as stream:
            without = 10 - len({answer["clean_label"] for answer in csv.DictReader(stream)})
        rows = [row("warmup", seed, evaluation["warmup"], warmup_seconds)] if selector == "rbc" else []
        for method in self.methods:
            total = warmup_seconds + select_seconds + seconds[method]
            measured = row(f"{selector} + {method}", seed, evaluation["reweight"][method], total)
            rows.append(measured | {"classes_without": without})
        shutil.rmtree(run / "data")  # 47 MB each
        return rows


def main() -> None:
    parser = make_parser(__doc__, "mnist-adversarial", [0, 1, 2], data=True)
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS), choices=list(SELECTORS))
    parser.add_argument("--methods", nargs="+", default=["direct"], help="re-weighters")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of one thread each")
    arguments = parser.parse_args()
    bench = Bench(arguments.train, arguments.test, arguments.work, arguments.methods)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        warmed = list(pool.map(bench.warm, arguments.seeds))
        jobs = [
            pool.submit(bench.arm, selector, seed, seconds)
            for selector in arguments.selectors
            for seed, seconds in (warmed[:1] if selector in ONE_SEED else warmed)
        ]
        rows = list(chain.from_iterable(job.result() for job in jobs))
    (arguments.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows, PAPER))


if __name__ == "__main__":
    main()
