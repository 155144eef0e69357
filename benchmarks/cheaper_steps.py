"""What the knobs that make a meta step cheaper cost in quality: digits, 60 % adversarial noise, 20 bought labels.

    python benchmarks/cheaper_steps.py --seeds 0 1 2 3 4

Each seed draws another split and other wrong labels, and seeds every stage. One warm-up, one `select` (rbc) and
one purchase serve all arms of a seed, which differ in the knob alone. Seconds are of `reweight` as a whole; what a step
costs is in meta_step.py.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from arms import buy, metaselect, row, table

MAKE = Path(__file__).parent.parent / "sample_data" / "make.py"
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


def run_seed(seed: int, work: Path) -> list[dict]:
    """Every arm on one draw of the noise."""
    data, run = work / f"data-{seed}", work / f"run-{seed}"
    subprocess.run([sys.executable, MAKE, "--seed", str(seed), "-o", data], check=True)
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=Path("cheaper-steps"), help="folder for runs")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core; read by the subprocesses
    given.work.mkdir(parents=True, exist_ok=True)
    rows = [each for seed in given.seeds for each in run_seed(seed, given.work)]
    (given.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows, {}))


if __name__ == "__main__":
    main()
