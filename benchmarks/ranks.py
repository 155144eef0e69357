"""Speed-up of `warmup`, `select` and `reweight` by the processes of torchrun.

    python benchmarks/ranks.py --train cifar10/train.parquet --samples 2000 --ranks 1 2

One thread a process: one epoch of the warm-up without folds; GBC at its checkpoint; one epoch of `uniform`
and of `direct` without their comparison. "wall" is the time of the stage itself, without the imports of the processes;
"CPU" is that of all processes together, less that of the same command once more, which has nothing to do. A speed-up is
a quotient of wall times. "of CPU" is the CPU time of one process over the mean of several: what they would reach on
cores of their own, if nobody waited.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TRUTH = "truth.csv"
STAGES = ("warmup", "select", "reweight/uniform", "reweight/direct")
"""Folders."""
FOLDERS = {"select": "select/round-1"}


def commands(model: str, batch_size: int) -> dict[str, list[str]]:
    """The command lines of ``STAGES``."""
    training = f"--epochs 1 --batch-size {batch_size} --folds 0"
    lines = (
        f"warmup --model {model} --checkpoints 1 {training}",
        "select --method gbc --budget 50",
        f"reweight --method uniform {training}",
        f"reweight --method direct {training}",
    )
    return {stage: line.split() for stage, line in zip(STAGES, lines, strict=True)}


class Times(NamedTuple):
    """Seconds of a stage: of the wall, and of the CPU of all processes."""

    wall: float
    cpu: float


def engine(ranks: int) -> list[str]:
    """The words that start so many processes of MetaSelect."""
    if ranks == 1:
        return [sys.executable, "-m", "metaselect"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    return [*launcher, "-m", "metaselect", "--"]


def timed(ranks: int, run: Path, stage: str, command: list[str]) -> Times:
    """Run a stage by so many processes."""
    words = [*engine(ranks), *command, "--run", str(run), "--quiet"]
    cpu = []
    for _ in ("the stage", "nothing to do"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    record = json.loads((run / FOLDERS.get(stage, stage) / "stage.json").read_text())
    return Times(record["details"]["seconds"], cpu[0] - cpu[1])


def measure(
    ranks: int, lines: dict[str, list[str]], start: Path, folder: Path, truth: Path
) -> dict[str, Times]:
    """The times of all stages on a copy of a run of the data alone."""
    run = folder / f"run-{ranks}"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(start, run)
    found = {stage: timed(ranks, run, stage, lines[stage]) for stage in STAGES[:2]}
    metaselect = [*engine(1), "annotate", "simulate", str(truth), "--run", str(run), "--quiet"]
    subprocess.run(metaselect, check=True, stdout=subprocess.DEVNULL)
    return found | {stage: timed(ranks, run, stage, lines[stage]) for stage in STAGES[2:]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True, help="images, whose labels count as true ones")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1, help="of which the fastest counts")
    parser.add_argument("--work", type=Path, default=Path("ranks"), help="folder for runs")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    noisy, start = arguments.work / "noisy", arguments.work / "start"
    for folder in (noisy, start):
        shutil.rmtree(folder, ignore_errors=True)
    corrupt = ["corrupt", str(arguments.train), "-o", str(noisy), "--noise", "uniform", "--rate", "0.2"]
    sizes = f"--limit {arguments.samples} --image-size {arguments.image_size}".split()
    for words in (corrupt, ["ingest", str(noisy / "train.parquet"), *sizes, "--run", str(start)]):
        subprocess.run([*engine(1), *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    lines = commands(arguments.model, arguments.batch_size)
    best: dict[tuple[int, str], Times] = {}
    for _ in range(arguments.rounds):
        for ranks in arguments.ranks:
            for stage, times in measure(ranks, lines, start, arguments.work, noisy / TRUTH).items():
                old = best.get((ranks, stage), times)
                best[ranks, stage] = Times(min(old.wall, times.wall), min(old.cpu, times.cpu))
    columns = ("stage", "ranks", "wall, s", "speed-up", "CPU, s", "of CPU")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    first = arguments.ranks[0]
    for (ranks, stage), times in best.items():
        alone = best[first, stage]
        speed = f"{alone.wall / times.wall:.2f} | {times.cpu:.1f} | {alone.cpu / (times.cpu / ranks):.2f}"
        print(f"| {stage} | {ranks} | {times.wall:.1f} | {speed} |")


if __name__ == "__main__":
    main()
