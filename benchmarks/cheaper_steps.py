"""Accuracy with options that make a meta step cheaper: digits, 60 % adversarial noise, 20 bought labels.

    python benchmarks/cheaper_steps.py --seeds 0 1 2 3 4

Each seed draws another split and other wrong labels, and seeds every stage. One warm-up, one `select` (rbc) and
one purchase are shared by all arms of a seed, which differ in the option alone. Seconds are of the whole `reweight`;
the cost of a step is in meta_step.py.
"""

from pathlib import Path
from typing import Any

from common import buy_labels, make_digits, metaselect, row, run_over_seeds

METHODS = ("direct", "l2rw")
SETTINGS: dict[str, tuple[str, ...]] = {
    "exact": (),
    "every=2": ("--option", "every=2"),
    "every=5": ("--option", "every=5"),
    "scope=top": ("--option", "scope=top"),
    "scope=last": ("--option", "scope=last"),
    "meta batch of 5": ("--meta-batch-size", "5"),
    "accumulate 2": ("--accumulate", "2"),
}


def run_seed(seed: int, work: Path) -> list[dict[str, Any]]:
    """The results of every arm on one draw of the noise."""
    data, run = work / f"data-{seed}", work / f"run-{seed}"
    make_digits(data, seed)
    metaselect("warmup", data / "train.parquet", "--run", run, "--seed", seed)
    metaselect("select", "--run", run, "--budget", 20, "--method", "rbc", "--seed", seed)
    buy_labels(run, data / "truth.csv")
    seconds = {}
    for method in METHODS:
        for setting, words in SETTINGS.items():
            name = f"{method}-{list(SETTINGS).index(setting)}"
            words = ("--method", method, "--name", name, "--seed", seed, *words)
            seconds[f"{method}, {setting}"] = name, metaselect("reweight", "--run", run, *words)[1]
    evaluation = metaselect("evaluate", data / "test.parquet", "--run", run, "--truth", data / "truth.csv")[0]
    return [row(arm, seed, evaluation["reweight"][name], wall) for arm, (name, wall) in seconds.items()]


if __name__ == "__main__":
    run_over_seeds(__doc__, "cheaper-steps", run_seed)
