"""Limits of the memory of a command, --max-memory and --max-gpu-memory: what it may take, and what it took.

Memory is the resident set, as the kernel counts it: what the process allocated, and the pages of files that it has
mapped (libraries, and arrays of samples). Pages of arrays can be dropped and read again, so a thread has the kernel
drop them while a limit holds and comes near: what counts are allocations. A limit changes no result. Blocks follow it
only where their size does not change a bit of what is computed.
"""

import ctypes
import mmap
import os
import re
import resource
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from metaselect.errors import ResourceError, UsageError
from metaselect.records import Json, Reporter

if TYPE_CHECKING:
    import numpy as np

Array = TypeVar("Array", bound="np.ndarray")
MIB = 2**20
UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}  # powers of 1,024
INTERVAL = 0.005  # seconds between two looks at the memory, in which 25 MB are mapped at most
NEAR = 0.75  # of the limit, from which on mapped pages are dropped
BLOCK_SHARE = 1 / 16  # of the limit that one block may take
LIBRARIES = (
    32 * MIB,
    160 * MIB,
)  # of them that are mapped while they are used, and as the process ends; with torch
VARIATION = 8 * MIB  # by which two processes that do the same differ
FREED, FREED_WITHIN_LIMIT = 2**30, 2**26  # bytes of freed memory that a process keeps at most
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h of glibc
LARGE = 2**25  # bytes of an allocation that is given back whenever it is freed; glibc takes no larger value
CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
STATM = Path("/proc/self/statm")  # Linux has it
PAGE = resource.getpagesize()


class Resident(NamedTuple):
    """Bytes of the process that are in memory: allocated ones, and those of mapped files."""

    allocated: int
    mapped: int


class Need(NamedTuple):
    """What a stage takes besides what the process has by now, in bytes.

    Attributes:
        held: allocated at the same time, at most, with the smallest blocks.
        mapped: of arrays in files, whose pages can be dropped.
    """

    held: int
    mapped: int = 0


@dataclass
class Limits:
    """What a command may take.

    Attributes:
        memory: bytes; None: as it needs.
        gpu: bytes of the GPU; None: all.
        note: takes sentences on what was done to stay within them.
        maps: files whose pages can be dropped.
        allocated: bytes, the most that were seen while ``memory`` held.
    """

    memory: int | None = None
    gpu: int | None = None
    note: Callable[[str], None] = warnings.warn
    maps: "list[weakref.ref[mmap.mmap]]" = field(default_factory=list)
    allocated: int = 0

    def drop_if_near(self) -> None:
        """Look at the memory, and drop mapped pages where it comes near the limit."""
        if self.memory is None or not STATM.exists():
            return
        now = resident()
        self.allocated = max(self.allocated, now.allocated)
        if sum(now) > NEAR * self.memory:
            self.drop_pages()

    def drop_pages(self) -> None:
        """Have the kernel take the pages of the mapped arrays out of memory; what was written to them is kept."""
        for reference in self.maps:
            mapped = reference()
            if mapped is not None:
                with suppress(ValueError, OSError):  # closed
                    mapped.madvise(mmap.MADV_DONTNEED)


def keep_freed(size: int) -> None:
    """Have glibc keep up to ``size`` bytes of freed memory for the next allocations; elsewhere this does nothing.

    By default it gives most of it back, and the kernel has to fill the same pages with zeros in the next pass of a
    batch through a model (docs/measurements.md). No result depends on it. What a user chose by ``CHOSEN_BY`` stays.
    """
    if any(os.environ.get(name) for name in CHOSEN_BY):
        return
    with suppress(OSError, AttributeError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, size)
        mallopt(M_MMAP_THRESHOLD, LARGE)


_limits: ContextVar[Limits] = ContextVar("limits")
_NONE = Limits()


def limits() -> Limits:
    """The limits of this command; of a program that sets none, there are none."""
    return _limits.get(_NONE)


@contextmanager
def limited(memory: int | None, report: Reporter, gpu: int | None = None) -> Iterator[None]:
    """Hold the limits in this block; at its end a warning says where more memory was taken.

    Args:
        memory: bytes of this process; None: no limit.
        report: takes the warning, and notes.
        gpu: bytes of the GPU; None: no limit.
    """
    held = Limits(memory, gpu, report.note)
    if memory is not None:
        keep_freed(FREED_WITHIN_LIMIT)
    token, ended = _limits.set(held), threading.Event()
    watching = memory is not None and STATM.exists()
    watcher = threading.Thread(target=_watch, args=(held, ended), daemon=True)
    if watching:
        watcher.start()
    try:
        yield
    finally:
        _limits.reset(token)
        ended.set()
        if watching:
            watcher.join()
    if memory is not None and (most := peak()) > memory:
        report.warn(
            f"The command took {spoken_size(most)} of memory, more than --max-memory {spoken_size(memory)}."
        )


def _watch(held: Limits, ended: threading.Event) -> None:
    """Drop mapped pages whenever the process comes near its limit."""
    while not ended.wait(INTERVAL):
        held.drop_if_near()


def drop_pages_if_near() -> None:
    """Drop mapped pages at once if the process comes near its limit: for passes that map faster than anybody looks."""
    limits().drop_if_near()


def droppable(array: Array) -> Array:
    """The same memory-mapped array, whose pages may be dropped from now on; nothing may write to a private one."""
    held = limits()
    if held.memory is not None and isinstance(array.base, mmap.mmap):
        held.maps.append(weakref.ref(array.base))
    return array


def resident() -> Resident:
    """What the process has in memory now."""
    if not STATM.exists():
        return Resident(peak(), 0)
    _, total, mapped, *_ = (int(pages) * PAGE for pages in STATM.read_text().split())
    return Resident(total - mapped, mapped)


def peak() -> int:
    """The most bytes that the process had in memory, allocated and mapped."""
    if STATM.exists():  # that of resource has the size of the process that started this one in it
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * 1024 if sys.platform == "linux" else most


def recorded_memory() -> dict[str, Json]:
    """The peak for ``stage.json`` in MiB, and the limit, where there is one, with the most that was allocated."""
    found: dict[str, Json] = {"process_mib": in_mib(peak())}
    held = limits()
    if held.memory is not None:
        found |= {"limit_mib": in_mib(held.memory), "allocated_mib": in_mib(held.allocated)}
    return found


def require_memory(need: Need, what: str, hint: str) -> None:
    """Check that there is room for a stage within --max-memory.

    Args:
        need: of the stage.
        what: it is, as the subject of a sentence.
        hint: what would take less.

    Raises:
        ResourceError: there is not.
    """
    limit = limits().memory
    if limit is None:
        return
    least = least_memory(need)
    if least > limit:
        raise ResourceError(
            f"{what} needs about {spoken_size(least)} of memory, and --max-memory is {spoken_size(limit)}.",
            f"{hint} --max-memory {spoken_size(least, up=True)} is enough.",
        )


def least_memory(need: Need) -> int:
    """The smallest limit that a stage can hold, in bytes: what the process has now, and what the stage allocates."""
    limits().drop_pages()
    return sum(resident()) + LIBRARIES[int("torch" in sys.modules)] + need.held


def predicted(need: Need, disk: float, least: int | None = None) -> dict[str, Json]:
    """What --dry-run says of the memory and disk of every stage, beside its ``seconds``.

    Args:
        need: of memory.
        disk: bytes that are written.
        least: the ``least_memory`` before a probe that took more than the stage takes at once; None: the probe took
            as much, beside what is held.
    """
    if least is None:
        least = max(least_memory(need), peak() + need.held)
    return {
        "memory_mib": in_mib(least + VARIATION + need.mapped),
        "least_memory_mib": in_mib(least + VARIATION),
        "disk_mib": in_mib(disk),
    }


def block_size(item_bytes: float, most: int) -> int:
    """Rows or columns of a block: at most so many, and fewer where these would take a large part of the limit.

    Only for blocks of which the size changes no bit of what is computed.
    """
    limit = limits().memory
    return most if limit is None else min(max(int(BLOCK_SHARE * limit / max(item_bytes, 1)), 1), most)


def parse_size(text: str) -> int:
    """Bytes of a size such as "4G", "512M", "1.5GiB".

    Raises:
        UsageError: it is no size above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * 1024 ** UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise UsageError(f"{text!r} is no size of memory.", "Write it as 4G, 512M or 1.5GiB.")
    return size


def spoken_size(size: float, *, up: bool = False) -> str:
    """Bytes as people say them: "512 MiB", "3.5 GiB"; ``up``: as an option takes them, and not less."""
    if up:
        return f"{-int(-size // (32 * MIB)) * 32}M"
    return f"{size / MIB:.0f} MiB" if size < 1024 * MIB else f"{size / MIB / 1024:.1f} GiB"


def in_mib(size: float) -> float:
    """Bytes in MiB, to a tenth."""
    return round(size / MIB, 1)
