"""SIGINT and SIGTERM at moments when nothing works yet: while Python imports, also what loses exceptions."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Done, environment, metaselect

from metaselect.signals import Terminated, interruption, unwinding

PROGRAM = """
import signal, sys
from metaselect.__main__ import run

moment, number, ignored = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "ignored"
sys.argv[1:] = sys.argv[4:]

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            sys.meta_path.remove(self)
            signal.raise_signal(number)

sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
sys.exit(run())
"""
EARLY = ("metaselect.cli.main", "typer", "metaselect.cli.console", "metaselect.stages.select.select")
LOSES_EXCEPTIONS = ("numpy", "numpy._core.getlimits", "numpy.lib._histograms_impl")
LATE = ("torch", "torch.nn.functional", "metaselect.training.batches")


def signalled(moment: str, number: int, run: Path, *, ignored: bool = False) -> Done:
    """A command that is sent a signal when it first imports a module."""
    words = (
        moment,
        int(number),
        "ignored" if ignored else "",
        "select",
        "--budget",
        5,
        "--dry-run",
        "--run",
        run,
    )
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    return Done(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_import_ends_the_process_with_its_code_and_a_sentence(
    number: signal.Signals, warm: Path
) -> None:
    faults = []
    for moment in (*EARLY, *LOSES_EXCEPTIONS, *LATE):
        done = signalled(moment, number, warm)
        sentences = [line for line in done.err.splitlines() if not line.startswith("No GPU found")]
        if (done.code, done.out, sentences) != (128 + number, "", [interruption(number)]):
            faults.append((moment, done))
    assert faults == []


def test_a_signal_that_the_shell_has_ignored_stays_ignored(warm: Path) -> None:
    assert signalled("typer", signal.SIGINT, warm, ignored=True).code == 0


def test_a_command_puts_the_handlers_back(warm: Path) -> None:
    def mine(number: int, frame: object) -> None:
        raise AssertionError

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, mine) for number in numbers}
    try:
        metaselect("status", run=warm)
        metaselect("frobnicate", run=warm, code=2)
        assert [signal.getsignal(number) for number in numbers] == [mine, mine]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_unwinds_what_works(number: signal.Signals, kind: type[BaseException]) -> None:
    # Where the tests run in the background of a shell, SIGINT is ignored, and would stay so.
    outside = signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)
    closed: list[bool] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            pytest.fail("the signal was lost")
        finally:
            closed.append(True)

    try:
        with pytest.raises(kind), unwinding():
            work()
        assert closed
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, outside)
