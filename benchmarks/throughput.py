"""Images per second of the real `metaselect reweight`, beside the bare steps of `meta_step.py`.

    python benchmarks/throughput.py --train cifar10/train.parquet --rounds 3

ResNet-32, batches of 100, crops and flips, 100 bought labels (as they were given, since timing does not depend on
them), meta batches of 100 and of 25, one thread. `--progress json` prints how many samples were trained on;
the CPU time (from /proc, so Linux only) is read as each line arrives, and a speed is between the first line
and the last before the end: without the start, the first step and the end of the epoch. Methods alternate within each
round, the order reversed every other round, and a ratio is to `--method uniform`, which is plain training by the same
loop, in the same round. The bare steps are timed in the same rounds. Goal: within 10 % of their ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from common import buy_labels, metaselect
from meta_step import OPTIONS, SUBJECTS, Arm, ours, plain

MODEL, BATCH = "resnet32", 100


class Trained(NamedTuple):
    """A method by its command, and its bare step."""

    name: str
    method: str
    meta_batch: int
    bare: Arm


def prepared(train: Path, samples: int, run: Path) -> Path:
    """A run with a warm-up of one epoch and 100 bought labels; an existing one is reused."""
    if (run / "annotate" / "meta_set.csv").is_file():
        return run
    metaselect("ingest", train, "--run", run, "--limit", samples + BATCH)
    metaselect("warmup", "--run", run, "--model", MODEL, "--epochs", 1, "--batch-size", BATCH)
    metaselect("select", "--run", run, "--budget", BATCH, "--method", "random")
    buy_labels(run, run, sham=True)
    return run


def trained() -> list[Trained]:
    """Uniform first, then every method with both meta batches."""
    methods = [Trained("uniform", "uniform", 0, Arm("plain", plain(), SUBJECTS[MODEL], BATCH, BATCH, "cpu"))]
    for size in (BATCH, BATCH // 4):
        for method in ("l2rw", "direct", "mw-net", "fsr"):
            bare = Arm(method, ours(method), SUBJECTS[MODEL], BATCH, size, "cpu")
            methods.append(Trained(f"{method}, m = {size}", method, size, bare))
    return methods


def seconds_an_image(run: Path, arm: Trained) -> float:
    """CPU seconds of the command per image that it trains on."""
    words = ["reweight", "--run", run, "--method", arm.method, "--epochs", 1, "--batch-size", BATCH]
    words += ["--force", "--progress", "json", "--json"]
    if arm.meta_batch:
        words += ["--meta-batch-size", arm.meta_batch]
    for option in OPTIONS.get(arm.method, []):
        words += ["--option", option]
    command = [sys.executable, "-m", "metaselect", *map(str, words)]
    progress_points: list[tuple[int, float]] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if not line.startswith("{"):
                continue
            state = json.loads(line)
            if state["done"] < state["total"]:
                progress_points.append((state["done"], cpu_seconds(process.pid)))
    # exit code 1: the training failed, which is possible after one epoch
    if process.returncode not in (0, 1) or len(progress_points) < 2:
        raise SystemExit(
            f"{' '.join(command)} ended with {process.returncode} after {len(progress_points)} lines"
        )
    (first, started), (last, ended) = progress_points[0], progress_points[-1]
    return (ended - started) / (last - first)


def cpu_seconds(pid: int) -> float:
    """User and system time that a running process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1000, help="beside the bought ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("throughput"), help="folder for the run")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the subprocesses
    torch.set_num_threads(1)
    run = prepared(arguments.train, arguments.samples, arguments.work / "run")
    arms = trained()
    for arm in arms:
        arm.bare.run()
    real: dict[str, list[float]] = {arm.name: [] for arm in arms}
    bare: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for number in range(arguments.rounds):
        for arm in arms if number % 2 == 0 else reversed(arms):
            real[arm.name].append(seconds_an_image(run, arm))
            bare[arm.name].append(arm.bare.seconds() / BATCH)
            print(json.dumps([arm.name, real[arm.name][-1], bare[arm.name][-1]]), flush=True)
    columns = ("method", "images/s", "ratio, median", "range", "bare step, median", "range", "real / bare")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for arm in arms:
        ratios, steps = ratios_of(real, arm.name), ratios_of(bare, arm.name)
        ends = [f"{min(values):.2f} to {max(values):.2f}" for values in (ratios, steps)]
        middle = statistics.median(ratios), statistics.median(steps)
        print(
            f"| {arm.name} | {1 / statistics.median(real[arm.name]):.0f} | {middle[0]:.2f} | {ends[0]} "
            f"| {middle[1]:.2f} | {ends[1]} | {middle[0] / middle[1]:.2f} |"
        )


def ratios_of(seconds: dict[str, list[float]], name: str) -> list[float]:
    """Ratios of a method's seconds to those of uniform, round by round."""
    return [mine / base for mine, base in zip(seconds[name], seconds["uniform"], strict=True)]


if __name__ == "__main__":
    main()
