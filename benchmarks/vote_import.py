"""A long vote file through the command line: seconds and peak memory of `annotate import`, by both consensus methods.

    python benchmarks/vote_import.py

Votes of three annotators, each right in 9 of 10, for a third as many samples in one round, 10 classes, shuffled; the
run is made again for each measurement, and each command is a process of its own. "again" imports the same file once
more, "undo" withdraws all votes. CPU seconds (user and system), one thread, including the start of Python; wall
seconds are beside them.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metaselect.run import artefacts
from metaselect.run.files import write_csv, write_json
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record

CLASSES = [f"class {number}" for number in range(10)]
PEOPLE = ("anna", "ben", "carl")


def make_run(root: Path, n: int) -> Run:
    """A run of n samples, all of them selected in one round."""
    run = Run(root)
    ids = [f"s{number:07d}" for number in range(n)]
    run.path("data").mkdir(parents=True)
    columns = {
        "sample_id": ids,
        "given_label": [CLASSES[number % 10] for number in range(n)],
        "content_hash": [f"{number:064x}" for number in range(n)],
        "source": [""] * n,
    }
    pq.write_table(pa.table(columns), run.path(artefacts.SAMPLES.path()))
    write_json(run.path(artefacts.CLASSES.path()), list(CLASSES))
    run.write_info("features", "0" * 64)
    write_record(run.path("data"), StageKey({}, {}), {})
    run.path("select/round-1").mkdir(parents=True)
    rows = ((each, rank, 0, n, 1.0, 0.5, 0) for rank, each in enumerate(ids, start=1))
    write_csv(run.path(artefacts.SELECTED.path(number=1)), artefacts.SELECTED.columns, rows)
    write_record(run.path("select/round-1"), StageKey({}, {}), {})
    return run


def write_votes(path: Path, votes: int) -> None:
    """A file with that many votes, by all annotators, in random order."""
    rng = random.Random(0)
    rows = []
    for number in range(votes):
        sample, annotator = divmod(number, len(PEOPLE))
        label = CLASSES[sample % 10 if rng.random() < 0.9 else rng.randrange(10)]
        rows.append((f"s{sample:07d}", label, PEOPLE[annotator]))
    rng.shuffle(rows)
    write_csv(path, ("sample_id", "clean_label", "annotator"), rows)


def measured(*words: str) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak MiB of one command."""
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "metaselect", "annotate", *words], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(
        status
    )  # os.wait4 collected the process, so Popen does not know its code
    if child.returncode:
        raise SystemExit(f"{words} ended with {child.returncode}")
    return used.ru_utime + used.ru_stime, time.monotonic() - started, used.ru_maxrss / 1024


def measure(votes: int, method: str) -> dict[str, tuple[float, float, float]]:
    """The measurements of each command, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", -(-votes // len(PEOPLE)))
        table = Path(folder) / "votes.csv"
        write_votes(table, votes)
        where = ("--run", str(run.root))
        measured("consensus", "--method", method, *where)
        return {
            "import": measured("import", str(table), *where),
            "again": measured("import", str(table), *where),
            "status": measured("status", *where),
            "undo": measured("undo", *where),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[250_000, 500_000, 1_000_000])
    arguments = parser.parse_args()
    print("| votes | consensus | command | CPU s | clock s | MiB |\n|---|---|---|---|---|---|")
    for votes in arguments.sizes:
        for method in ("majority", "dawid-skene"):
            for name, (cpu, clock, mib) in measure(votes, method).items():
                print(f"| {votes:,} | {method} | {name} | {cpu:.1f} | {clock:.1f} | {mib:.0f} |", flush=True)


if __name__ == "__main__":
    main()
