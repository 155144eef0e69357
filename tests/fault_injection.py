"""Commands in forked processes, with a signal or an error of the disk injected at a numbered operation on files.

An operation is one that changes a file system: opening a file to write it, rename, link, remove, mkdir, rmdir,
truncate, utime, and fsync. Python announces all but the last to audit hooks; so operations by code in other languages
are not counted, but Python renames every file that such code writes. A forked process spares the seconds that torch
takes to import.
"""

import errno
import gc
import os
import pkgutil
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime, tzinfo
from importlib import import_module
from pathlib import Path

import metaselect
from metaselect.__main__ import run
from metaselect.annotation import votes
from metaselect.signals import end_at_once

CHANGES = {
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.utime",
}
WRITING = os.O_WRONLY | os.O_RDWR
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
KINDS = (*SIGNALS, *ERRORS)
HANDLED = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Fault:
    """What is injected, and before which operation.

    Attributes:
        kind: of ``KINDS``.
        operation: its number, from 0; None: at a time.
        seconds: after the start of the command.
    """

    kind: str
    operation: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Ended:
    """A command that ended.

    Attributes:
        code: its exit code, minus the signal's number where one ended it.
        said: what it wrote to stdout and stderr.
        operations: the operations that it did, in their order: event and path.
        seconds: that it took.
    """

    code: int
    said: str
    operations: tuple[str, ...]
    seconds: float


class StoppedClock(datetime):
    """The time at which all votes and exports are recorded."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "StoppedClock":
        return cls(2026, 1, 1, tzinfo=tz)


def import_everything() -> None:
    """Import all of the package, so that no forked process does, and spare it their garbage collection."""
    for module in pkgutil.walk_packages(metaselect.__path__, "metaselect."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    gc.collect()
    gc.freeze()


def run_forked(words: tuple[object, ...], folder: Path, fault: Fault | None = None) -> Ended:
    """Run a command in a process forked off this one.

    Args:
        words: after ``metaselect``.
        folder: current folder of the process; operations elsewhere do not count.
        fault: to inject; None: none.
    """
    logs = [folder.with_name(f"{folder.name}.{name}") for name in ("said", "operations")]
    started = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # until the forked process handles them
    child = os.fork()
    if not child:
        _run(words, folder, fault, *logs)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    if fault is not None and fault.operation is None:
        time.sleep(fault.seconds)
        os.kill(child, SIGNALS[fault.kind])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said, operations = (path.read_text() if path.is_file() else "" for path in logs)
    return Ended(code, said, tuple(operations.splitlines()), time.monotonic() - started)


def _run(words: tuple[object, ...], folder: Path, fault: Fault | None, said: Path, operations: Path) -> None:
    """Run the command and end the process."""
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream)
    log = os.open(operations, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    os.chdir(folder)
    sys.argv = ["metaselect", *map(str, words)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_at_once()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    setattr(votes, "datetime", StoppedClock)  # noqa: B010
    code = 70
    try:
        _inject(folder, log, fault)
        code = run()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _inject(folder: Path, log: int, fault: Fault | None) -> None:
    done, fsync, inside = 0, os.fsync, f"{folder}{os.sep}"

    def before(event: str, path: str) -> None:
        nonlocal done
        number, done = done, done + 1
        os.write(log, f"{event} {path}\n".encode())
        if fault is None or fault.operation != number:
            return
        if fault.kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[fault.kind])
        else:  # as the system raises it: of a descriptor without a name
            number = ERRORS[fault.kind]
            raise OSError(number, os.strerror(number), *([path] if path else []))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and bool(flags & WRITING)
        else:
            path, changes = arguments[0] if arguments else None, event in CHANGES
        if changes and isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(inside):
            before(event, os.path.relpath(path, folder))

    def counted_fsync(descriptor: int) -> None:
        before("fsync", "")
        fsync(descriptor)

    setattr(os, "fsync", counted_fsync)  # noqa: B010
    sys.addaudithook(hook)
