"""Commands in forked processes, with a signal or an error of the disk injected at a numbered operation on files.

A command of several ranks is as many processes, which do what torchrun has them do: they share a store in a process of
its own, SIGTERM and SIGINT reach all of them, and when one has failed the others get SIGTERM.

An operation is one that changes a file system: opening a file to write it, rename, link, remove, mkdir, rmdir,
truncate, utime, and fsync. Python announces all but the last to audit hooks; so operations by code in other languages
are not counted, but Python renames every file that such code writes. A forked process spares the seconds that torch
takes to import.
"""

import errno
import gc
import math
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
GRACE = 30.0  # seconds after SIGTERM to the other ranks, as torchrun waits


@dataclass(frozen=True)
class Fault:
    """What is injected, and before which operation.

    Attributes:
        kind: of ``KINDS``.
        operation: its number, from 0; None: at a time.
        seconds: after the start of the command.
        rank: the one that SIGKILL ends at a time; at an operation it is rank 0, as no other one writes.
    """

    kind: str
    operation: int | None = None
    seconds: float = 0.0
    rank: int = 0


@dataclass(frozen=True)
class Ended:
    """A command that ended.

    Attributes:
        codes: of each rank the exit code, minus the signal's number where one ended it.
        said: what it wrote to stdout and stderr.
        operations: the operations that it did, in their order: event and path.
        seconds: that it took.
    """

    codes: tuple[int, ...]
    said: str
    operations: tuple[str, ...]
    seconds: float

    @property
    def code(self) -> int:
        """That of the command: of the first rank that did not end with 0, one that was not killed if there is one."""
        return next((code for code in sorted(self.codes, reverse=True) if code), 0)


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


def run_forked(
    words: tuple[object, ...],
    folder: Path,
    fault: Fault | None = None,
    *,
    ranks: int = 1,
    logs: Path | None = None,
) -> Ended:
    """Run a command in processes forked off this one.

    Args:
        words: after ``metaselect``.
        folder: current folder of the processes; operations elsewhere do not count.
        fault: to inject; None: none.
        ranks: number of processes.
        logs: where what they say is kept, a path whose name gets endings; None: beside the folder.
    """
    logs = logs or folder
    said, log = (logs.with_name(f"{logs.name}.{name}") for name in ("said", "operations"))
    for path in (said, log):
        path.unlink(missing_ok=True)
    started = time.monotonic()
    with _store(ranks) as port:
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # until the forked processes handle them
        children = []
        for rank in range(ranks):
            child = os.fork()
            if not child:
                if ranks > 1:
                    os.environ |= _torchrun(rank, ranks, port)
                _run(words, folder, fault if rank == 0 else None, said, log)
            children.append(child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        if fault is not None and fault.operation is None:
            time.sleep(fault.seconds)
            for rank, child in enumerate(children):
                if fault.kind != "SIGKILL" or rank == fault.rank:
                    os.kill(child, SIGNALS[fault.kind])
        codes = _awaited(children)
    texts = (path.read_text() if path.is_file() else "" for path in (said, log))
    text, operations = texts
    return Ended(codes, text, tuple(operations.splitlines()), time.monotonic() - started)


def _awaited(children: list[int]) -> tuple[int, ...]:
    """The exit codes of processes; when one has failed, the others get SIGTERM, and SIGKILL if they do not end.

    Raises:
        AssertionError: one did not end.
    """
    codes: dict[int, int] = {}
    deadline = math.inf
    while len(codes) < len(children):
        for child in set(children) - codes.keys():
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                continue
            codes[child] = os.waitstatus_to_exitcode(status)
            if codes[child]:
                deadline = time.monotonic() + GRACE
                for other in set(children) - codes.keys():
                    os.kill(other, signal.SIGTERM)
        if time.monotonic() > deadline:
            for other in set(children) - codes.keys():
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
            raise AssertionError(f"ranks that ended with {[*codes.values()]} left others that did not end")
        time.sleep(0.005)
    return tuple(codes[child] for child in children)


@contextmanager
def _store(ranks: int) -> Iterator[int]:
    """The port of a store of torch.distributed in a process of its own; 0 where one rank needs none."""
    if ranks == 1:
        yield 0
        return
    from torch._C._distributed_c10d import TCPStore

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
        os.write(writing, str(store.port).encode())
        while True:
            signal.pause()
    os.close(writing)
    try:
        yield int(os.read(reading, 16))
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    return {**place, **numbers, "TORCHELASTIC_RUN_ID": "test"}


def _run(words: tuple[object, ...], folder: Path, fault: Fault | None, said: Path, operations: Path) -> None:
    """Run the command and end the process."""
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    log = os.open(operations, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
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
