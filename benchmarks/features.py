"""The cost of GBC's features relative to RBC's: LeNet on MNIST and ResNet-32 on CIFAR-10, one thread, CPU seconds.

    python benchmarks/features.py --mnist mnist/train.parquet --cifar10 cifar10/train.parquet

RBC needs a forward pass; GBC the energies of the layers (a seeded sample of 512), and a forward pass with a backward
pass that stops at the earliest sampled layer, projected to 2,048 numbers. Ratios are within one draw of layers: the
RBC pass is timed again beside each of 10 seeded draws. The authors' way (Wu et al. 2023: one backward pass a sample,
for the same layers, kept whole) is timed on 100 samples of each draw and scaled. The model is the last checkpoint of
a short warm-up on the real images. Peak memory is that of a process of its own after 2 of the draws, without the
authors' way.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import metaselect
from torch import nn

from metaselect.cli.console import Console, ProgressMode
from metaselect.data.store import load_pool
from metaselect.features.extract import gradient_features, last_layer_factors
from metaselect.models.build import build_model
from metaselect.random import generator
from metaselect.run.artefacts import CHECKPOINT
from metaselect.run.layout import Run
from metaselect.selection.gbc import GBC
from metaselect.training.batches import Batches
from metaselect.training.saved_models import load_weights, warmup_model

SAMPLES = {"lenet": 10_000, "resnet32": 4000}
DRAWS, LOOPED = 10, 100
QUIET = Console(ProgressMode.none)


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of the work, and its result."""
    before = time.process_time()
    result = work()
    return time.process_time() - before, result


def one_by_one(model: nn.Module, batches: Batches, layers: list[str]) -> None:
    """The authors' way: a backward pass for each sample, for the sampled layers, features as they are.

    To its advantage the forward pass is of one sample too; theirs goes back through a whole batch each time.
    """
    named = dict(model.named_modules())
    wanted = [value for name in layers for value in named[name].parameters()]
    rows = []
    for index in range(LOOPED):
        logits = model(batches.get(torch.tensor([index])).inputs)
        loss = torch.logsumexp(logits, 1).sum()  # the label-free part of the cross-entropy
        parts = torch.autograd.grad(loss, wanted)
        rows.append(torch.cat([part.flatten() for part in parts]))


def measure(folder: str, *, with_loop: bool) -> dict[str, list[float] | float]:
    """Ratios of time to the RBC pass, one for each draw of layers, and peak memory in MiB."""
    torch.set_num_threads(1)
    run = Run.at(Path(folder))
    pool, description = load_pool(run), warmup_model(run)
    model = build_model(description.architecture, pool.inputs.shape[1:], len(pool.classes), seed=0)
    load_weights(model, run.path(CHECKPOINT.path(epoch=description.checkpoints[-1])))
    batches = Batches(
        pool.inputs, pool.labels, pool.preprocess, device=torch.device("cpu"), channels=description.channels
    )
    timings: dict[str, list[float]] = {"rbc": [], "gbc": [], "loop": []}
    last_layer_factors(model, batches, QUIET, "")  # the first passes choose and build kernels
    gradient_features(model, batches, GBC(), generator(DRAWS, "gradients"), report=QUIET, what="")
    for seed in range(DRAWS if with_loop else 2):
        rbc = seconds(lambda: last_layer_factors(model, batches, QUIET, ""))[0]
        stream = generator(seed, "gradients")
        gbc, result = seconds(
            lambda s=stream: gradient_features(model, batches, GBC(), s, report=QUIET, what="")
        )
        rbc = (rbc + seconds(lambda: last_layer_factors(model, batches, QUIET, ""))[0]) / 2
        timings["rbc"].append(rbc)
        timings["gbc"].append(gbc / rbc)
        if with_loop:
            layers = [each["layer"] for each in result[1]["sampled_layers"]]
            loop = seconds(lambda names=layers: one_by_one(model, batches, names))[0]
            timings["loop"].append(loop * len(batches) / LOOPED / rbc)
    return {**timings, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measured(folder: Path, *, with_loop: bool) -> dict[str, Any]:
    """The measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", str(folder), *(["--loop"] if with_loop else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--work", type=Path, default=Path("features-bench"), help="folder for runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, with_loop=arguments.loop)))
        return
    columns = ("model", "RBC, s", "GBC / RBC", "each draw", "one by one / RBC", "peak, MiB")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, train in (("lenet", arguments.mnist), ("resnet32", arguments.cifar10)):
        if train is None:
            continue
        run = arguments.work / name
        metaselect("ingest", train, "--run", run, "--limit", SAMPLES[name])
        metaselect("warmup", "--run", run, "--model", name, "--epochs", 5, "--checkpoints", 1)
        timings, memory = measured(run, with_loop=True), measured(run, with_loop=False)
        ratios = timings["gbc"]
        cells = (
            f"{name}, n = {SAMPLES[name]:,}",
            f"{statistics.mean(timings['rbc']):.2f}",
            f"{statistics.mean(ratios):.2f}",
            ", ".join(f"{ratio:.2f}" for ratio in ratios),
            f"{statistics.mean(timings['loop']):.1f}",
            f"{memory['mib']:.0f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
