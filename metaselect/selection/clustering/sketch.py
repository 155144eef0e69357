"""A sketch of factored rows: inner products of K d numbers from a few, without the outer products.

Source: Kar, Karnick 2012 (random Maclaurin features, arXiv:1201.6530), Lemma 7, of the kernel (a . a')(x . x').
Differs: the sketches of all checkpoints, with signs of their own, are added up.

The sketch of a matrix C (K, d) has the k numbers sum_ij r_i s_j C_ij / sqrt(k), with random signs r and s for each of
them; of an outer product a (x) x they are (r . a)(s . x) / sqrt(k). The inner product of two sketches is unbiased. Its
variance is at most 9 ||C||^2 ||C'||^2 / k for any C and C' (a row, a centroid) and any number of checkpoints, since
the fourth moment of sum_ij r_i s_j C_ij is at most 9 ||C||^4 (Khintchine's inequality, once for r and once for s). By
Chebyshev's inequality an error above 3 ||C|| ||C'|| / sqrt(k p) has at most probability p.
"""

from collections.abc import Iterator

import torch

from metaselect.selection.clustering.factored import FactoredRows, block_rows, widened

SKETCH_WIDTH = 256  # k


class SketchedRows(FactoredRows):
    """Factored rows whose blocks, dense rows and centroids are sketches; norms and ``times`` stay exact.

    Args:
        rows: n rows.
        generator: on the CPU, of the signs.

    Attributes:
        width: k, numbers in a sketch.
    """

    def __init__(self, rows: FactoredRows, generator: torch.Generator) -> None:
        self.left, self.right, self.norms, self.width = rows.left, rows.right, rows.norms, SKETCH_WIDTH
        self.signs = [
            tuple(_signs(side.shape[1], self.width, generator).to(rows.norms) for side in (a, x))
            for a, x in zip(rows.left, rows.right, strict=True)
        ]

    def blocks(self, columns: int = 0) -> Iterator[tuple[slice, torch.Tensor]]:
        """``(rows, sketches)`` with sketches (b, k)."""
        count = block_rows(self.width, columns)
        for start in range(0, len(self), count):
            rows = slice(start, min(start + count, len(self)))
            yield rows, self._sketched(rows)

    def dense(self, ids: torch.Tensor) -> torch.Tensor:
        """(len(ids), k) sketches."""
        return self._sketched(ids)

    def _sketched(self, ids: torch.Tensor | slice) -> torch.Tensor:
        """(b, k) sketches, added up over the checkpoints."""
        parts = [
            (a[ids] @ of_left).mul_(widened(x[ids]) @ of_right)
            for a, x, (of_left, of_right) in zip(self.left, self.right, self.signs, strict=True)
        ]
        total: torch.Tensor = torch.stack(parts).sum(0) / self.width**0.5
        return total


def _signs(size: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """(size, width) independent numbers, -1 or 1 with equal probability."""
    return torch.randint(2, (size, width), generator=generator) * 2 - 1
