"""CPU milliseconds of passes through networks, with freed memory kept for the next pass and with glibc's default.

    python benchmarks/freed_memory.py --rounds 3

``metaselect.memory.keep_freed`` is what every command does at its start. Processes of both kinds alternate; "ms" is
user and system time of one pass on one thread, the median over the rounds, "ratio" the median of those of the rounds.
"faults" are pages of 4 KiB that the kernel had to fill in a pass; "MiB" is the peak of the process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from torch.nn import functional as F

from metaselect.memory import CHOSEN_BY, FREED, MIB, keep_freed, peak
from metaselect.models.build import build_model

PASSES = {
    "resnet32, 500 of 32 px, forward": ("resnet32", 500, 32, False),
    "resnet18, 64 of 128 px, forward": ("resnet18", 64, 128, False),
    "resnet32, 128 of 32 px, training step": ("resnet32", 128, 32, True),
    "resnet32, 512 of 32 px, training step": ("resnet32", 512, 32, True),
}
REPEATS = 3


def passes(model: str, batch: int, size: int, *, train: bool) -> Callable[[], None]:
    """One pass of random images; with ``train`` backward too."""
    network = build_model(model, (3, size, size), 10, seed=0).train(train)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch, 3, size, size, generator=generator)
    labels = torch.randint(0, 10, (batch,), generator=generator)

    def one() -> None:
        with torch.set_grad_enabled(train):
            loss = F.cross_entropy(network(inputs), labels)
        if train:
            network.zero_grad()
            loss.backward()

    return one


def child(name: str, *, keep: bool) -> None:
    """Print the figures of one process as JSON."""
    if keep:
        keep_freed(FREED)
    torch.set_num_threads(1)
    model, batch, size, train = PASSES[name]
    one = passes(model, batch, size, train=train)
    one()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(REPEATS):
        one()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    faults = after.ru_minflt - before.ru_minflt
    print(json.dumps([1e3 * seconds / REPEATS, faults / REPEATS, peak() / MIB]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("PASS", "KEEP"), help="one process, for this program")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], keep=arguments.child[1] == "keep")
        return
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY}
    columns = ("pass", "default, ms", "kept, ms", "ratio", "default, faults", "kept, faults", "default, MiB")
    print(f"| {' | '.join((*columns, 'kept, MiB'))} |\n{'|---' * (len(columns) + 1)}|")
    for name in PASSES:
        found: dict[str, list[list[float]]] = {"default": [], "keep": []}
        for _ in range(arguments.rounds):
            for kind, measured in found.items():
                words = [sys.executable, __file__, "--child", name, kind]
                done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
                measured.append(json.loads(done.stdout))
        ms, faults, mib = (
            [statistics.median(each[place] for each in found[kind]) for kind in found] for place in range(3)
        )
        ratio = statistics.median(
            one[0] / other[0] for one, other in zip(found["default"], found["keep"], strict=True)
        )
        figures = f"{ms[0]:.0f} | {ms[1]:.0f} | {ratio:.2f} | {faults[0]:,.0f} | {faults[1]:,.0f}"
        print(f"| {name} | {figures} | {mib[0]:.0f} | {mib[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
