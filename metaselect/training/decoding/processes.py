"""The processes that decode: torch's DataLoader, begun and ended so that none is left behind."""

import ctypes
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from metaselect.data.stored.images import EncodedImages
from metaselect.errors import MetaSelectError
from metaselect.signals import held_back

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def begun(
    images: EncodedImages, chunks: Sequence[np.ndarray], count: int
) -> Iterator[np.ndarray | MetaSelectError]:
    """The iterator over the chunks, once ``count`` processes have begun with them."""
    dataset = _Chunks(images, chunks)
    with held_back(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more processes than cores, and of the fork
        return iter(
            DataLoader(
                dataset,
                batch_size=None,
                sampler=SequentialSampler(dataset),
                num_workers=count,
                collate_fn=_unchanged,
                worker_init_fn=partial(_begin, os.getpid()),
                # They begin as copies of this process, and only need Pillow and NumPy: its threads do not matter.
                multiprocessing_context="fork",
                generator=torch.Generator(),  # the global one, from which it would draw, stays as it is
            )
        )


class _Chunks(Dataset[np.ndarray | MetaSelectError]):
    """The decoded chunks of rows, by number; an error is given as it is, as DataLoader would make text of it."""

    def __init__(self, images: EncodedImages, chunks: Sequence[np.ndarray]) -> None:
        self.images, self.chunks = images, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> np.ndarray | MetaSelectError:
        try:
            return self.images.decoded(self.chunks[number])
        except MetaSelectError as error:
            return error


def _unchanged(found: Any) -> Any:
    """Arrays go through a pipe: as tensors they would need shared memory, of which containers have little."""
    return found


def _begin(parent: int, worker: int) -> None:
    """Have a process end with the one that it works for, which alone heeds an interruption."""
    del worker
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
