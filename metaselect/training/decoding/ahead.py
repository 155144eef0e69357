"""Encoded images, decoded ahead of a training by processes of torch's DataLoader.

A process decodes whole batches, and they come in the order in which they were asked for: so neither order nor bytes
depend on the number of processes. Nothing random is drawn there; images are augmented where the model is.
"""

import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from metaselect.data.stored.images import EncodedImages
from metaselect.errors import MetaSelectError, ResourceError
from metaselect.signals import held_back
from metaselect.training.decoding.processes import begun

MOST_WORKERS = 8  # by default


def default_workers() -> int:
    """Processes that decode where the user gives no number: the cores of this rank, at most ``MOST_WORKERS``."""
    if sys.platform != "linux":  # elsewhere a process would begin by importing torch
        return 0
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(len(os.sched_getaffinity(0)) // ranks_here, 1), MOST_WORKERS)


def decode_ahead(images: EncodedImages, chunks: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The pixels (B, C, H, W) of each chunk of rows, (B,) int64, in order.

    Raises:
        ArtefactError: an image is missing, or another one than was ingested.
        ResourceError: the system ended a process, which it does when memory is short.
    """
    count = default_workers() if images.workers is None else images.workers
    count = min(count, len(chunks))
    if count == 0 or sys.platform != "linux":
        yield from (images[rows] for rows in chunks)
        return
    running = begun(images, chunks, count)
    try:
        for found in running:
            if isinstance(found, MetaSelectError):
                raise found
            yield found
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):  # which no error of its code says
            raise
        raise ResourceError(
            "A process that decodes images was ended by the system, as it does when memory is short.",
            "Give fewer --workers, or a smaller --batch-size; the same command then continues.",
        ) from None
    finally:
        with held_back():  # an exception within ``__del__``, which ends the processes, would be lost
            del running
