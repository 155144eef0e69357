"""What a GPU gains: steps of every method in several modes, the pipeline, large pools, the papers' schedule.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --data-dir data --full

Where PyTorch finds no CUDA device this says so, and measures little on the CPU, so that the program itself is tried.

Steps: those of ``meta_step.py``, in float32 and, beside it, with bfloat16 autocast, ``torch.compile``, replay of a CUDA
graph, and deterministic algorithms. Each is a process of its own; a mode that a step does not compose with has the
reason in place of figures. Times are medians around a synchronised step, ratios are to plain float32 steps; "repeats"
is whether two trainings of a few steps from one start end with the same bits.

Commands: the digits of the demo through every stage, on the device and on the CPU, and selection from a million rows.
With --data-dir (mnist/, cifar10/ and cifar10_dinov2/ as in ``settings.py``) the rows of README's table too, by
``table.py`` and ``frozen_features.py``, on the device that `auto` finds. With --full, the schedule of Wu et al. 2023 on
CIFAR-10: 150 epochs in both trainings, batches of 128, 50 labels by RBC and GBC, 40 % adversarial noise; ResNet-32 for
the paper's ResNet-34. Results: Markdown on standard output, and every figure with the hardware in --out.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import buy_labels, make_digits, metaselect
from meta_step import SUBJECTS, Arm, Subject, ours, plain
from million import make_pool

from metaselect.run.files import write_csv

HERE = Path(__file__).parent
MODES = ("float32", "bfloat16", "torch.compile", "CUDA graph", "deterministic")
STEPS = ("plain", "l2rw", "direct", "mw-net", "fsr")
HEADER = ("part", "what", "where", "figure", "value", "hardware", "versions")
REPEATED = 3  # steps after which two trainings are compared
PAPER = ("--epochs", 150, "--batch-size", 128, "--lr", 0.1, "--momentum", 0.9, "--weight-decay", 5e-4)


class Measured(NamedTuple):
    """A step in one mode; ``reason`` is why it has no figures."""

    ms: float = 0.0
    mib: float = 0.0
    repeats: bool = False
    reason: str = ""


def training(name: str, mode: str, subject: Subject, device: str) -> Arm:
    """A method, or plain training, on its own model and batches."""
    autocast = mode == "bfloat16"
    step = plain(autocast=autocast) if name == "plain" else ours(name, autocast=autocast)
    arm = Arm(name, step, subject, subject.batch, subject.batch, device)
    if mode == "torch.compile":
        arm.model.compile()  # in place: methods look layers up by name
    return arm


def measure_step(name: str, mode: str, model: str, device: str, rounds: int) -> Measured:
    """The figures of a step, or the reason for which there are none."""
    torch.set_num_threads(1)
    if mode == "deterministic":
        torch.use_deterministic_algorithms(True)
    try:
        return _measure(name, mode, SUBJECTS[model], device, rounds)
    except Exception as error:  # whatever a compiler or a capture raises is the finding
        lines = str(error).strip().splitlines() or [""]
        return Measured(reason=f"{type(error).__name__}: {lines[0][:100]}")


def _measure(name: str, mode: str, subject: Subject, device: str, rounds: int) -> Measured:
    arm = training(name, mode, subject, device)
    arm.run()  # kernels, momentum and the check of products are there from now on
    run = captured(arm.run) if mode == "CUDA graph" else arm.run
    run()
    peak = 0.0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    ms = statistics.median(1000 * timed(run, torch.device(device)) for _ in range(rounds))
    ends = [trained(name, mode, subject, device) for _ in range(2)] if mode != "CUDA graph" else []
    repeats = bool(ends) and all(torch.equal(*pair) for pair in zip(*ends, strict=True))
    return Measured(round(ms, 3), round(peak, 1), repeats)


def captured(step: Callable[[], object]) -> Callable[[], None]:
    """The replay of a step that was captured as a CUDA graph, after warm-up on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, with all that it started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def trained(name: str, mode: str, subject: Subject, device: str) -> list[torch.Tensor]:
    """The parameters after a few steps."""
    arm = training(name, mode, subject, device)
    for _ in range(REPEATED):
        arm.run()
    return [p.detach().cpu() for p in arm.model.parameters()]


def step_rows(model: str, device: str, modes: tuple[str, ...], rounds: int) -> Iterator[tuple[Any, ...]]:
    """Rows of every step in every mode, each measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    print(f"| step ({model}, batch {SUBJECTS[model].batch}) | mode | ms | ratio | MiB | repeats |")
    print("|---|---|---|---|---|---|")
    plain = 0.0
    for name in STEPS:
        for mode in modes:
            with context.Pool(1) as pool:
                found = pool.apply(measure_step, (name, mode, model, device, rounds))
            plain = plain or found.ms
            if found.reason:
                print(f"| {name} | {mode} | {found.reason.replace('|', '/')} | | | |", flush=True)
                yield "step", f"{model} {name} {mode}", device, "reason", found.reason
                continue
            figures = {"ms": found.ms, "ratio": round(found.ms / plain, 2), "mib": found.mib}
            cells = (*figures.values(), "-" if mode == "CUDA graph" else "yes" if found.repeats else "no")
            print(f"| {name} | {mode} | {' | '.join(map(str, cells))} |", flush=True)
            for figure, value in {**figures, "repeats": found.repeats}.items():
                yield "step", f"{model} {name} {mode}", device, figure, value


def pipeline_rows(
    title: str, data: Path, run: Path, device: str, *, selectors: tuple[str, ...], budget: int, words: Any
) -> Iterator[tuple[Any, ...]]:
    """Seconds of each stage from a data set with its truth to the test accuracies."""
    on = ("--device", device)
    warmup, reweight = words
    metaselect("ingest", data / "train.parquet", "--run", run)
    yield "commands", title, device, "warmup s", metaselect("warmup", "--run", run, *on, *warmup)[1]
    for method in selectors:
        force = ("--force",) if (run / "select").exists() else ()
        seconds = metaselect("select", "--run", run, "--budget", budget, "--method", method, *on, *force)[1]
        yield "commands", title, device, f"select {method} s", seconds
    buy_labels(run, data / "truth.csv")
    for method in ("uniform", "auto", "direct", "l2rw"):
        rest = () if method == "auto" else reweight
        seconds = metaselect("reweight", "--run", run, "--method", method, "--folds", 0, *on, *rest)[1]
        yield "commands", title, device, f"reweight {method} s", seconds
    test = data / "test.parquet"
    scores, seconds = metaselect("evaluate", test, "--run", run, "--truth", data / "truth.csv", *on)
    yield "commands", title, device, "evaluate s", seconds
    for method, found in {"warmup": scores["warmup"], **scores["reweight"]}.items():
        yield "commands", title, device, f"accuracy {method}", found["test_accuracy"]


def selection_rows(samples: int, folder: Path, device: str) -> Iterator[tuple[Any, ...]]:
    """Seconds of a round of a thousand from a large pool of 64 features."""
    make_pool(folder, samples, 64)
    run, on = folder / "run", ("--device", device)
    metaselect("ingest", folder / "pool.parquet", "--run", run)
    metaselect("warmup", "--run", run, *on)
    for method in ("k-center", "k-means", "badge", "rbc"):
        force = ("--force",) if (run / "select").exists() else ()
        words = ("--budget", min(1000, samples // 10), "--method", method, *on, *force)
        seconds = metaselect("select", "--run", run, *words)[1]
        yield "commands", f"{samples} x 64", device, f"select {method} s", seconds


def paper_rows(data_dir: Path, work: Path, device: str) -> Iterator[tuple[Any, ...]]:
    """CIFAR-10 by the schedule of Wu et al. 2023."""
    data = work / "cifar10-adversarial-40"
    metaselect(
        "corrupt", data_dir / "cifar10/train.parquet", "-o", data, "--noise", "adversarial", "--rate", 0.4
    )
    (data / "test.parquet").symlink_to((data_dir / "cifar10/test.parquet").resolve())
    words = (("--model", "resnet32", "--schedule", "step", *PAPER), ("--schedule", "step", *PAPER))
    selectors = ("gbc", "rbc")  # the labels of the last one are bought
    yield from pipeline_rows(
        "cifar10, 150 epochs", data, work / "run", device, selectors=selectors, budget=50, words=words
    )


def readme_tables(data_dir: Path, work: Path) -> None:
    """The programs behind README's table, which print their own tables."""
    for program, words in {
        "table.py": ("--data", "digits", "mnist", "cifar10", "--work", work / "table"),
        "frozen_features.py": ("--work", work / "frozen"),
    }.items():
        table = ("--table", work / f"{program}.csv")
        command = [sys.executable, HERE / program, "--data-dir", data_dir, *words, *table]
        for more in ((), ("--summary",)):
            subprocess.run([*map(str, command), *more], check=True)


def hardware(device: str) -> str:
    """The name of what computes."""
    if device != "cuda":
        return f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    return f"{torch.cuda.get_device_name()}, compute capability {capability}"


def all_rows(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[Any, ...]]:
    """Every row, part after part."""
    small = not torch.cuda.is_available()
    device = "cpu" if small else "cuda"
    modes = ("float32", "bfloat16") if small else MODES
    for model in ("lenet",) if small else tuple(SUBJECTS):
        yield from step_rows(model, device, modes, 3 if small else 30)
    make_digits(work / "digits", 0)
    for place in ("cpu",) if small else ("cuda", "cpu"):
        words: Any = (("--epochs", 1, "--folds", 0), ("--epochs", 1)) if small else ((), ())
        run, selectors = work / f"digits-{place}", ("gbc", "rbc")
        yield from pipeline_rows(
            "digits", work / "digits", run, place, selectors=selectors, budget=20, words=words
        )
    yield from selection_rows(2_000 if small else 1_000_000, work / "pool", device)
    if arguments.data_dir and arguments.full:
        yield from paper_rows(arguments.data_dir, work / "paper", device)
    if arguments.data_dir:
        readme_tables(arguments.data_dir, work)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="folder with mnist/, cifar10/ and cifar10_dinov2/")
    parser.add_argument("--full", action="store_true", help="the paper's schedule too: hours")
    parser.add_argument("--out", type=Path, default=Path("gpu.csv"), help="CSV of all figures")
    arguments = parser.parse_args()
    # Without it matrix products of CUDA are not deterministic; read when a process first uses them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if not torch.cuda.is_available():
        print(
            "PyTorch finds no CUDA device. This is a small run on the CPU: its figures say nothing of a GPU.\n"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
    place = hardware(device)
    print(f"{place}; {versions}\n")
    rows = []
    with tempfile.TemporaryDirectory(prefix="metaselect-gpu-") as work:
        for row in all_rows(arguments, Path(work)):
            rows.append((*row, place, versions))
            if row[0] != "step":
                print(json.dumps(row), flush=True)
            write_csv(arguments.out, HEADER, rows)  # what was measured stays if a later part fails


if __name__ == "__main__":
    main()
