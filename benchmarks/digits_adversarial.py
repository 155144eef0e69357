"""The demo over several noise seeds: digits with 60 % adversarial noise, 20 bought labels, shipped defaults.

    python benchmarks/digits_adversarial.py --seeds 0 1 2 3 4

Each seed draws another split and another set of wrong labels (``sample_data/make.py --seed``), and seeds every stage.
The sham is the same pipeline with the bought labels replaced by the given ones: what the labels themselves are worth.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from arms import buy, metaselect, row, table

MAKE = Path(__file__).parent.parent / "sample_data" / "make.py"
ARMS = (
    ("rbc", False, "direct"),
    ("gbc", False, "direct"),
    ("random", False, "direct"),
    ("rbc", True, "direct"),
)


def run_seed(seed: int, work: Path) -> list[dict]:
    """Every arm on one draw of the noise."""
    data = work / f"data-{seed}"
    subprocess.run([sys.executable, MAKE, "--seed", str(seed), "-o", data], check=True)
    base = work / f"run-{seed}"
    warmup_seconds = metaselect("warmup", data / "train.parquet", "--run", base, "--seed", seed)[1]
    rows = []
    for selector, sham, method in ARMS:
        run = work / f"run-{seed}-{selector}{'-sham' if sham else ''}"
        shutil.copytree(base, run)
        seconds = warmup_seconds
        seconds += metaselect("select", "--run", run, "--budget", 20, "--method", selector, "--seed", seed)[1]
        buy(run, data / "truth.csv", sham=sham)
        if selector == "rbc" and not sham:
            uniform_seconds = metaselect("reweight", "--run", run, "--method", "uniform", "--seed", seed)[1]
        seconds += metaselect("reweight", "--run", run, "--method", method, "--seed", seed)[1]
        test = (data / "test.parquet", "--run", run, "--truth", data / "truth.csv")
        found = metaselect("evaluate", *test)[0]
        if selector == "rbc" and not sham:
            rows.append(row("warmup", seed, found["warmup"], warmup_seconds))
            rows.append(row("uniform", seed, found["reweight"]["uniform"], warmup_seconds + uniform_seconds))
        name = f"{selector} + {method}{', sham' if sham else ''}"
        rows.append(row(name, seed, found["reweight"][method], seconds))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=Path("digits-adversarial"), help="folder for runs")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core; read by the subprocesses
    given.work.mkdir(parents=True, exist_ok=True)
    rows = [each for seed in given.seeds for each in run_seed(seed, given.work)]
    (given.work / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows, {}))


if __name__ == "__main__":
    main()
