"""MNIST 4 against 9, 10 clean images: the baseline and l2rw at 200 to 1, beside a balanced training set.

    python benchmarks/mnist_4_vs_9.py --train train.parquet --test test.parquet --seeds 0 1 2 3 4
    python benchmarks/mnist_4_vs_9.py --train train.parquet --test test.parquet --net ren --rates constant --epochs 25
    python benchmarks/mnist_4_vs_9.py --train train.parquet --test test.parquet --rates constant --epochs 25 \
        --shares 0.9 0.95 0.98 0.995 --methods uniform random proportion resample hard-mining l2rw --seeds 0 1 2

5,000 training images, 99.5 % of them nines, with 5 clean images of each class among them, and 500 balanced test
images, all drawn per seed. All labels are right; the 10 clean ones are imported as bought labels that no selector
chose. LeNet from scratch, 4,000 steps of 100, one command line for all arms: once at the paper's rate of 1e-3 with its
code's momentum of 0.9, once at the shipped 0.05 without; shipped defaults for the rest (cosine, weight decay 5e-4).
"50 %" is the baseline on 2,500 images a class; --shares are those of the nines in the others. With --net ren, the
network of the paper's code (``ren_net.py``) in place of LeNet; with --rates constant, the paper's rate from the first
step to the last. A warm-up of one epoch is made because `evaluate` asks for one.

Paper: Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050), section 4.1 and Figure 2, a curve without a table: mean of 10
splits, 3 convolutions, one output. Its code takes 4,000 steps for l2rw and 8,000 for the baselines.
"""

import argparse
import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import balanced_subset, import_labels, make_parser, metaselect, row, table

MINORITY, MAJORITY = 4, 9
TRAIN, TEST, CLEAN = 5000, 500, 5  # the last a class
BALANCED = 0.5  # share of the majority
WARMUP = ("--model", "lenet", "--epochs", 1)
NETS = {"lenet": "lenet", "ren": "ren_net:build"}
EPOCHS = 80  # 4,000 steps
OPTIONS = ("--init", "scratch", "--batch-size", 100, "--folds", 0)
MEASURED_RATES = ["paper", "shipped"]
Words = tuple[object, ...]
RATES: dict[str, Words] = {
    "paper": ("--lr", 0.001, "--momentum", 0.9),
    "shipped": (),
    "constant": ("--lr", 0.001, "--momentum", 0.9, "--schedule", "constant"),
}
PAPER = {"99.5 %: uniform, paper": "near 50", "99.5 %: l2rw, paper": "about 2 points above balanced"}


def write_two_classes(data: Path, out: Path, minority: int, majority: int, rng: np.random.Generator) -> Path:
    """A Parquet file with this many fours and nines, drawn at random; labels are strings, so that K is 2."""
    everything = pq.read_table(data)
    labels = everything["label"].to_numpy()
    wanted = ((MINORITY, minority), (MAJORITY, majority))
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:count] for c, count in wanted])
    some = everything.take(pa.array(chosen))
    columns = {"sample_id": some["id"], "image": some["image"], "label": some["label"].cast(pa.string())}
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), out)
    return out


def train(
    data: Path, run: Path, seed: int, *, arms: list[tuple[str, str]], how: Words, rng: np.random.Generator
) -> dict[str, float]:
    """Train by every (rate, method) in a new run; returns the seconds of each, by its name in the run.

    ``how`` are options of `reweight` that all arms have.
    """
    metaselect("warmup", data, "--run", run, *WARMUP, "--seed", seed)
    pool = pq.read_table(data, columns=["sample_id", "label"])
    labels = dict(zip(pool["sample_id"].to_pylist(), pool["label"].to_pylist(), strict=True))
    import_labels(run, balanced_subset(labels, CLEAN, rng))
    seconds = {}
    for rate, method in arms:
        name = f"{method}-{rate}"
        arm = ("--method", method, "--name", name, *RATES[rate])
        seconds[name] = metaselect("reweight", "--run", run, *OPTIONS, *how, *arm, "--seed", seed)[1]
    return seconds


def run_seed(seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm on one split."""
    rng = np.random.default_rng(seed)
    test = write_two_classes(
        arguments.test, arguments.work / f"test-{seed}.parquet", TEST // 2, TEST // 2, rng
    )
    rows = []
    for share in (*arguments.shares, BALANCED):
        name = f"{100 * share:g} %"
        majority = round(share * TRAIN)
        data = write_two_classes(
            arguments.train, arguments.work / f"{share}-{seed}.parquet", TRAIN - majority, majority, rng
        )
        run = arguments.work / f"run-{share}-{seed}"
        methods = ["uniform"] if share == BALANCED else arguments.methods
        arms = list(product(arguments.rates, methods))
        how = ("--model", NETS[arguments.net], "--epochs", arguments.epochs)
        seconds = train(data, run, seed, arms=arms, how=how, rng=rng)
        evaluation = metaselect("evaluate", test, "--run", run, "--trust-model")[0]["reweight"]  # ren_net
        for each in seconds:
            method, rate = each.rsplit("-", 1)
            arm = f"{name}: {method}, {rate}"
            rows.append(row(arm, seed, evaluation[each], seconds[each]))
    return rows


def main() -> None:
    parser = make_parser(__doc__, "mnist-4-vs-9", [0, 1, 2, 3, 4], data=True)
    parser.add_argument("--methods", nargs="+", default=["uniform", "l2rw"], help="re-weighters")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.995], help="of the nines")
    parser.add_argument("--net", default="lenet", choices=list(NETS))
    parser.add_argument("--rates", nargs="+", default=MEASURED_RATES, choices=list(RATES))
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of 50 steps")
    arguments = parser.parse_args()
    places = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))  # the first is that of ren_net
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    rows = [each for seed in arguments.seeds for each in run_seed(seed, arguments)]
    rows.sort(key=lambda each: arguments.rates.index(each["arm"].rsplit(", ", 1)[1]))
    (arguments.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows, PAPER, error=True))


if __name__ == "__main__":
    main()
