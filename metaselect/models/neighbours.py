"""The nearest neighbours of each sample by cosine, and their vote."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from metaselect.ranks import Division, divide_chunks

NEIGHBOURS, LEAST_NEIGHBOURS, POOL_SHARE = 30, 3, 10  # a tenth of pools below 300
MOST_REFERENCES = 20_000  # samples among which neighbours are looked for
TILE_ENTRIES = 2**24  # similarities that are held at a time


def neighbour_count(n: int) -> int:
    """Neighbours that vote in a pool of n samples."""
    return min(NEIGHBOURS, max(n // POOL_SHARE, LEAST_NEIGHBOURS))


def neighbour_votes(
    features: torch.Tensor, labels: torch.Tensor, classes: int, count: int, generator: torch.Generator
) -> torch.Tensor:
    """(n, K) float32, the share of the nearest other samples by cosine that have each label; rows sum to 1.

    Args:
        features: (n, d).
        labels: (n,) int64 on the same device; -1: none, and no vote.
        classes: K.
        count: neighbours of a sample; all others where there are fewer.
        generator: on the CPU; where more than ``MOST_REFERENCES`` have a label, it draws those that may be neighbours.
    """
    unit = F.normalize(features)
    n = len(unit)
    reference = (labels >= 0).nonzero()[:, 0]
    if len(reference) > MOST_REFERENCES:
        drawn = torch.randperm(len(reference), generator=generator)[:MOST_REFERENCES].sort().values
        reference = reference[drawn.to(unit.device)]
    count = min(count, len(reference) - 1)
    own, division = own_queries(torch.arange(n, device=unit.device), len(reference))
    votes = [torch.zeros(0, classes, device=unit.device)]
    for rows, _, nearest in nearest_neighbours(unit, reference, count, queries=own):
        given = labels[nearest]  # (rows, count)
        share = torch.full_like(given, 1 / count, dtype=torch.float32)
        votes.append(torch.zeros(len(rows), classes, device=unit.device).scatter_add_(1, given, share))
    return division.joined(torch.cat(votes))


def own_queries(
    queries: torch.Tensor, references: int, tile_entries: int = TILE_ENTRIES
) -> tuple[torch.Tensor, Division]:
    """The queries (q,) that this rank looks for the neighbours of, in whole blocks, and the division of all."""
    chunks, division = divide_chunks(queries.split(_block_size(references, tile_entries)))
    return torch.cat(list(chunks)), division


def nearest_neighbours(
    unit: torch.Tensor,
    reference: torch.Tensor,
    count: int,
    tile_entries: int = TILE_ENTRIES,
    queries: torch.Tensor | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(rows (b,), cosines (b, count), neighbours (b, count)) of one block of samples after another, closest first.

    Args:
        unit: (n, d), rows of norm 1 or 0.
        reference: (r,) int64 on the same device, distinct rows that may be neighbours of all others.
        count: neighbours of a sample, below r.
        tile_entries: cosines that are held at a time.
        queries: (q,) int64 on the same device, the samples whose neighbours are looked for; None: all.
    """
    if queries is None:
        queries = torch.arange(len(unit), device=unit.device)
    candidates = unit[reference]
    for rows in queries.split(_block_size(len(reference), tile_entries)):
        similarity = unit[rows] @ candidates.T
        similarity.masked_fill_(rows[:, None] == reference, -torch.inf)  # a sample is not its own neighbour
        cosines, positions = similarity.topk(count)
        yield rows, cosines, reference[positions]


def _block_size(references: int, tile_entries: int) -> int:
    """Samples whose cosines with so many others are held at a time."""
    return max(tile_entries // references, 1)
