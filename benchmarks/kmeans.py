"""The weighted K-means against n: seconds an iteration, memory, and the objective, beside scikit-learn's and Faiss's.

    python benchmarks/kmeans.py
    python benchmarks/kmeans.py --checkpoints 1 --classes 1 --clusters 1000 --sizes 250000 1000000 --rounds 1

Shuffled random features of some checkpoints (K softmax outputs in loose classes, d = 64 behind a ReLU), one thread, CPU
seconds. Each measurement is a process of its own, so that its peak resident memory is its own, and the sizes are gone
through several times in turn. The K-means of scikit-learn and of Faiss (Euclidean, the same start and sample weights,
the same most iterations, all rows) run on the materialised unit rows (n x K d T), for their time; MCO, the objective of
Eq. 10 of Wu et al. 2023, is computed for all clusterings. Faiss is left out where it is not installed (pip install
faiss-cpu).
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import NamedTuple

import torch

from metaselect.selection.clustering.factored import FactoredRows
from metaselect.selection.clustering.kmeans import kmeans, seed_rows

WIDTH, ITERATIONS = 64, 20


class Shape(NamedTuple):
    """Of the features, and the number of clusters."""

    n: int
    checkpoints: int
    classes: int
    clusters: int


def features(shape: Shape) -> FactoredRows:
    """Rows of n samples in random order."""
    generator = torch.Generator().manual_seed(0)
    groups = max(shape.classes, 10)
    kind = torch.randint(groups, (shape.n,), generator=generator)
    left, right = [], []
    for _ in range(shape.checkpoints):
        logits = torch.randn(shape.n, shape.classes, generator=generator)
        if shape.classes > 1:
            logits[torch.arange(shape.n), kind] += 3
        centres = torch.randn(groups, WIDTH, generator=generator)
        left.append(logits.softmax(1))
        right.append((centres[kind] + torch.randn(shape.n, WIDTH, generator=generator)).relu())
    return FactoredRows(left, right)


def ours(shape: Shape) -> dict[str, float]:
    """Our K-means, on factored rows; its seeds apart."""
    rows = features(shape)
    ends: list[float] = []
    clustering = kmeans(
        rows,
        shape.clusters,
        weighted=True,
        first=0,
        iterations=ITERATIONS,
        progress=lambda _: ends.append(time.process_time()),
    )
    iteration = statistics.median(after - before for before, after in itertools.pairwise(ends[1:]))
    seeds = ends[1] - ends[0] - iteration
    return {"iteration": iteration, "mco": clustering.objective[-1], "seeds": seeds}


def scikit_learn(shape: Shape) -> dict[str, float]:
    """scikit-learn's K-means, on dense rows."""
    from sklearn.cluster import KMeans

    rows = features(shape)
    start = rows.dense(seed_rows(rows, shape.clusters, 0)).numpy()
    unit, omega = rows.dense(torch.arange(shape.n)), rows.norms.numpy()
    started = time.process_time()
    fitted = KMeans(shape.clusters, init=start, n_init=1, max_iter=ITERATIONS)
    fitted.fit(unit.numpy(), sample_weight=omega)
    seconds = time.process_time() - started
    labels = torch.from_numpy(fitted.labels_).long()
    return {"iteration": seconds / fitted.n_iter_, "mco": objective(rows, unit, labels, shape.clusters)}


def faiss(shape: Shape) -> dict[str, float]:
    """Faiss's K-means, on dense rows."""
    import faiss

    faiss.omp_set_num_threads(1)
    rows = features(shape)
    start = rows.dense(seed_rows(rows, shape.clusters, 0)).numpy()
    unit, omega = rows.dense(torch.arange(shape.n)), rows.norms.numpy()
    method = faiss.Kmeans(rows.width, shape.clusters, niter=ITERATIONS, max_points_per_centroid=shape.n)
    started = time.process_time()
    method.train(unit.numpy(), weights=omega, init_centroids=start)
    seconds = time.process_time() - started
    labels = torch.from_numpy(method.index.search(unit.numpy(), 1)[1][:, 0])
    return {"iteration": seconds / ITERATIONS, "mco": objective(rows, unit, labels, shape.clusters)}


def objective(rows: FactoredRows, unit: torch.Tensor, labels: torch.Tensor, clusters: int) -> float:
    """MCO of a clustering: the features have no negative entry, so that a cluster's part is ||sum||^2 / mass."""
    sums = torch.zeros(clusters, unit.shape[1]).index_add_(0, labels, unit * rows.norms[:, None])
    mass = torch.zeros(clusters).index_add_(0, labels, rows.norms)
    return float((sums.square().sum(1) / mass.clamp(min=1e-30)).sum() / rows.norms.sum())


IMPLEMENTATIONS = {"ours": ours, "scikit-learn": scikit_learn, "faiss": faiss}


def measured(kind: str, shape: Shape) -> dict[str, float]:
    """One measurement in a process of its own; MiB are peak resident, all of Python and torch included."""
    command = [sys.executable, __file__, "--one", kind, *map(str, shape)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    print(json.dumps([kind, *shape, found]), file=sys.stderr, flush=True)
    return found


def measure_one(kind: str, shape: Shape) -> None:
    """Print a measurement as JSON."""
    torch.set_num_threads(1)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        found = IMPLEMENTATIONS[kind](shape)
    print(json.dumps(found | {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000, 40_000, 80_000])
    parser.add_argument("--checkpoints", type=int, default=3)
    parser.add_argument("--classes", type=int, default=10, help="K; with 1 the rows are the features alone")
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure_one(arguments.one[0], Shape(*map(int, arguments.one[1:])))
        return
    shapes = [Shape(n, arguments.checkpoints, arguments.classes, arguments.clusters) for n in arguments.sizes]
    kinds = [kind for kind in IMPLEMENTATIONS if kind != "faiss" or find_spec("faiss")]
    results = [
        (kind, shape, measured(kind, shape))
        for _ in range(arguments.rounds)
        for shape in shapes
        for kind in kinds
    ]
    columns = ["n", "our seeds, s"]
    for kind in kinds:
        columns += [f"{kind}, s an iteration", "us a sample", "MCO", "MiB"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for shape in shapes:
        cells: list[str] = []
        for kind in kinds:
            mine = [
                found for name, measured_shape, found in results if (name, measured_shape) == (kind, shape)
            ]
            iteration = statistics.median(found["iteration"] for found in mine)
            if kind == "ours":
                seeds = statistics.median(found["seeds"] for found in mine)
                cells += [f"{shape.n:,}", f"{seeds:.2f}"]
            cells += [f"{iteration:.3f}", f"{1e6 * iteration / shape.n:.2f}"]
            cells += [f"{mine[0]['mco']:.4f}", f"{max(found['mib'] for found in mine):.0f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
