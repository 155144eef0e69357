"""What this process has read of a file, kept for as long as the file stays the same."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")

SETTLED = 100_000_000
"""Nanoseconds after which a file's modification time tells it from later ones; clocks of file systems are coarse."""


class FileMemo(Generic[Value]):
    """A function of a path that reads the file only when its inode, size or modification time has changed.

    A file that was written less than 0.1 s ago is read each time: a second write in the same tick of the file
    system's clock would look the same.

    Args:
        read: what is done with a file that was not read yet.
    """

    def __init__(self, read: Callable[[Path], Value]) -> None:
        self._read = read
        self._kept: dict[Path, tuple[tuple[int, int, int], Value]] = {}

    def __call__(self, path: Path) -> Value:
        """What ``read`` returns for the file as it is now."""
        status = path.stat()
        signature = (status.st_ino, status.st_size, status.st_mtime_ns)
        kept = self._kept.get(path)
        if kept is not None and kept[0] == signature:
            return kept[1]
        value = self._read(path)
        if time.time_ns() - status.st_mtime_ns > SETTLED:
            self._kept[path] = (signature, value)
        return value
