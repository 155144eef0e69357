"""Memory-mapped arrays that an ingest fills, and goes on with after an interruption."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from metaselect.memory import droppable

BLOCK = 2048  # rows copied at a time


def open_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, begun: bool) -> np.memmap:
    """The array in a file: the one that was begun there, or a new one of this shape, whose disk space is reserved."""
    if begun:
        return droppable(np.lib.format.open_memmap(path, mode="r+"))
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # Reserved now: on a full disk, writing to mapped memory later would end the process with SIGBUS.
        with path.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return droppable(array)


def finish_array(unfinished: Path, final: Path, lost: Collection[int]) -> None:
    """Move an array to its final name, without the rows of samples that could not be used."""
    if not lost:
        unfinished.replace(final)
        return
    array = np.load(unfinished, mmap_mode="r")
    kept = [place for place in range(len(array)) if place not in lost]
    shorter = np.lib.format.open_memmap(
        final, mode="w+", dtype=array.dtype, shape=(len(kept), *array.shape[1:])
    )
    for start in range(0, len(kept), BLOCK):
        shorter[start : start + BLOCK] = array[kept[start : start + BLOCK]]
    shorter.flush()
    del array, shorter
    unfinished.unlink()
