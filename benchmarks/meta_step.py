"""One training step of l2rw and fsr against a plain one and against second order, side by side in one run.

    python benchmarks/meta_step.py --rounds 5

ResNet-32, batch 100, meta batch 100 and 25 (fsr: 200), float32, one thread, random pixels (timing does not depend on
them). Time is CPU time of the process (on a GPU: wall time around a synchronised step); methods alternate within each
round, the order reversed every other round, and a ratio is to the plain step of the same round. Memory is the peak of
the allocator's events during one step, with parameters and momentum already there. Before anything is timed, the
weights of l2rw's step are compared with those of the second-order one.
"""

import argparse
import json
import statistics
import time

import torch
from torch.func import functional_call
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from metaselect.gradients import Batch, Forward, frozen_statistics
from metaselect.models import build_model
from metaselect.reweighting import Labels, Start
from metaselect.reweighting.fsr import FSR
from metaselect.reweighting.l2rw import L2RWRun, rectify_and_normalise

TARGETS = {"l2rw, m = 100": (3.4, 1.15), "l2rw, m = 25": (2.6, 1.15)}


def plain(model, optimiser, batch, meta_batch):
    """What every training loop does."""
    losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
    loss = losses.mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def fast(model, optimiser, batch, meta_batch):
    """MetaSelect's step: the same calls as in its training loop."""
    run = L2RWRun(torch.zeros(3, len(batch.labels), device=batch.labels.device))
    forward = Forward(model, optimiser, batch)
    ids = torch.arange(len(batch.labels), device=batch.labels.device)
    weights = run.step(forward, meta_batch, ids, 0.1).weights
    loss = (weights * forward.losses).sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return weights


def fsr(relabel):
    """FSR's step behind its deferral, with the model's own labels as in the paper or as released."""

    def step(model, optimiser, batch, meta_batch):
        ids = torch.arange(len(batch.labels))
        known = Labels(batch.labels.cpu(), 10, ids, ids[:0])
        start = Start(known, 5, 0.1, torch.Generator(), batch.labels.device)
        run = FSR(relabel=relabel, deferral=0).begin(start)
        forward = Forward(model, optimiser, batch)
        weights, targets = run.step(forward, meta_batch, ids.to(batch.labels.device), 0.1)
        loss = -(targets * F.log_softmax(forward.logits, 1)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return weights

    return step


def second_order(model, optimiser, batch, meta_batch):
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
    loss = (weights * F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")).sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return weights


class Arm:
    """A method with a model of its own, so that all arms train alike through the rounds."""

    def __init__(self, name, step, meta_count, device):
        self.name, self.step = name, step
        stream = torch.Generator().manual_seed(0)
        self.model = build_model("resnet32", (3, 32, 32), 10, seed=0).to(device).train()
        self.optimiser = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        self.batch, self.meta = (
            Batch(
                torch.randn(count, 3, 32, 32, generator=stream).to(device),
                torch.randint(10, (count,), generator=stream).to(device),
            )
            for count in (100, meta_count)
        )

    def run(self):
        """Take one step; returns its weights."""
        return self.step(self.model, self.optimiser, self.batch, self.meta)

    def seconds(self):
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

    def peak_mib(self):
        """Peak of allocated bytes during one step, above what was there before."""
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
    parser.add_argument("--rounds", type=int, default=5, help="at least 5")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    arms = [Arm("plain", plain, 100, given.device)]
    for count in (100, 25):
        arms.append(Arm(f"l2rw, m = {count}", fast, count, given.device))
        arms.append(Arm(f"second order, m = {count}", second_order, count, given.device))
        agree(arms[-2], arms[-1])
    for relabel in ("paper", "released"):
        arms.append(Arm(f"fsr, m = 200, relabel={relabel}", fsr(relabel), 200, given.device))
    for arm in arms:
        arm.run()  # momentum buffers and the allocator's caches are there from now on
    peaks = {arm.name: arm.peak_mib() for arm in arms}
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for number in range(given.rounds):
        for arm in arms if number % 2 == 0 else reversed(arms):
            seconds[arm.name].append(arm.seconds())
    print("| step | ms, median | ratio, median | ratio, range | at most | MiB | ratio | at most |")
    print("|---" * 8 + "|")
    for arm in arms:
        ratios = [mine / base for mine, base in zip(seconds[arm.name], seconds["plain"], strict=True)]
        most = TARGETS.get(arm.name, ("-", "-"))
        print(
            f"| {arm.name} | {1000 * statistics.median(seconds[arm.name]):.0f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {most[0]} | {peaks[arm.name]:.0f} "
            f"| {peaks[arm.name] / peaks['plain']:.2f} | {most[1]} |"
        )
    print(json.dumps({"torch": torch.__version__, "device": given.device, "rounds": given.rounds}))


def agree(fast_arm: Arm, slow_arm: Arm) -> None:
    """Assert that both give the same weights from the same start."""
    mine, reference = fast_arm.run(), slow_arm.run()
    gap = float((mine - reference).abs().max() / reference.max())
    print(f"{fast_arm.name}: weights differ from second order by {gap:.1e} of the largest")
    assert gap < 1e-3


if __name__ == "__main__":
    main()
