"""Factored rows: the features of a sample as outer products, kept as their factors.

Row j is the concatenation over T checkpoints of ``left_t[j] (x) right_t[j]`` (K_t x d_t numbers each). Memory is
n (K + d) T numbers; a block of dense rows is formed in a cache-sized buffer when a product needs it.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Self

import torch

from metaselect.ranks import divide_chunks

BLOCK_ENTRIES = 2**20  # numbers in the buffer: 4 MiB in float32, which stays in a core's cache
MIN_BLOCK_ROWS = (
    64  # the product of a block reads all centroids: with fewer rows that costs more than the cache saves
)


class FactoredRows:
    """Unit rows u_j = x_j / ||x_j|| of factored features, and their norms.

    Args:
        left: T tensors (n, K_t).
        right: T tensors (n, d_t), float32 or float16; float16 is converted to float32 a block at a time.

    Attributes:
        norms: (n,) norms of x_j, after each checkpoint was scaled to mean norm 1.
        width: D = sum_t K_t d_t, numbers in a row.
    """

    def __init__(self, left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> None:
        self.right = tuple(right)
        block_norms = [a.norm(dim=1) * _norms(x) for a, x in zip(left, right, strict=True)]
        # Each checkpoint gets mean norm 1, so that none dominates by the scale of its features alone.
        scales = [torch.where(norms.mean() > 0, 1 / norms.mean(), 0.0) for norms in block_norms]
        squares = torch.stack([(n * scale) ** 2 for n, scale in zip(block_norms, scales, strict=True)])
        self.norms = squares.sum(0).sqrt()
        inverse = torch.where(self.norms > 0, 1 / self.norms.clamp(min=1e-30), 0.0)[:, None]
        self.left = tuple(a * (scale * inverse) for a, scale in zip(left, scales, strict=True))
        self.width = sum(a.shape[1] * x.shape[1] for a, x in zip(left, right, strict=True))

    def __len__(self) -> int:
        return len(self.norms)

    def subset(self, ids: torch.Tensor | slice) -> Self:
        """The rows at ``ids``; norms and scales stay those of the whole pool."""
        rows = copy(self)
        rows.left, rows.right = tuple(a[ids] for a in self.left), tuple(x[ids] for x in self.right)
        rows.norms = self.norms[ids]
        return rows

    def blocks(self, columns: int = 0) -> Iterator[tuple[slice, torch.Tensor]]:
        """``(rows, u)`` with u (b, D) dense, valid until the next block.

        Args:
            columns: of the caller's products (b, columns) with a block, which stay in the cache too.
        """
        count = block_rows(self.width, columns)
        buffer = self.norms.new_empty(min(count, len(self)), self.width)
        for start in range(0, len(self), count):
            rows = slice(start, min(start + count, len(self)))
            block = buffer[: rows.stop - rows.start]
            at = 0
            for a, x in zip(self.left, self.right, strict=True):
                size = a.shape[1] * x.shape[1]
                target = block[:, at : at + size].view(len(block), a.shape[1], x.shape[1])
                torch.mul(a[rows, :, None], x[rows, None, :], out=target)  # (b, K_t, d_t)
                at += size
            yield rows, block

    def times(self, others: "FactoredRows") -> torch.Tensor:
        """(n, p) inner products with p other rows of the same pool, sum_t (a_j . a_c)(x_j . x_c), from the factors."""
        total: torch.Tensor | None = None
        for a, x, b, y in zip(self.left, self.right, others.left, others.right, strict=True):
            part = (a @ b.T).mul_(widened(x) @ widened(y).T)
            total = part if total is None else total.add_(part)
        assert total is not None  # there is a checkpoint
        return total

    def closeness(self, centres: torch.Tensor) -> torch.Tensor:
        """(n,) largest |<u_j, u_c>| of each row, c in ``centres`` (p,); each rank computes some blocks of rows."""
        others = self.subset(centres)
        count = block_rows(max(side.shape[1] for side in (*self.left, *self.right)), len(centres))
        blocks, division = divide_chunks(row_ranges(len(self), count))
        found = [self.subset(slice(rows.start, rows.stop)).times(others).abs_().amax(1) for rows in blocks]
        return division.joined(torch.cat(found))

    def dense(self, ids: torch.Tensor) -> torch.Tensor:
        """(len(ids), D) dense rows; for few rows only."""
        parts = [
            (a[ids, :, None] * x[ids, None, :]).flatten(1) for a, x in zip(self.left, self.right, strict=True)
        ]
        return torch.cat(parts, 1)


def _norms(values: torch.Tensor) -> torch.Tensor:
    """(n,) norms of the rows of ``values`` (n, d)."""
    norms: torch.Tensor = torch.linalg.vector_norm(values, dim=1, dtype=_accumulation_dtype(values))
    return norms


def row_ranges(n: int, count: int) -> list[range]:
    """The numbers of n rows, ``count`` at a time."""
    return [range(start, min(start + count, n)) for start in range(0, n, count)]


def block_rows(width: int, columns: int) -> int:
    """Rows of a block of ``width`` numbers a row that is multiplied with ``columns`` others."""
    return max(BLOCK_ENTRIES // max(width, 4 * columns), MIN_BLOCK_ROWS)


def widened(values: torch.Tensor) -> torch.Tensor:
    """The values in the dtype of sums over them."""
    return values.to(_accumulation_dtype(values))


def _accumulation_dtype(values: torch.Tensor) -> torch.dtype:
    """The dtype of sums over ``values``: float16 would overflow and lose digits."""
    return torch.float32 if values.dtype is torch.float16 else values.dtype
