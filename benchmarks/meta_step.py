"""The cost of one training step of each meta method, relative to a plain step and beside second order.

    python benchmarks/meta_step.py --model resnet32 --rounds 5
    python benchmarks/meta_step.py --model resnet32 --all

Models: resnet32 (batch 100), lenet (100), wrn-16-4 (20); random pixels, since timing does not depend on them. Meta
batches as large as the batch and a quarter of it (fsr also: twice), float32, one thread. "Two passes" is
l2rw whose product runs a forward pass of its own with dual numbers; "higher" and "betty" are other libraries, where
they are installed (``other_libraries.py``). Time is CPU time of the process (on a GPU: wall time around a synchronised
step); methods alternate within each round, the order reversed every other round, and a ratio is to the
plain step of the same round. Memory is the peak of the allocator's events during one step, with parameters and momentum
already there. Before anything is timed, the weights of l2rw are compared with those of the second-order step. --all
measures every registered method, with meta batches as large as the batch; one whose paper needs no more than another
loss or other weights may take ``OTHER_LOSS`` plain steps.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from other_libraries import installed_libraries, library_steps, weighted_step
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from metaselect.memory import FREED, keep_freed
from metaselect.metagrad.forward import Forward
from metaselect.metagrad.jvp import JvpSolver
from metaselect.metagrad.jvp_strategies import dual_numbers
from metaselect.models.batch import Batch, frozen_statistics
from metaselect.models.build import build_model
from metaselect.models.wide_resnet import WideResNet
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.base import Labels, Start
from metaselect.reweighting.evidence import Evidence, Space
from metaselect.reweighting.l2rw import rectify_and_normalise
from metaselect.training.loop import backward, set_memory_format


class Subject(NamedTuple):
    """A model, its inputs, and the largest acceptable ratios of time for both sizes of the meta batch."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    at_most: dict[str, tuple[object, object]]


COLOUR, GREY = (3, 32, 32), (1, 28, 28)
DEEP = {"l2rw": (2.8, 2.0), "direct": (3.4, 2.6), "mw-net": (3.4, 2.6), "fsr": (1.6, "-")}
TWICE = "1.9"  # of fsr with twice as many samples of its dictionary, as published; deep models
SHALLOW = {"l2rw": (2.6, 1.9), "direct": (3.7, 2.6), "mw-net": (3.7, 2.6)}
SUBJECTS = {
    "resnet32": Subject(lambda: build_model("resnet32", COLOUR, 10, seed=0), COLOUR, 100, DEEP),
    "lenet": Subject(lambda: build_model("lenet", GREY, 10, seed=0), GREY, 100, SHALLOW),
    "wrn-16-4": Subject(lambda: WideResNet(COLOUR, 10, 16, 4), COLOUR, 20, DEEP),
}
OPTIONS = {"fsr": ["deferral=0"]}  # else its first epochs are plain training
MEMORY = {"l2rw": 1.35, "direct": 2.1, "mw-net": 2.1}
BOUGHT = 20  # samples of a batch
OTHER_LOSS = 1.1  # plain steps: one pass forward and one back, and some arithmetic on the logits
TWO_NETWORKS = 2.1


def plain(*, autocast: bool = False) -> Any:
    """One step of plain training."""

    def step(model: Any, optimiser: Any, batch: Any, meta_batch: Any) -> None:
        optimiser.zero_grad()
        with torch.autocast(batch.inputs.device.type, torch.bfloat16) if autocast else nullcontext():
            logits = model(batch.inputs)
        F.cross_entropy(logits.float(), batch.labels, reduction="none").mean().backward()
        optimiser.step()

    return step


def ours(method: Any, *pairs: Any, jvp_solver: Any = None, autocast: bool = False) -> Any:
    """MetaSelect's step: the same calls as in its training loop; ``pairs`` are words of --option."""
    jvp_solver = jvp_solver or JvpSolver()
    runs: list[Any] = []

    def step(model: Any, optimiser: Any, batch: Any, meta_batch: Any) -> Any:
        if not runs:
            labels, device, draw = batch.labels.cpu(), batch.labels.device, torch.Generator().manual_seed(0)
            ids, probs = torch.arange(len(labels)), torch.rand(len(labels), 10, generator=draw).softmax(1)
            evidence = Evidence(labels, probs, probs, (Space(probs, ids),), improving=True)
            start = Start(Labels(labels, 10, ids, ids[:BOUGHT]), 5, 0.1, draw, device, evidence, truth=labels)
            begun = configure(REWEIGHTERS[method], [*OPTIONS.get(method, []), *pairs]).begin(start)
            runs.extend((begun, ids.to(device)))  # a CUDA graph cannot hold a copy to the device
        run, ids = runs
        optimiser.zero_grad()
        forward = Forward(model, optimiser, batch, autocast=autocast, jvp_solver=jvp_solver)
        weighted = run.step(forward, meta_batch, ids, 0.1)
        backward(forward, weighted)
        optimiser.step()
        return weighted.weights

    return step


def second_order(model: Any, optimiser: Any, batch: Any, meta_batch: Any) -> Any:
    """Ren et al. 2018, Algorithm 1, as published: differentiate through the virtual step."""
    params = dict(model.named_parameters())
    with frozen_statistics(model):
        logits = functional_call(model, params, (batch.inputs,))
        epsilon = torch.zeros(len(batch.labels), device=logits.device, requires_grad=True)
        virtual_loss = (epsilon * F.cross_entropy(logits, batch.labels, reduction="none")).sum()
        gradients = torch.autograd.grad(virtual_loss, list(params.values()), create_graph=True)
        ahead = {name: p - 0.1 * g for (name, p), g in zip(params.items(), gradients, strict=True)}
        meta_logits = functional_call(model, ahead, (meta_batch.inputs,))
        meta_loss = F.cross_entropy(meta_logits, meta_batch.labels)
    weights = rectify_and_normalise(-torch.autograd.grad(meta_loss, epsilon)[0])
    return weighted_step(model, optimiser, batch, weights)


class Arm:
    """A method with its own model, optimiser and batches."""

    def __init__(self, name: str, step: Any, subject: Any, batch: Any, meta_count: Any, device: Any) -> None:
        self.name, self.step = name, step
        stream = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self.model = subject.build().to(device).train()
        set_memory_format(self.model)
        self.optimiser = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        self.batch, self.meta = (
            Batch(
                torch.randn(count, *subject.shape, generator=stream).to(device),
                torch.randint(10, (count,), generator=stream).to(device),
            )
            for count in (batch, meta_count)
        )

    def run(self) -> Any:
        """Take one step; returns its sample weights."""
        return self.step(self.model, self.optimiser, self.batch, self.meta)

    def seconds(self) -> Any:
        """CPU seconds (wall seconds on a GPU) of one step."""
        if self.batch.inputs.is_cuda:
            torch.cuda.synchronize()
            started = time.perf_counter()
            self.run()
            torch.cuda.synchronize()
            return time.perf_counter() - started
        started = time.process_time()
        self.run()
        return time.process_time() - started

    def peak_mib(self) -> float:
        """Peak of allocated memory during one step, in MiB above the memory before it."""
        if self.batch.inputs.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.run()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            self.run()
        events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SUBJECTS, default="resnet32")
    parser.add_argument("--batch", type=int, help="instead of the model's own")
    parser.add_argument("--rounds", type=int, default=5, help="at least 5")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--all", action="store_true", help="every registered method")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed(FREED)  # as every command does
    subject = SUBJECTS[arguments.model]
    batch = arguments.batch or subject.batch
    arms = [Arm("plain", plain(), subject, batch, batch, arguments.device)]
    limits: dict[str, tuple[object, object]] = {"plain": ("-", "-")}
    more = every_method if arguments.all else meta_methods
    for arm, limit in more(subject, batch, arguments.device):
        arms.append(arm)
        limits[arm.name] = limit
    for arm in arms:
        arm.run()  # momentum buffers and the allocator's caches are there from now on, and products are checked
    peaks = {arm.name: arm.peak_mib() for arm in arms}
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for number in range(arguments.rounds):
        for arm in arms if number % 2 == 0 else reversed(arms):
            seconds[arm.name].append(arm.seconds())
    print(f"| step ({arguments.model}, batch {batch}) ", end="")
    print("| ms, median | ratio, median | ratio, range | at most | MiB | ratio | at most |")
    print("|---" * 8 + "|")
    for arm in arms:
        ratios = [mine / base for mine, base in zip(seconds[arm.name], seconds["plain"], strict=True)]
        print(
            f"| {arm.name} | {1000 * statistics.median(seconds[arm.name]):.0f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {limits[arm.name][0]} | {peaks[arm.name]:.0f} "
            f"| {peaks[arm.name] / peaks['plain']:.2f} | {limits[arm.name][1]} |"
        )
    print(json.dumps({"torch": torch.__version__, "device": arguments.device, "rounds": arguments.rounds}))


def every_method(subject: Any, batch: int, device: str) -> Iterator[tuple[Arm, tuple[object, object]]]:
    """A step of every registered method, with its limits of time and memory."""
    for name in REWEIGHTERS:
        most = {"co-teaching": TWO_NETWORKS, **dict.fromkeys(DEEP, "-")}.get(name, OTHER_LOSS)
        limits = subject.at_most.get(name, (most,))[0], MEMORY.get(name, "-")
        yield Arm(name, ours(name), subject, batch, batch, device), limits


def meta_methods(subject: Any, batch: int, device: str) -> Iterator[tuple[Arm, tuple[object, object]]]:
    """Steps of the meta methods in all their forms, with both sizes of the meta batch, and of other libraries."""
    libraries = installed_libraries()
    for place, count in enumerate((batch, batch // 4)):
        steps = {
            "l2rw": ours("l2rw"),
            "second order": second_order,
            "l2rw, two passes": ours("l2rw", jvp_solver=JvpSolver(strategies=[dual_numbers])),
            "l2rw, scope=top": ours("l2rw", "scope=top"),
            "l2rw, scope=last": ours("l2rw", "scope=last"),
            "direct": ours("direct"),
            "mw-net": ours("mw-net"),
            "mw-net, lagged": ours("mw-net", "lagged=true"),
            "fsr": ours("fsr"),
            **library_steps(libraries),
        }
        new = {
            name: Arm(f"{name}, m = {count}", step, subject, batch, count, device)
            for name, step in steps.items()
        }
        agree(new["second order"], [new[name] for name in ("l2rw", "higher, l2rw") if name in new])
        for name, arm in new.items():
            yield arm, (subject.at_most.get(name, ("-", "-"))[place], MEMORY.get(name, "-"))
    twice = Arm(f"fsr, m = {2 * batch}", ours("fsr"), subject, batch, 2 * batch, device)
    yield twice, (TWICE if subject.at_most is DEEP else "-", "-")


def agree(reference: Arm, others: list[Arm]) -> None:
    """Assert that all give the same weights from the same start."""
    expected = reference.run()
    for arm in others:
        gap = float((arm.run() - expected).abs().max() / expected.max())
        print(f"{arm.name}: weights differ from second order by {gap:.1e} of the largest")
        assert gap < 1e-3


if __name__ == "__main__":
    main()
