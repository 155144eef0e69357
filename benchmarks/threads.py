"""What a second thread gains in a training step on an idle machine, and what it loses beside other work.

    python benchmarks/threads.py --busy 0 1

Plain steps of models of several sizes with one thread and with all of the machine's, by turns, each for half a second;
with --busy, beside so many other processes that never wait. FLOPs are those of a forward pass over the batch, as
`training.threads` counts them; its rule is made from these figures.
"""

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

from metaselect.data.stored.preprocess import Preprocess
from metaselect.models.build import build_model
from metaselect.training.batches import Batches
from metaselect.training.threads import flops_per_sample

SECONDS = 0.5  # of each turn
MODELS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "mlp, 64 features": ("mlp", (64,), 32),
    "mlp, 768 features": ("mlp", (768,), 32),
    "convnet, 8 px": ("convnet", (1, 8, 8), 32),
    "convnet, 16 px": ("convnet", (1, 16, 16), 32),
    "convnet, 16 px, batch 128": ("convnet", (1, 16, 16), 128),
    "lenet, 28 px, batch 32": ("lenet", (1, 28, 28), 32),
    "lenet, 28 px, batch 128": ("lenet", (1, 28, 28), 128),
    "resnet32, 32 px, batch 32": ("resnet32", (3, 32, 32), 32),
    "resnet32, 32 px, batch 128": ("resnet32", (3, 32, 32), 128),
}


def pool(shape: tuple[int, ...]) -> Batches:
    """One sample of zeros."""
    channels = shape[0] if len(shape) == 3 else 1
    preprocess = Preprocess("images", shape[1:], "", (0.0,) * channels, (1.0,) * channels)
    inputs = np.zeros((1, *shape), np.uint8 if len(shape) == 3 else np.float32)
    return Batches(inputs, np.zeros(1, np.int64), preprocess, device=torch.device("cpu"), channels=channels)


def steps_per_second(name: str, shape: tuple[int, ...], batch: int, threads: int) -> float:
    """Plain steps a second, for about ``SECONDS``."""
    torch.set_num_threads(threads)
    model = build_model(name, shape, 10, seed=0)
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    inputs, labels = torch.randn(batch, *shape), torch.arange(batch) % 10
    steps, started = -1, time.perf_counter()
    while steps < 1 or time.perf_counter() - started < SECONDS:
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
        steps += 1
        if steps == 0:
            started = time.perf_counter()  # the first step warms up
    return steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    print(
        "| model | MFLOP | busy | ms, one thread | ratio of steps a second, median | range |\n"
        + "|---" * 6
        + "|"
    )
    for busy in arguments.busy:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            for title, (name, shape, batch) in MODELS.items():
                model = build_model(name, shape, 10, seed=0)
                mflop = batch * flops_per_sample(model, pool(shape)) / 1e6
                pairs = [
                    (
                        steps_per_second(name, shape, batch, 1),
                        steps_per_second(name, shape, batch, arguments.threads),
                    )
                    for _ in range(arguments.rounds)
                ]
                ratios = [many / one for one, many in pairs]
                milliseconds = 1000 / statistics.median(one for one, _ in pairs)
                print(
                    f"| {title} | {mflop:.1f} | {busy} | {milliseconds:.2f} "
                    f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |",
                    flush=True,
                )
        finally:
            for other in others:
                other.kill()
                other.wait()


if __name__ == "__main__":
    main()
