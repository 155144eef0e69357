"""Passes of a model in eval mode over many samples, block by block; in smaller blocks where a GPU's memory runs out."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from metaselect.memory import limits
from metaselect.models.batch import Batch
from metaselect.training.batches import Batches

Result = TypeVar("Result")


def in_blocks(
    batches: Batches, chunks: Sequence[torch.Tensor], compute: Callable[[Batch], Result]
) -> Iterator[tuple[torch.Tensor, Result]]:
    """``(ids, compute(batch))`` of one chunk of ids after another.

    Where the GPU's memory runs out, the rest goes on in blocks of half the size, down to one sample, with a note.

    Args:
        batches: the samples.
        chunks: ids ((b,) int64 on the CPU).
        compute: of each sample by itself, so that a block's size makes no difference but rounding.

    Raises:
        torch.OutOfMemoryError: for one sample.
    """
    pending, tried = [*chunks], 0
    while pending:
        done = 0
        try:
            for ids, result in _computed(batches, pending, compute):
                if tried:
                    limits().note(
                        f"The GPU's memory ran out with blocks of {tried} samples; going on with {len(ids)} at a time."
                    )
                    tried = 0
                yield ids, result
                done += 1
            return
        except torch.OutOfMemoryError:
            rows = len(pending[done])
            if rows == 1:
                raise
        # Only now are the block's tensors free: the exception held them.
        torch.cuda.empty_cache()
        tried, size = tried or rows, (rows + 1) // 2
        pending = [part for chunk in pending[done:] for part in chunk.split(size)]


def _computed(
    batches: Batches, chunks: Sequence[torch.Tensor], compute: Callable[[Batch], Result]
) -> Iterator[tuple[torch.Tensor, Result]]:
    """The same until memory runs out; its last block goes with this generator."""
    for ids, batch in batches.stream(chunks):
        yield ids, compute(batch)
