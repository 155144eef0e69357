"""Near duplicates and outliers among samples, by the cosines of their pixels or features with their nearest neighbours.

Two samples are near duplicates if they are far closer to one another than each of them is to its surroundings. A fixed
cosine would not do: with some encoders that of two unlike pictures is 0.9, with others that of a picture and its
compressed copy 0.95. The features of a network that was trained to tell the classes apart lie almost on one point for
each class; there the surroundings are as close as the neighbour, and nothing is a near duplicate.
"""

from collections.abc import Sequence
from hashlib import sha256
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch.nn import functional as F

from metaselect.data.store import Inputs
from metaselect.models.neighbours import TILE_ENTRIES, nearest_neighbours, own_queries
from metaselect.selection.base import ProgressCallback, no_progress

NEIGHBOURS = 10  # the surroundings of a sample
CLOSENESS = 0.1  # of near duplicates: their distance, as a part of that to the last of these neighbours
ROUNDING = 1e-6  # least cosine distance that float32 can tell from 0
SMALL_IMAGE = 16  # pixels a side, to which larger images are averaged
LEAST_WIDTH = 16  # numbers of a sample; with fewer, two of many samples are close by chance
MOST_SAMPLES = {"cpu": 100_000, "cuda": 2_000_000}  # the time grows with the square of their number
BLOCK = 2048  # images that are averaged at a time
DIGEST_BYTES = 260  # of a sample, in the table by which equal ones are found


class SimilarSamples(NamedTuple):
    """What is alike in a pool, and what is unlike all else.

    Attributes:
        group: (n,) int64, the lowest index of the sample's group of near duplicates; its own if it has none.
        outlier: (n,) float32, the share of the other samples that have closer neighbours, from 0 to 1; None where only
            equal samples were looked for.
    """

    group: torch.Tensor
    outlier: torch.Tensor | None


def similar_samples(
    inputs: Inputs,
    device: torch.device,
    progress: ProgressCallback = no_progress,
    *,
    tile_entries: int = TILE_ENTRIES,
    block: int = BLOCK,
) -> SimilarSamples:
    """The near duplicates and the outliers, on the CPU; memory grows with n, time with its square.

    Near duplicates: the cosine distance is below ``CLOSENESS`` times that to the tenth neighbour, of the one, of the
    other, and of the median sample. Groups are the connected components. Equal samples always are in one group, and
    count as one neighbour; of more than ten samples that are alike without being equal, not all need be found.

    Args:
        inputs: (n, C, H, W) uint8 images or (n, d) float32 features. Pixels are centred, features standardised.
        device: of the products.
        progress: called now and then with a short text.
        tile_entries: cosines that are held at a time.
        block: images that are averaged at a time; changes no bit of the result.
    """
    first, position = distinct_rows((inputs,), block)
    if not comparable(len(first), inputs.shape, device):
        return SimilarSamples(first[position], None)
    unit = _unit_rows(_rows((inputs,), first, block).to(device), standardise=inputs.ndim == 2)
    distances, neighbours = _nearest(unit, torch.arange(len(unit)), progress, tile_entries)
    group = _components(distances, neighbours)
    return SimilarSamples(first[group[position]], _ranks(distances.mean(1)[position]))


def near_duplicates_between(
    test: Inputs,
    pool: Inputs,
    device: torch.device,
    progress: ProgressCallback = no_progress,
    *,
    block: int = BLOCK,
) -> torch.Tensor:
    """(n',) int64 on the CPU, the closest near duplicate of each test sample in the pool; -1: it has none.

    Near duplicates as those of ``similar_samples`` among all samples, but with the median of the test samples: the time
    grows with n' n. Where neighbours mean nothing, or are too many, there are none.

    Args:
        test: (n', C, H, W) uint8 images or (n', d) float32 features.
        pool: n of the same form.
        device: of the products.
        progress: called now and then with a short text.
        block: images that are averaged at a time; changes no bit of the result.
    """
    first, position = distinct_rows((test, pool), block)
    if not comparable(len(first), pool.shape, device):
        return torch.full((len(test),), -1)
    unit = _unit_rows(_rows((test, pool), first, block).to(device), standardise=pool.ndim == 2)
    absent = len(pool)
    of_pool = torch.full((len(first),), absent)  # the first of the pool's samples that are this row
    of_pool.scatter_reduce_(0, position[len(test) :], torch.arange(len(pool)), "amin")
    queries, place = position[: len(test)].unique(return_inverse=True)
    distances, neighbours = _nearest(unit, queries, progress, TILE_ENTRIES)
    surroundings = torch.full((len(first),), torch.nan)
    surroundings[queries] = distances[:, -1].clamp(max=float(distances[:, -1].median()))
    close = (distances < CLOSENESS * surroundings[queries, None]) & (of_pool[neighbours] < absent)
    others = neighbours[close].unique()
    if len(others):
        surroundings[others] = _nearest(unit, others, progress, TILE_ENTRIES)[0][:, -1]
        close &= distances < CLOSENESS * surroundings[neighbours]
    closest = neighbours.gather(1, close.int().argmax(1, keepdim=True))[:, 0]  # the first one that is close
    found = torch.where(close.any(1), of_pool[closest], absent)
    found = torch.where(of_pool[queries] < absent, of_pool[queries], found)  # equal ones are closer
    return torch.where(found < absent, found, -1)[place]


def comparable(distinct: int, shape: Sequence[int], device: torch.device) -> bool:
    """Whether neighbours are looked for: there are any, they mean something, and the time is bearable.

    Args:
        distinct: number of unequal samples.
        shape: of the array of samples.
        device: of the products.
    """
    most = MOST_SAMPLES.get(device.type, MOST_SAMPLES["cpu"])
    return 1 < distinct <= most and prod(shape[1:]) >= LEAST_WIDTH


def search_bytes(shape: Sequence[int], device: torch.device, block: int = BLOCK) -> int:
    """Memory of the search in bytes, on the device too.

    Digests of all samples, and a block of images twice in float32; where neighbours are looked for, four arrays of
    vectors besides, the neighbours with their cosines, and a block of these.

    Args:
        shape: of the array of all samples.
        device: of the products.
        block: images that are averaged at a time.
    """
    n, *sides = shape
    averaged = 0 if len(sides) == 1 else 2 * 4 * min(block, n) * prod(sides)
    if not comparable(n, shape, device):
        return n * DIGEST_BYTES + averaged
    width = prod(sides) if len(sides) == 1 else sides[0] * prod(min(side, SMALL_IMAGE) for side in sides[1:])
    return n * DIGEST_BYTES + averaged + 4 * n * width * 4 + n * NEIGHBOURS * (4 + 8) + TILE_ENTRIES * 4


def _rows(arrays: Sequence[Inputs], rows: torch.Tensor, block: int) -> torch.Tensor:
    """(u, d) float32, the vectors of the samples at ``rows`` (rising) of all arrays, which are counted on."""
    parts, start = [], 0
    for array in arrays:
        own = rows[(rows >= start) & (rows < start + len(array))] - start
        parts += [_vectors(array[places.numpy()]) for places in own.split(block)]
        start += len(array)
    return torch.cat(parts)


def _vectors(inputs: np.ndarray) -> torch.Tensor:
    """(b, d) float32, what is compared of images, which are averaged, or of features."""
    return _small_images(inputs) if inputs.ndim == 4 else torch.from_numpy(np.asarray(inputs, np.float32))


def _nearest(
    unit: torch.Tensor, queries: torch.Tensor, progress: ProgressCallback, tile_entries: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(q, k) cosine distances to the nearest others, rising, and (q, k) int64 these others; both on the CPU.

    Args:
        unit: (u, d), rows of norm 1 or 0.
        queries: (q,) int64 on the CPU, rows.
        progress: called after each block.
        tile_entries: cosines that are held at a time.
    """
    everything, count = torch.arange(len(unit)).to(unit.device), min(NEIGHBOURS, len(unit) - 1)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    own, division = own_queries(queries.to(unit.device), len(everything), tile_entries)
    blocks = nearest_neighbours(unit, everything, count, tile_entries, own)
    done = 0
    for rows, cosines, neighbours in blocks:
        found.append(((1 - cosines).clamp(min=ROUNDING).cpu(), neighbours.cpu()))
        done += len(rows)
        progress(f"neighbours of {done} of {len(own)} samples")
    distances, neighbours = (division.joined(torch.cat(parts)) for parts in zip(*found, strict=True))
    return distances, neighbours


def _small_images(images: np.ndarray) -> torch.Tensor:
    """(b, C h w) float32 pixels in [0, 1], averaged to at most ``SMALL_IMAGE`` a side."""
    size = tuple(min(side, SMALL_IMAGE) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(torch.from_numpy(images).float() / 255, size).flatten(1)


def distinct_rows(arrays: Sequence[Inputs], block: int = BLOCK) -> tuple[torch.Tensor, torch.Tensor]:
    """Which samples of all arrays, which are counted on, have equal vectors.

    Returns:
        (u,) the first of each set of equal ones, rising; and (n,) position of each sample's set among them.
    """
    positions: dict[bytes, int] = {}
    first: list[int] = []
    position = torch.empty(sum(map(len, arrays)), dtype=torch.int64)
    blocks = (
        array[start : start + block] for array in arrays for start in range(0, len(array), block)
    )  # never the vectors of all samples
    for index, row in enumerate(row for part in blocks for row in _vectors(part).numpy()):
        place = positions.setdefault(sha256(row.tobytes()).digest(), len(positions))
        if place == len(first):
            first.append(index)
        position[index] = place
    return torch.tensor(first, dtype=torch.int64), position


def _unit_rows(vectors: torch.Tensor, *, standardise: bool) -> torch.Tensor:
    """Rows of norm 1 (0 for the mean), after the mean of each column is subtracted and its deviation made 1."""
    centred = vectors - vectors.mean(0)
    if standardise:  # so that the unit of a feature plays no part
        constant = vectors.amax(0) == vectors.amin(0)  # its rounded mean would leave a deviation above 0
        centred = centred / centred.std(0, correction=0).masked_fill(constant, torch.inf)
    return F.normalize(centred)


def _components(distances: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """(u,) int64, the lowest row of each row's group.

    Args:
        distances: (u, k) of each row to its nearest others, rising. All near duplicates of a row are among these, as
            they are closer than the last one.
        neighbours: (u, k) int64, these others.
    """
    surroundings = distances[:, -1].clamp(max=float(distances[:, -1].median()))
    limit = CLOSENESS * torch.minimum(surroundings[:, None], surroundings[neighbours])
    rows, columns = (distances < limit).nonzero().T
    pairs = (rows.numpy(), neighbours[rows, columns].numpy())
    count = len(distances)
    graph = coo_array((np.ones(len(rows), dtype=bool), pairs), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    _, lowest, component = np.unique(component, return_index=True, return_inverse=True)
    return torch.from_numpy(lowest[component])


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """(n,) float32, the share of the other scores that are lower."""
    lower = torch.searchsorted(scores.sort().values, scores)
    return lower.float() / max(len(scores) - 1, 1)
