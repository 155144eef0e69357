"""Time and memory of every command on a pool of a million samples, and how they grow with it.

    python benchmarks/million.py --samples 250000 1000000
    python benchmarks/million.py --samples 250000 1000000 --features 512 --commands ingest random warmup k-center
    python benchmarks/million.py --samples 1000000 --max-memory 4G

The pool is a mixture of 50 Gaussian components in 10 classes, with a fifth of the labels wrong, uniformly; all of it
is drawn with one seed. With --max-memory 4G every command that takes this option gets it. With --images the samples
are random images of 32 x 32 pixels in PNG, and trainings take one epoch of a LeNet without folds. Each command is a
process of its own with one thread; its peak resident memory has Python and torch in it. Growth is that of the CPU
seconds over that of the samples: 1 is linear. The floors are CPU seconds of float32 products on the same core: for
k-center those of all samples with all picks, as a matrix product and as one product with a vector a pick, beside the
choice alone, once more in the same process; for rbc those of an iteration of K-means over the samples and the width
that it had, times the iterations of all starts (taken as those of the best one).
"""

import argparse
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES, COMPONENTS, WRONG, BUDGET = 10, 50, 0.2, 1000
BLOCK = 50_000  # samples that are made at a time
SELECTORS = ("random", "k-means", "k-center", "badge", "typiclust", "rbc")
COMMANDS = ("ingest", "warmup", *SELECTORS, "simulate", "reweight", "evaluate", "status", "export")
TEST_SHARE = 10  # samples of the pool for one of the test set, which is another draw with the same seed
EPOCH = ("--epochs", 1, "--folds", 0)  # of images, whose default takes hours
HIDDEN = 64  # of the model that warmup takes: its last layer's inputs
LINEAR = 1.15
LIMIT: list[str] = []
"""The value of --max-memory, if there is one."""


class Cost(NamedTuple):
    """What a process took: seconds on the clock and of the CPU, peak resident MiB, and seconds of its floor."""

    seconds: float
    cpu: float
    mib: float
    floor: str = ""


def make_pool(folder: Path, samples: int, width: int) -> None:
    """Write ``pool.parquet`` (sample_id, features, label; of width 0 image in place of features) and ``truth.csv``."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(COMPONENTS, width)).astype(np.float32)
    component = draw.integers(COMPONENTS, size=samples)
    clean = component % CLASSES
    wrong = (clean + draw.integers(1, CLASSES, size=samples)) % CLASSES
    given = np.where(draw.random(samples) < WRONG, wrong, clean)
    ids = [f"s{number:08d}" for number in range(samples)]
    kind = ("features", pa.list_(pa.float32(), width)) if width else ("image", pa.binary())
    columns = [("sample_id", pa.string()), kind, ("label", pa.int64())]
    schema = pa.schema(columns)
    with pq.ParquetWriter(folder / "pool.parquet", schema) as writer:
        for start in range(0, samples, BLOCK):
            rows = slice(start, min(start + BLOCK, samples))
            if width:
                noise = draw.standard_normal((rows.stop - start, width), dtype=np.float32)
                features = pa.array((centres[component[rows]] + noise).ravel())
                cells = pa.FixedSizeListArray.from_arrays(features, width)
            else:
                cells = pa.array([png(draw) for _ in range(start, rows.stop)], pa.binary())
            writer.write_table(pa.table([pa.array(ids[rows]), cells, pa.array(given[rows])], schema=schema))
    lines = (f"{sample},{label}\n" for sample, label in zip(ids, clean.tolist(), strict=True))
    (folder / "truth.csv").write_text("sample_id,clean_label\n" + "".join(lines))


def png(draw: np.random.Generator) -> bytes:
    """A random image of 32 x 32 pixels: 8 x 8 colours, in the form of a file."""
    from PIL import Image  # not above: commands start as copies of this process, which must stay small

    pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", compress_level=1)
    return stream.getvalue()


def cost(*words: object) -> Cost:
    """Run a command in a process of its own, within --max-memory if it takes it."""
    limit = ["--max-memory", LIMIT[0]] if LIMIT and "simulate" not in words else []
    command = [sys.executable, "-m", "metaselect", *map(str, words), *limit, "--json"]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    if process.returncode not in (0, 1):  # 1: status found something stale, or a training failed
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def choice_cost(run: Path, method: str) -> Cost:
    """The cost of a round by a method, which takes the place of another method's, and the floor of its choice."""
    force = ("--force",) if (run / "select").exists() else ()
    found = cost("select", "--run", run, "--budget", BUDGET, "--method", method, *force)
    floors = {"k-center": k_center_floor, "rbc": rbc_floor}
    return (
        found._replace(floor=in_child(floors[method], run / "select/round-1")) if method in floors else found
    )


def in_child(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own: commands start as copies of this one, which must stay small."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def k_center_floor(folder: Path) -> str:
    """CPU seconds of the choice of k-center, made once more, and of its products."""
    import torch

    from metaselect.features.files import read_factors
    from metaselect.selection.base import PoolFeatures
    from metaselect.selection.k_center import KCenter

    torch.set_num_threads(1)
    hidden = read_factors(max(folder.glob("gradients-*"))).hidden
    features = PoolFeatures((), (hidden,), torch.zeros(len(hidden), dtype=torch.int64))
    started = time.process_time()
    KCenter().choose(features, BUDGET, torch.empty(0, dtype=torch.int64), torch.Generator().manual_seed(0))
    seconds = time.process_time() - started
    vector = hidden[0].clone()
    vectors = timed(lambda: hidden @ vector) * BUDGET
    matrix = product_seconds(len(hidden), hidden.shape[1], BUDGET)
    return f"choice {seconds:.1f} s, floors {matrix:.1f} s (matrices) and {vectors:.1f} s (vectors)"


def rbc_floor(folder: Path) -> str:
    """CPU seconds of the products of all iterations of K-means."""
    choice = json.loads((folder / "stage.json").read_text())["details"]["choice"]
    width = choice["sketch_width"] or HIDDEN * CLASSES * len(list(folder.glob("gradients-*")))
    iterations = 3 * len(choice["objective"])
    one = product_seconds(choice["clustered_samples"], width, BUDGET)
    return f"floor {iterations * one:.0f} s, {iterations} iterations of {one:.1f} s"


def product_seconds(rows: int, width: int, columns: int) -> float:
    """CPU seconds of a product (rows, width) x (width, columns) in float32, in blocks that stay in the cache."""
    import torch

    torch.set_num_threads(1)
    left, right, out = torch.randn(4096, width), torch.randn(width, columns), torch.empty(256, columns)
    return timed(lambda: [torch.mm(block, right, out=out) for block in left.split(256)]) * rows / 4096


def timed(work: Callable[[], object]) -> float:
    """CPU seconds, the median of 9."""
    work()
    found = []
    for _ in range(9):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return sorted(found)[4]


def measure(samples: int, width: int, commands: list[str], work: Path) -> dict[str, Cost]:
    """The cost of each command on a new pool, in the order in which a user would give them."""
    folder = work / f"{samples}-{width}"
    shutil.rmtree(folder, ignore_errors=True)
    in_child(make_pool, folder, samples, width)
    if "evaluate" in commands:
        in_child(make_pool, folder / "test", samples // TEST_SHARE, width)
    run, test = folder / "run", folder / "test/pool.parquet"
    network = () if width else ("--model", "lenet", *EPOCH)
    method = () if width else ("--method", "uniform", *EPOCH)
    others: dict[str, tuple[object, ...]] = {
        "ingest": ("ingest", folder / "pool.parquet", "--run", run),
        "warmup": ("warmup", "--run", run, *network),
        "simulate": ("annotate", "simulate", folder / "truth.csv", "--run", run),
        "reweight": ("reweight", "--run", run, *method),
        "evaluate": ("evaluate", test, "--run", run, "--truth", folder / "truth.csv"),
        "status": ("status", "--run", run),
        "export": ("export", "--run", run, "-o", folder / "export"),
    }
    found: dict[str, Cost] = {}
    for name in commands:
        found[name] = choice_cost(run, name) if name in SELECTORS else cost(*others[name])
        print(json.dumps([samples, width, name, *found[name]]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--features", type=int, default=64, help="numbers of a sample")
    parser.add_argument("--images", action="store_true", help="images of 32 x 32 pixels instead of numbers")
    parser.add_argument("--max-memory", metavar="SIZE", help="for every command that takes it")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--work", type=Path, default=Path("million"), help="folder for pools and runs")
    arguments = parser.parse_args()
    LIMIT.extend([arguments.max_memory] if arguments.max_memory else [])
    width = 0 if arguments.images else arguments.features
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the subprocesses
    costs = {n: measure(n, width, arguments.commands, arguments.work) for n in arguments.samples}
    columns = ("command", "samples", "s", "CPU s", "MiB", "growth", "the choice alone")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    first = arguments.samples[0]
    for name in arguments.commands:
        for samples, found in costs.items():
            each = found[name]
            growth = each.cpu / costs[first][name].cpu * first / samples
            verdict = (
                "" if samples == first else f"{growth:.2f}{'' if growth <= LINEAR else ', above linear'}"
            )
            cells = (name, f"{samples:,}", f"{each.seconds:.0f}", f"{each.cpu:.0f}", f"{each.mib:.0f}")
            print(f"| {' | '.join((*cells, verdict, each.floor))} |")


if __name__ == "__main__":
    main()
