"""The demo over several noise seeds: digits with 60 % adversarial noise, 20 bought labels, shipped defaults.

    python benchmarks/digits_adversarial.py --seeds 0 1 2 3 4

Each seed draws another split and another set of wrong labels (``sample_data/make.py --seed``), and seeds every stage.
The sham is the same pipeline with the bought labels replaced by the given ones: it shows what the labels contribute.
"""

import shutil
from pathlib import Path
from typing import Any

from common import buy_labels, make_digits, metaselect, row, run_over_seeds

ARMS = (
    ("rbc", False, "direct"),
    ("gbc", False, "direct"),
    ("random", False, "direct"),
    ("rbc", True, "direct"),
)


def run_seed(seed: int, work: Path) -> list[dict[str, Any]]:
    """The results of every arm on one draw of the noise."""
    data = work / f"data-{seed}"
    make_digits(data, seed)
    base = work / f"run-{seed}"
    warmup_seconds = metaselect("warmup", data / "train.parquet", "--run", base, "--seed", seed)[1]
    rows = []
    for selector, sham, method in ARMS:
        run = work / f"run-{seed}-{selector}{'-sham' if sham else ''}"
        shutil.copytree(base, run)
        seconds = warmup_seconds
        seconds += metaselect("select", "--run", run, "--budget", 20, "--method", selector, "--seed", seed)[1]
        buy_labels(run, data / "truth.csv", sham=sham)
        if selector == "rbc" and not sham:
            uniform_seconds = metaselect("reweight", "--run", run, "--method", "uniform", "--seed", seed)[1]
        seconds += metaselect("reweight", "--run", run, "--method", method, "--seed", seed)[1]
        test = (data / "test.parquet", "--run", run, "--truth", data / "truth.csv")
        evaluation = metaselect("evaluate", *test)[0]
        if selector == "rbc" and not sham:
            rows.append(row("warmup", seed, evaluation["warmup"], warmup_seconds))
            rows.append(
                row("uniform", seed, evaluation["reweight"]["uniform"], warmup_seconds + uniform_seconds)
            )
        name = f"{selector} + {method}{', sham' if sham else ''}"
        rows.append(row(name, seed, evaluation["reweight"][method], seconds))
    return rows


if __name__ == "__main__":
    run_over_seeds(__doc__, "digits-adversarial", run_seed)
