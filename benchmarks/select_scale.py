"""Wall time and memory of `select --method rbc` on a large pool, at n and at n/4.

    python benchmarks/select_scale.py --train cifar10/train.parquet --samples 50000 12500

ResNet-32, 5 checkpoints of a 5-epoch warm-up (in bfloat16, to save time), budget 200, through the command line.
Resident memory is that of the `select` process; only the factors grow with n: 5 (K + d) floats per sample.
"""

import argparse
import json
import os
from pathlib import Path

from common import metaselect


def measure(train: Path, samples: int, work: Path) -> tuple[str, ...]:
    """One row of the table."""
    run = work / f"run-{samples}"
    metaselect("ingest", train, "--run", run, "--limit", samples)
    metaselect("warmup", "--run", run, "--model", "resnet32", "--epochs", 5, "--augment", "none", "--amp")
    metaselect("select", "--run", run, "--budget", 200, "--method", "rbc")
    details = json.loads((run / "select/round-1/stage.json").read_text())["details"]
    choice = details["choice"]
    return (
        f"{samples:,}",
        f"{details['seconds_features']:.0f}",
        f"{details['seconds_choice']:.1f}",
        str(len(choice["objective"])),
        str(choice["non_empty_clusters"][-1]),
        f"{details['peak_memory']['process_mib']:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--samples", type=int, nargs="+", default=[50_000, 12_500])
    parser.add_argument("--work", type=Path, default=Path("select-scale"), help="folder for runs")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core; read by the subprocesses
    columns = ("n", "features, s", "clustering, s", "iterations", "non-empty clusters", "peak resident, MiB")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for samples in arguments.samples:
        print(f"| {' | '.join(measure(arguments.train, samples, arguments.work))} |", flush=True)


if __name__ == "__main__":
    main()
