"""Every command, killed or without disk at any operation on files, ends in the bytes of an undisturbed one.

    python tests/kill_harness.py --trials 500

A trial takes the folder as it was before a command, runs it up to three times with a fault (``fault_injection``), at an
operation on files or at a moment, and then without, and compares every file with those of the undisturbed command. Each
faulty command must end with a documented exit code and a sentence, lose no vote, and leave a run that `status` reads.
"""

import argparse
import csv
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch, so that bytes can be compared

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from command_line import DATA, tree
from fault_injection import KINDS, SIGNALS, Ended, Fault, import_everything, run_forked

from metaselect.signals import TERMINATED

SAMPLES, BUDGET = 60, 6
MOST_FAULTS = 3  # of one trial
RUN, CLEANED, TABLE = "run", "cleaned", "features.parquet"
TRAINING = ("--epochs", 2, "--batch-size", 16)
IMAGE_STEPS: tuple[tuple[object, ...], ...] = (
    ("corrupt", "train.parquet", "-o", "noisy", "--noise", "uniform", "--rate", 0.3),
    ("split", "train.parquet", "--test", 0.3, "-o", "parts"),
    ("ingest", "train.parquet"),
    ("warmup", "--checkpoints", 2, "--folds", 2, *TRAINING),
    ("select", "--budget", BUDGET, "--method", "rbc"),
    ("annotate", "export"),
    ("annotate", "import", "answers.csv"),
    ("annotate", "undo"),
    ("annotate", "simulate", "truth.csv"),
    ("reweight", "--method", "uniform", "--folds", 2, *TRAINING),
    ("reweight", "--method", "direct", "--folds", 0, "--trace", *TRAINING),
    ("evaluate", "test.parquet", "--truth", "truth.csv"),
    ("fanout",),
    ("export", "--name", "direct", "-o", CLEANED, "--force"),
    ("compare", RUN, "--figure", "figure.svg"),
    ("select", "--round", "next", "--budget", 3, "--method", "random"),
    ("annotate", "simulate", "truth.csv"),
)
FEATURE_STEPS: tuple[tuple[object, ...], ...] = (
    ("warmup", TABLE),
    ("select", "--budget", 12),
    ("annotate", "simulate", "truth.csv"),
    ("reweight", "--folds", 2),
    ("evaluate", "features_test.parquet"),
)
ENCODED_STEPS: tuple[tuple[object, ...], ...] = (
    ("ingest", "train.parquet", "--store", "encoded"),
    ("warmup", "--checkpoints", 2, "--folds", 0, "--workers", 1, *TRAINING),
)
RANKED_STEPS: tuple[tuple[object, ...], ...] = (
    ("ingest", "train.parquet"),
    ("warmup", "--checkpoints", 2, "--folds", 2, *TRAINING),
    ("select", "--budget", BUDGET, "--method", "gbc"),
    ("annotate", "simulate", "truth.csv"),
    ("reweight", "--method", "direct", "--folds", 0, *TRAINING),
    ("evaluate", "test.parquet"),
)
"""As under torchrun: those of ``SEVERAL`` in two processes."""
SEVERAL = ("warmup", "select", "reweight", "evaluate")
WITHOUT_RUN = ("corrupt", "split", "compare")


class Step(NamedTuple):
    """A command, and what it does undisturbed.

    Attributes:
        words: after ``metaselect``.
        before: the folder before it.
        after: files afterwards, by path.
        ended: the undisturbed command.
        ranks: the number of its processes.
    """

    words: tuple[object, ...]
    before: Path
    after: dict[str, bytes]
    ended: Ended
    ranks: int = 1


def steps(place: Path) -> Iterator[Step]:
    """Run every command undisturbed, one after the other.

    Args:
        place: an empty folder for data, runs and copies.
    """
    kinds = {
        "images": IMAGE_STEPS,
        "features": FEATURE_STEPS,
        "encoded": ENCODED_STEPS,
        "ranks": RANKED_STEPS,
    }
    for name, commands in kinds.items():
        folder = place / name
        folder.mkdir()
        write_data(folder)
        for number, words in enumerate(commands):
            words = words if words[0] in WITHOUT_RUN else (*words, "--run", RUN)
            if words[:2] == ("annotate", "import"):
                write_answers(folder)
            before = Path(shutil.copytree(folder, place / f"{name}-{number}"))
            several = name == "ranks" and words[0] in SEVERAL
            if name == "ranks" and not several:  # made, and tried as the images' one
                run_forked(words, folder)
                continue
            ended = run_forked(words, folder, ranks=1 + several)
            if ended.code:
                raise SystemExit(f"{words} ended with {ended.code}: {ended.said}")
            yield Step(words, before, files(folder), ended, 1 + several)


def files(folder: Path) -> dict[str, bytes]:
    """Every file but locks, and those that hold times."""
    return tree(folder, leave=(".lock", "stage.json"))


def trial(step: Step, faults: Sequence[Fault], place: Path) -> list[Ended]:
    """Run a command with faults, one run for each, and then without.

    Args:
        step: the command.
        faults: in their order.
        place: a folder that does not exist yet; it is removed again.

    Raises:
        AssertionError: a promise is broken.
    """
    shutil.copytree(step.before, place)
    told = []
    for fault in faults:
        votes = votes_of(place)
        ended = run_forked(step.words, place, fault, ranks=step.ranks)
        told.append(ended)
        judge(step, fault, ended)
        assert votes_of(place)[: len(votes)] == votes, f"{step.words}, {fault}: votes are lost"
        if (place / RUN / "run.json").is_file():
            shown = run_forked(("status", "--run", RUN), place)
            assert shown.code in (0, 1), (
                f"{step.words}, {fault}: status ended with {shown.code}: {shown.said}"
            )
        if files(place) == step.after:  # all was done; again would be once more for `undo`
            break
    else:
        last = run_forked(step.words, place, ranks=step.ranks)
        assert last.code == 0, f"{step.words} after {faults} ended with {last.code}: {last.said}"
    assert_undisturbed(step, place, f"{step.words} after {faults}")
    shutil.rmtree(place)
    for log in place.parent.glob(f"{place.name}.*"):
        log.unlink()
    return told


def assert_undisturbed(step: Step, place: Path, what: str) -> None:
    """Raise AssertionError unless a folder has the files of the undisturbed command, and no others."""
    found = files(place)
    differ = sorted(
        name for name in found.keys() | step.after.keys() if found.get(name) != step.after.get(name)
    )
    assert not differ, f"{what}: {differ} differ"


def judge(step: Step, fault: Fault, ended: Ended) -> None:
    """Raise AssertionError unless a command ended as a fault lets it: as documented, or as if there was none."""
    shown = f"{step.words}, {fault}: exit {ended.codes}\n{ended.said}"
    assert "Traceback" not in ended.said, shown
    if step.ranks > 1:
        judge_ranks(fault, ended, shown)
    elif fault.kind in SIGNALS:
        number = SIGNALS[fault.kind]
        assert ended.code in (0, -number if fault.kind == "SIGKILL" else 128 + number), shown
        assert ended.code <= 0 or "Run the same command again" in ended.said, shown
    else:
        assert ended.code in (0, 5), shown
        assert ended.code == 0 or fault.kind == "EIO" or "The disk is full while writing" in ended.said, shown


def judge_ranks(fault: Fault, ended: Ended, shown: str) -> None:
    """The same of several processes: those that were not killed end alike, and one of them says why."""
    killed = -SIGNALS["SIGKILL"]
    alive = {code for code in ended.codes if code != killed}
    assert killed not in ended.codes or fault.kind == "SIGKILL", shown
    if fault.kind in SIGNALS:
        # Of SIGTERM and SIGINT in one process, the first one that ends decides.
        assert alive <= {0, TERMINATED} or alive == {128 + SIGNALS[fault.kind]}, shown
        assert not any(alive) or "again" in ended.said, shown
    else:
        assert alive in ({0}, {5}), shown
        assert alive == {0} or fault.kind == "EIO" or "The disk is full while writing" in ended.said, shown


def votes_of(folder: Path) -> list[list[str]]:
    """Rows of the ledger."""
    path = folder / RUN / "annotate/votes.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def drawn_faults(step: Step, draw: np.random.Generator) -> list[Fault]:
    """One to three faults, of which one in four comes at a time."""
    found = []
    for _ in range(int(draw.integers(1, MOST_FAULTS + 1))):
        if draw.random() < 0.25:
            kind = str(draw.choice([*SIGNALS]))
            seconds = float(draw.uniform(0, step.ended.seconds))
            found.append(Fault(kind, seconds=seconds, rank=int(draw.integers(step.ranks))))
        else:
            found.append(Fault(str(draw.choice(KINDS)), int(draw.integers(len(step.ended.operations)))))
    return found


def write_data(folder: Path) -> None:
    """Digits with their truth as images, and Gaussian classes as features; a third of the labels is wrong."""
    for name, count in (("train", SAMPLES), ("test", 30)):
        pq.write_table(pq.read_table(DATA / f"{name}.parquet").slice(0, count), folder / f"{name}.parquet")
    draw = np.random.default_rng(0)
    centres = 4 * draw.normal(size=(3, 8))
    for name, count in ((TABLE, SAMPLES), ("features_test.parquet", 30)):
        true = np.arange(count) % 3
        rows = centres[true] + draw.normal(size=(count, 8))
        given = np.where(draw.random(count) < (1 / 3 if name == TABLE else 0), (true + 1) % 3, true)
        ids = [f"sample-{number:03d}" for number in range(count)]
        labels = [f"class-{label}" for label in given]
        pq.write_table(
            pa.table({"sample_id": ids, "features": rows.tolist(), "label": labels}), folder / name
        )
        if name == TABLE and folder.name == "features":
            write_rows(
                folder / "truth.csv", [[i, f"class-{label}"] for i, label in zip(ids, true, strict=True)]
            )
    if folder.name != "features":
        shutil.copyfile(DATA / "truth.csv", folder / "truth.csv")


def write_answers(folder: Path) -> None:
    """``answers.csv``: the true label of every pick."""
    with (folder / "truth.csv").open(newline="") as stream:
        truth = {row["sample_id"]: row["clean_label"] for row in csv.DictReader(stream)}
    with (folder / RUN / "select/round-1/selected.csv").open(newline="") as stream:
        picks = [row["sample_id"] for row in csv.DictReader(stream)]
    write_rows(folder / "answers.csv", [[pick, truth[pick]] for pick in picks])


def write_rows(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """A CSV of ids and labels."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["sample_id", "clean_label"], *rows])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a word that the command must have")
    arguments = parser.parse_args()
    import_everything()
    draw, broken, started = np.random.default_rng(arguments.seed), 0, time.monotonic()
    endings: Counter[tuple[str, int]] = Counter()
    with tempfile.TemporaryDirectory() as place:
        known = [
            step
            for step in steps(Path(place))
            if arguments.only in map(str, step.words) or not arguments.only
        ]
        for number in range(arguments.trials):
            step = known[number % len(known)]
            faults = drawn_faults(step, draw)
            try:
                told = trial(step, faults, Path(place) / f"trial-{number}")
                endings.update((fault.kind, ended.code) for fault, ended in zip(faults, told, strict=False))
            except AssertionError as error:
                broken += 1
                print(f"{step.words}, {faults}: {error}", flush=True)
    points = sum(len(step.ended.operations) for step in known)
    print(
        f"{len(known)} commands with {points} operations on files; {arguments.trials} trials, {broken} broken"
    )
    for (kind, code), count in sorted(endings.items()):
        print(f"{kind}: exit {code}: {count}")
    print(f"{sum(endings.values())} faults in {time.monotonic() - started:.0f} s")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
