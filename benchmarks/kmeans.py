"""The weighted K-means against n: seconds an iteration, memory, and the objective, beside scikit-learn's.

    python benchmarks/kmeans.py

Shuffled random features of 3 checkpoints (K = 10 softmax outputs in loose classes, d = 64 behind a ReLU), 50 clusters,
one thread, CPU seconds. Each measurement is a process of its own, so that its peak resident memory is its own, and
the sizes are gone through several times in turn. scikit-learn's KMeans (Euclidean, the same start and sample weights)
runs on the materialised unit rows (n x 1,920), for its time; MCO, the objective of Eq. 10 of Wu et al. 2023, is
computed for both clusterings.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from metaselect.selection.clustering.factored import FactoredRows
from metaselect.selection.clustering.kmeans import kmeans, seed_rows

CHECKPOINTS, CLASSES, WIDTH, CLUSTERS, ITERATIONS = 3, 10, 64, 50, 20


def features(n: int) -> FactoredRows:
    """Rows of n samples in random order."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(CLASSES, (n,), generator=generator)
    left, right = [], []
    for _ in range(CHECKPOINTS):
        logits = torch.randn(n, CLASSES, generator=generator)
        logits[torch.arange(n), classes] += 3
        centres = torch.randn(CLASSES, WIDTH, generator=generator)
        left.append(logits.softmax(1))
        right.append((centres[classes] + torch.randn(n, WIDTH, generator=generator)).relu())
    return FactoredRows(left, right)


def ours(n: int) -> dict[str, float]:
    """Our K-means, on factored rows."""
    rows = features(n)
    iteration_ends: list[float] = []
    clustering = kmeans(
        rows,
        CLUSTERS,
        weighted=True,
        first=0,
        iterations=ITERATIONS,
        progress=lambda _: iteration_ends.append(time.process_time()),
    )
    steps = [after - before for before, after in itertools.pairwise(iteration_ends[1:])]
    return {"iteration": statistics.median(steps), "mco": clustering.objective[-1]}


def scikit_learn(n: int) -> dict[str, float]:
    """scikit-learn's K-means, on dense rows."""
    from sklearn.cluster import KMeans

    rows = features(n)
    start = rows.dense(seed_rows(rows, CLUSTERS, 0)).numpy()
    unit, omega = rows.dense(torch.arange(n)).numpy(), rows.norms.numpy()
    started = time.process_time()
    fitted = KMeans(CLUSTERS, init=start, n_init=1, max_iter=ITERATIONS).fit(unit, sample_weight=omega)
    seconds = time.process_time() - started
    # The features have no negative entry, so every sign is +, and a cluster's part is ||sum||^2 / mass.
    member = (
        torch.nn.functional.one_hot(torch.from_numpy(fitted.labels_).long(), CLUSTERS).float()
        * rows.norms[:, None]
    )
    sums, mass = member.T @ torch.from_numpy(unit), member.sum(0)
    objective = (sums.square().sum(1) / mass.clamp(min=1e-30)).sum() / rows.norms.sum()
    return {"iteration": seconds / fitted.n_iter_, "mco": float(objective)}


IMPLEMENTATIONS = {"ours": ours, "scikit-learn": scikit_learn}


def measured(kind: str, n: int) -> dict[str, float]:
    """One measurement in a process of its own; MiB are peak resident, all of Python and torch included."""
    command = [sys.executable, __file__, "--one", kind, str(n)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000, 40_000, 80_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        torch.set_num_threads(1)
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):
            found = IMPLEMENTATIONS[arguments.one[0]](int(arguments.one[1]))
        print(json.dumps(found | {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return
    results = [
        (kind, n, measured(kind, n))
        for _ in range(arguments.rounds)
        for n in arguments.sizes
        for kind in IMPLEMENTATIONS
    ]
    columns = ("n", "ours, s an iteration", "us a sample", "MCO", "MiB", "scikit-learn, s", "MCO", "MiB")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for n in arguments.sizes:
        cells = [f"{n:,}"]
        for kind in IMPLEMENTATIONS:
            mine = [found for name, size, found in results if (name, size) == (kind, n)]
            iteration = statistics.median(found["iteration"] for found in mine)
            cells.append(f"{iteration:.3f}")
            if kind == "ours":
                cells.append(f"{1e6 * iteration / n:.2f}")
            cells += [f"{mine[0]['mco']:.4f}", f"{max(found['mib'] for found in mine):.0f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
