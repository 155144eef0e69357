"""CIFAR-10 with 40 % background and flip2 noise, ResNet-32: the baseline beside l2rw, mw-net and fsr.

    python benchmarks/cifar10_noise.py --train train.parquet --test test.parquet --seeds 0
    python benchmarks/cifar10_noise.py --train train.parquet --test test.parquet --seeds 0 1 2 3 4 --full   # on a GPU

The small setting (5,000 images, 100 bought, 2,500 test images, a warm-up of 6 epochs and 6 more) runs on a CPU and
shows the order of the arms. The full one is the papers': all 50,000 images from scratch. One command line for all
arms of a noise, with M the method:

    background: metaselect reweight --run RUN --method M --init scratch --model resnet32 --batch-size 100 --epochs 160 \
        --lr 0.1 --momentum 0.9 --weight-decay 2e-4 --schedule step          (100 bought, 10 a class)
    flip2:      the same with --epochs 120 --weight-decay 5e-4               (1,000 bought, 100 a class)

``--schedule step`` divides by 10 at 1/2 and 3/4, which is the schedule of Ren et al.; Shu et al. do so at 2/3 and 5/6.
Ours differs in Nesterov's momentum, in the place of the bought samples in the baseline (in its training set), and in
judging the last epoch. The warm-up is needed for `evaluate` alone there.

Papers: Ren, Zeng, Yang, Urtasun 2018 (arXiv:1803.09050), Table 2 (background; 10 clean a class); Shu et al. 2019
(arXiv:1902.07379), flip noise, ResNet-32 (1,000 clean; best test epoch).
"""

import argparse
import json
from typing import Any

import numpy as np
from common import (
    balanced_subset,
    import_labels,
    make_parser,
    metaselect,
    read_truth,
    row,
    table,
    write_subset,
)

METHODS = ("uniform", "l2rw", "mw-net", "fsr")
BACKGROUNDS = ("airplane", "automobile", "cat", "dog", "horse")  # of the paper's five splits
SMALL, SMALL_TEST, SMALL_BOUGHT = 5000, 2500, 10  # the last a class
SMALL_WARMUP = ("--model", "resnet32", "--epochs", 6, "--batch-size", 100)
SMALL_REWEIGHT = ("--epochs", 6, "--batch-size", 100, "--meta-batch-size", 50)
FULL_BOUGHT = {"background": 10, "flip2": 100}
FULL_WARMUP = ("--model", "resnet32", "--batch-size", 100)
FULL = ("--init", "scratch", "--model", "resnet32", "--batch-size", 100, "--lr", 0.1, "--momentum", 0.9)
FULL_REWEIGHT = {
    "background": (*FULL, "--epochs", 160, "--weight-decay", 2e-4, "--schedule", "step"),
    "flip2": (*FULL, "--epochs", 120, "--weight-decay", 5e-4, "--schedule", "step"),
}
PAPER = {
    "background: uniform": "59.5 +- 2.2",
    "background: l2rw": "86.7 +- 0.5",
    "flip2: uniform": "70.8 +- 2.3",
    "flip2: l2rw": "85.7 +- 0.5",
    "flip2: mw-net": "87.5 +- 0.2",
}


def run_noise(kind: str, seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of every arm on one draw of one noise."""
    rng = np.random.default_rng(seed)
    train, test = arguments.train, arguments.test
    if not arguments.full:
        train = write_subset(train, arguments.work / f"some-{seed}.parquet", SMALL, rng)
        test = write_subset(test, arguments.work / "test.parquet", SMALL_TEST, np.random.default_rng(0))
    noisy, run = arguments.work / f"data-{kind}-{seed}", arguments.work / f"run-{kind}-{seed}"
    target = ("--background", BACKGROUNDS[seed % len(BACKGROUNDS)]) if kind == "background" else ()
    metaselect("corrupt", train, "-o", noisy, "--noise", kind, "--rate", 0.4, *target, "--seed", seed)
    options = FULL_WARMUP if arguments.full else SMALL_WARMUP
    warmup_seconds = metaselect("warmup", noisy / "train.parquet", "--run", run, *options, "--seed", seed)[1]
    truth = noisy / "truth.csv"
    import_labels(
        run, balanced_subset(read_truth(truth), FULL_BOUGHT[kind] if arguments.full else SMALL_BOUGHT, rng)
    )
    options = FULL_REWEIGHT[kind] if arguments.full else SMALL_REWEIGHT
    seconds = {
        method: metaselect("reweight", "--run", run, "--method", method, *options, "--seed", seed)[1]
        for method in arguments.methods
    }
    evaluation = metaselect("evaluate", test, "--run", run, "--truth", truth)[0]
    return [
        row(f"{kind}: warmup", seed, evaluation["warmup"], warmup_seconds),
        *(
            row(f"{kind}: {each}", seed, evaluation["reweight"][each], seconds[each])
            for each in arguments.methods
        ),
    ]


def main() -> None:
    parser = make_parser(__doc__, "cifar10-noise", [0], data=True)
    parser.add_argument("--noise", nargs="+", default=list(FULL_BOUGHT), choices=list(FULL_BOUGHT))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="re-weighters")
    parser.add_argument("--full", action="store_true", help="the papers' setting, for a GPU")
    arguments = parser.parse_args()
    rows = [
        each
        for seed in arguments.seeds
        for kind in arguments.noise
        for each in run_noise(kind, seed, arguments)
    ]
    rows.sort(key=lambda each: arguments.noise.index(each["arm"].split(":")[0]))
    (arguments.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows, PAPER))


if __name__ == "__main__":
    main()
