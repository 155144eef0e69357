"""What the processes of one command under torchrun exchange, and how they divide the work.

`torchrun --nproc-per-node N -m metaselect ...` starts N processes of the same command line, ranks 0 to N - 1. All of
them run the same code on the same files, and take the same decisions; where there is much to compute, each takes its
share (``divide``) and they exchange the results. Rank 0 alone prints and writes files. In one process every function
here returns its argument, so that there is one code for both.

The engine is torch.distributed: gloo for tensors on the CPU, NCCL for those on GPUs. ``torchrun`` has the beginning and
the end of such a process.
"""

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from metaselect.signals import Terminated

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
Chunk = TypeVar("Chunk", bound=Sized)


class LostRank(Terminated):
    """Another rank has ended, so that this one cannot go on."""


class World:
    """Where this process stands among the others; it has none until ``torchrun.start``.

    Attributes:
        size: number of processes.
        rank: of this one.
        alone: blocks of ``alone`` that it is in.
    """

    size = 1
    rank = 0
    alone = 0


def size() -> int:
    """How many processes work together: 1 in a process of its own."""
    return 1 if World.alone else World.size


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if World.alone else World.rank


def is_first() -> bool:
    """Whether this process prints and writes."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """A context in which this process works as if there were no others."""
    World.alone += 1
    try:
        yield
    finally:
        World.alone -= 1


def by_first(work: Callable[[], object]) -> None:
    """Call ``work`` in rank 0 when all ranks are here; all go on when it is done."""
    barrier()
    if is_first():
        with alone():
            work()
    barrier()


def barrier() -> None:
    """Wait until every rank is here."""
    if size() > 1:
        import torch

        all_sum(torch.zeros(1))


def all_sum(values: "torch.Tensor") -> "torch.Tensor":
    """The sum of a tensor over the ranks, the same bits in each; the argument does not change."""
    return _reduced(values, "SUM")


def all_max(values: "torch.Tensor") -> "torch.Tensor":
    """The elementwise maximum of a tensor over the ranks; the argument does not change."""
    return _reduced(values, "MAX")


def all_sums(values: Sequence["torch.Tensor"]) -> list["torch.Tensor"]:
    """The sum of each tensor over the ranks, in one exchange; all have one dtype."""
    if size() == 1 or not values:
        return list(values)
    import torch

    total = all_sum(torch.cat([each.detach().flatten() for each in values]))
    parts = total.split([each.numel() for each in values])
    return [part.view_as(each) for part, each in zip(parts, values, strict=True)]


def broadcast(values: "torch.Tensor") -> "torch.Tensor":
    """The tensor of rank 0, in every rank; all have its shape and dtype."""
    if size() == 1:
        return values
    from torch import distributed

    copy = values.detach().contiguous().clone()
    exchanged(lambda: distributed.broadcast(copy, 0))
    return copy


class Division(NamedTuple):
    """Rows divided among the ranks: ``sizes[r]`` of them to rank r, in order; one size: every rank has all rows.

    Attributes:
        sizes: one for each rank, or the number of rows alone.
    """

    sizes: tuple[int, ...]

    @property
    def is_split(self) -> bool:
        """Whether there are rows that this rank does not have."""
        return len(self.sizes) > 1

    @property
    def total(self) -> int:
        """All rows."""
        return sum(self.sizes)

    @property
    def own(self) -> slice:
        """The rows of this rank."""
        if not self.is_split:
            return slice(0, self.total)
        end = list(accumulate(self.sizes))[rank()]
        return slice(end - self.sizes[rank()], end)

    def summed(self, values: "torch.Tensor") -> "torch.Tensor":
        """The sum over the ranks of what each has computed from its ``own`` rows."""
        return all_sum(values) if self.is_split else values

    def joined(self, rows: "torch.Tensor") -> "torch.Tensor":
        """All rows in every rank, from the ``own`` of each (b, ...); a graph is kept for the own ones."""
        if not self.is_split:
            return rows
        import torch
        from torch import distributed

        most = max(self.sizes)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        blocks = [torch.empty_like(padded) for _ in self.sizes]
        exchanged(lambda: distributed.all_gather(blocks, padded))
        found = [block[:count] for block, count in zip(blocks, self.sizes, strict=True)]
        found[rank()] = rows
        return torch.cat(found)


def divide(count: int) -> Division:
    """``count`` rows in parts that differ by at most one; fewer rows than ranks are not divided."""
    ranks = size()
    if ranks == 1 or count < ranks:
        return Division((count,))
    least, more = divmod(count, ranks)
    return Division(tuple(least + (number < more) for number in range(ranks)))


def divide_chunks(chunks: Sequence[Chunk]) -> tuple[Sequence[Chunk], Division]:
    """The chunks of this rank, and the division of their rows; each chunk (a tensor, or a range of rows) stays whole.

    So every row is computed with the same others as in one process, and rounded alike.
    """
    places = divide(len(chunks))
    if not places.is_split:
        return chunks, Division((sum(map(len, chunks)),))
    ends = list(accumulate(places.sizes))
    sizes = [sum(map(len, chunks[end - count : end])) for end, count in zip(ends, places.sizes, strict=True)]
    return chunks[places.own], Division(tuple(sizes))


def _reduced(values: "torch.Tensor", operation: str) -> "torch.Tensor":
    if size() == 1:
        return values
    from torch import distributed

    total = values.detach().contiguous().clone()
    exchanged(lambda: distributed.all_reduce(total, getattr(distributed.ReduceOp, operation)))
    return total


def exchanged(exchange: Callable[[], Result]) -> Result:
    """What ``exchange`` returns.

    Raises:
        LostRank: another rank has ended.
    """
    try:
        return exchange()
    except RuntimeError as error:
        raise LostRank(str(error)) from error
