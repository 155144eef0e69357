"""What the knobs that make a meta step cheaper cost in quality: digits, 60 % adversarial noise, 20 bought labels.

    python benchmarks/cheaper_steps.py --seeds 0 1 2 3 4

Each seed draws another split and other wrong labels, and seeds every stage. One warm-up, one `select` (rbc) and
one purchase serve all arms of a seed, which differ in the knob alone. Seconds are of `reweight` as a whole; what a step
costs is in meta_step.py.
"""

from pathlib import Path
from typing import Any

from arms import buy, make_digits, metaselect, over_seeds, row

METHODS = ("direct", "l2rw")
KNOBS: dict[str, tuple[str, ...]] = {
    "exact": (),
    "every=2": ("--option", "every=2"),
    "every=5": ("--option", "every=5"),
    "scope=top": ("--option", "scope=top"),
    "scope=last": ("--option", "scope=last"),
    "meta batch of 5": ("--meta-batch-size", "5"),
    "accumulate 2": ("--accumulate", "2"),
}


def run_seed(seed: int, work: Path) -> list[dict[str, Any]]:
    """Every arm on one draw of the noise."""
    data, run = work / f"data-{seed}", work / f"run-{seed}"
    make_digits(data, seed)
    metaselect("warmup", data / "train.parquet", "--run", run, "--seed", seed)
    metaselect("select", "--run", run, "--budget", 20, "--method", "rbc", "--seed", seed)
    buy(run, data / "truth.csv")
    seconds = {}
    for method in METHODS:
        for knob, words in KNOBS.items():
            name = f"{method}-{list(KNOBS).index(knob)}"
            words = ("--method", method, "--name", name, "--seed", seed, *words)
            seconds[f"{method}, {knob}"] = name, metaselect("reweight", "--run", run, *words)[1]
    found = metaselect("evaluate", data / "test.parquet", "--run", run, "--truth", data / "truth.csv")[0]
    return [row(arm, seed, found["reweight"][name], wall) for arm, (name, wall) in seconds.items()]


if __name__ == "__main__":
    over_seeds(__doc__, "cheaper-steps", run_seed)
