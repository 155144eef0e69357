"""Milliseconds a step of the real training loop on a small pool, beside a bare loop of the same arithmetic.

    python benchmarks/small_steps.py --rounds 7

1,437 digits of 16 x 16 pixels, the convnet, batches of 32, 50 bought labels: what `warmup` and `reweight` do on such a
pool by default. A bare step has its batch in memory, already normalised, and does the forward pass, the backward pass
and the optimiser's step by torch's own calls; that of `direct` has also the virtual step, the meta gradient and the
product with the Jacobian. Loops alternate within each round, the order reversed every other round, and a ratio is that
of one round. Wanted: at most 1.3.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metaselect.data.stored.preprocess import Preprocess
from metaselect.metagrad.jvp_through_graph import jvp_through_graph
from metaselect.models.batch import Batch
from metaselect.models.build import build_model
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.base import Labels, Start
from metaselect.training.batches import Batches
from metaselect.training.loop import TrainingConfig, start_training, train

SAMPLES, BOUGHT, SIZE, BATCH = 1437, 50, 16, 32
METHODS = ("warmup", "uniform", "gce", "direct")


class Silent:
    """A Reporter that says nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""

    @contextmanager
    def track(self, *_: object) -> Iterator[Callable[..., None]]:
        """Show nothing."""
        yield lambda *_: None


def digits(device: str) -> Batches:
    """The first digits of scikit-learn, each pixel as four."""
    data = load_digits()
    images = (data.images[:SAMPLES] * 255 / 16).astype(np.uint8)[:, None]  # (n, 1, 8, 8)
    images = np.ascontiguousarray(images.repeat(2, 2).repeat(2, 3))
    mean, std = images.mean() / 255, images.std() / 255
    preprocess = Preprocess("images", (SIZE, SIZE), "L", (float(mean),), (float(std),))
    labels = data.target[:SAMPLES].astype(np.int64)
    return Batches(images, labels, preprocess, device=torch.device(device), channels=1)


class Arm:
    """A method, with an epoch of the training loop and one of bare steps.

    Args:
        method: a name of ``REWEIGHTERS``; "warmup" is `uniform` with momentum.
        batches: the pool.
    """

    def __init__(self, method: str, batches: Batches) -> None:
        momentum = 0.9 if method == "warmup" else 0.0
        config = TrainingConfig(10**6, BATCH, 0.01, momentum, 5e-4, "constant", "none", False, 0)
        ids = torch.arange(SAMPLES)
        bought, trained = (ids[:BOUGHT], ids[BOUGHT:]) if method == "direct" else (ids[:0], ids)
        self.steps = config.batches_in(len(trained))
        labels = Labels(batches.labels, 10, trained, bought)
        start = Start(labels, config.epochs, config.lr, torch.Generator(), batches.device)
        run = configure(REWEIGHTERS["uniform" if method == "warmup" else method], []).begin(start)
        state = start_training(self.model(), config, run)
        meta_size = BATCH if method == "direct" else 0
        self.loop = train(
            state,
            batches,
            config,
            ids=trained,
            bought=bought,
            meta_batch_size=meta_size,
            report=Silent(),
            what=method,
        )
        self.bare_model = self.model()
        self.optimiser = torch.optim.SGD(
            self.bare_model.parameters(), 0.01, momentum=momentum, weight_decay=5e-4, nesterov=momentum > 0
        )
        self.batches = [batches.get(chunk) for chunk in trained.tensor_split(self.steps)]
        self.meta = batches.get(bought[:BATCH])
        self.bare_step = {"gce": self.gce, "direct": self.direct}.get(method, self.plain)

    @staticmethod
    def model() -> nn.Module:
        """The same model each time."""
        return build_model("convnet", (1, SIZE, SIZE), 10, seed=0)

    def real_epoch(self) -> None:
        """An epoch of the training loop."""
        next(self.loop)

    def bare_epoch(self) -> None:
        """As many bare steps."""
        for batch in self.batches:
            self.optimiser.zero_grad()
            self.bare_step(batch)
            self.optimiser.step()

    def plain(self, batch: Batch) -> None:
        """The gradient of the mean cross-entropy."""
        F.cross_entropy(self.bare_model(batch.inputs), batch.labels).backward()

    def gce(self, batch: Batch) -> None:
        """The gradient of the mean generalised cross-entropy."""
        log_probs = -F.cross_entropy(self.bare_model(batch.inputs), batch.labels, reduction="none")
        ((1 - (0.7 * log_probs).exp()) / 0.7).mean().backward()

    def direct(self, batch: Batch) -> None:
        """Virtual step, meta gradient, product with the Jacobian, and the gradient with the new weights."""
        parameters = dict(self.bare_model.named_parameters())
        losses = F.cross_entropy(self.bare_model(batch.inputs), batch.labels, reduction="none")
        gradients = torch.autograd.grad(losses.mean(), list(parameters.values()), retain_graph=True)
        with torch.no_grad():
            ahead = {
                name: (0.99999 * p - 0.01 * g).requires_grad_()
                for (name, p), g in zip(parameters.items(), gradients, strict=True)
            }
        logits = functional_call(self.bare_model, ahead, (self.meta.inputs,))
        v = torch.autograd.grad(F.cross_entropy(logits, self.meta.labels), list(ahead.values()))
        s = jvp_through_graph(losses, dict(zip(parameters.values(), v, strict=True)))
        weights = (0.5 + s).clamp(0, 1) / len(s)
        (weights * losses).sum().backward()


def milliseconds(epoch: Callable[[], None], steps: int) -> tuple[float, float]:
    """Wall and CPU milliseconds a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    epoch()
    return 1000 * (time.perf_counter() - wall) / steps, 1000 * (time.process_time() - cpu) / steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    batches = digits("cpu")
    arms = {method: Arm(method, batches) for method in METHODS}
    times: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    for number in range(arguments.rounds + 1):
        cells = [(method, threads) for method in arms for threads in arguments.threads]
        for method, threads in cells if number % 2 == 0 else reversed(cells):
            torch.set_num_threads(threads)
            arm = arms[method]
            for kind, epoch in (("real", arm.real_epoch), ("bare", arm.bare_epoch)):
                measured = milliseconds(epoch, arm.steps)
                if number:  # the first round warms up
                    times.setdefault((method, threads, kind), []).append(measured)
    print(
        "| method | threads | bare, ms | loop, ms | its CPU, ms | ratio, median | range |\n"
        + "|---" * 7
        + "|"
    )
    for method in arms:
        for threads in arguments.threads:
            real, bare = times[method, threads, "real"], times[method, threads, "bare"]
            ratios = [mine[0] / base[0] for mine, base in zip(real, bare, strict=True)]
            walls = [statistics.median(each[0] for each in rows) for rows in (bare, real)]
            cpu = statistics.median(each[1] for each in real)
            print(
                f"| {method} | {threads} | {walls[0]:.2f} | {walls[1]:.2f} | {cpu:.2f} "
                f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
            )


if __name__ == "__main__":
    main()
