"""Every command on a file system that is full at some moment, and again when there is room: bytes as undisturbed.

    python tests/full_disk.py --trials 200

The file system is a tmpfs of 64 MiB, so the program needs the right to mount one. A trial copies the folder as it was
before a command there, leaves less room than what the command wrote undisturbed, and runs it: it must end with exit
code 5 and the sentence of a full disk, or succeed where the room was enough after all. Then there is room, and the same
command must end in the bytes of an undisturbed one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch, so that bytes can be compared

import numpy as np
from fault_injection import import_everything, run_forked
from kill_harness import Step, assert_undisturbed, files, steps, votes_of

ROOM = "64m"
PAGE = 4096


def mount(place: Path, size: str) -> bool:
    """Mount a tmpfs of ``size`` at an empty folder; whether that was allowed."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def resize(place: Path, size: str) -> None:
    """Change the size of a mounted tmpfs."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def used_pages(place: Path) -> int:
    """Pages of a tmpfs that hold something."""
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize // PAGE


def trial(step: Step, share: float, disk: Path) -> int:
    """Run a command with too little room, and again with enough; returns the first exit code.

    Args:
        step: the command.
        share: of the pages that it adds, which are there.
        disk: an empty tmpfs, which is emptied again.

    Raises:
        AssertionError: a promise is broken.
    """
    place = disk / "folder"
    shutil.copytree(step.before, place)
    already = files(place)
    new = [content for name, content in step.after.items() if already.get(name) != content]
    added = sum(-(-len(content) // PAGE) + 1 for content in new)
    resize(disk, f"{(used_pages(disk) + int(share * added)) * PAGE}")
    votes = votes_of(place)
    # What it says goes to another file system.
    logs = Path(tempfile.mkdtemp()) / "command"
    ended = run_forked(step.words, place, ranks=step.ranks, logs=logs)
    shown = f"{step.words} with {share:.2f} of its room: exit {ended.codes}\n{ended.said}"
    assert ended.code in (0, 5), shown
    assert ended.code == 0 or "The disk is full while writing" in ended.said, shown
    assert "Traceback" not in ended.said, shown
    assert votes_of(place)[: len(votes)] == votes, f"{shown}\nvotes are lost"
    resize(disk, ROOM)
    if files(place) != step.after:
        last = run_forked(step.words, place, ranks=step.ranks, logs=logs)
        assert last.code == 0, f"{shown}\nagain: exit {last.codes}\n{last.said}"
    assert_undisturbed(step, place, shown)
    shutil.rmtree(place)
    shutil.rmtree(logs.parent)
    return ended.code


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    import_everything()
    draw, broken = np.random.default_rng(arguments.seed), 0
    endings: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as disk:
        if not mount(Path(disk), ROOM):
            print("No right to mount a tmpfs here.")
            return 0
        try:
            known = list(steps(Path(place)))
            for number in range(arguments.trials):
                try:
                    endings[trial(known[number % len(known)], draw.uniform(0, 1), Path(disk))] += 1
                except AssertionError as error:
                    broken += 1
                    print(error, flush=True)
                    shutil.rmtree(Path(disk) / "folder", ignore_errors=True)
                    resize(Path(disk), ROOM)
        finally:
            subprocess.run(["umount", disk], check=True)
    codes = ", ".join(f"exit {code}: {count}" for code, count in sorted(endings.items()))
    print(f"{len(known)} commands, {arguments.trials} trials, {broken} broken; {codes}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
