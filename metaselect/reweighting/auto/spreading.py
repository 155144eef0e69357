"""Label spreading: bought labels spread over the graph of nearest neighbours.

Source: Zhou, Bousquet, Lal, Weston, Schoelkopf 2004, "Learning with local and global consistency".
Differs: edges are weighed by a power of the rescaled similarity; the series is cut after ``STEPS`` terms.
"""

import numpy as np
import scipy.sparse
import torch
from torch.nn import functional as F

ALPHA = 0.9  # share of a sample's value that comes from its neighbours
NEIGHBOURS, POWER, STEPS = 10, 3, 40  # 0.9^40 is 0.015
BLOCK = 2048  # rows of similarities, or bought labels, at a time
MANY = 2**31  # similarities; more are gone through in another way, which takes six tenths of the time
MANY_BLOCK, GROUP = 64, 32  # rows at a time then, and columns whose largest similarity is looked at first


def nearest(
    rows: torch.Tensor, reference: torch.Tensor, count: int, *, same: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities and indices of the nearest reference rows: two tensors (n, count), the nearest first.

    Similarity is 1 - ||a - b||^2 / 2, which is the cosine of rows of norm 1.

    Args:
        rows: (n, d).
        reference: (n', d).
        count: of neighbours, at most n' (n' - 1 where ``same``).
        same: ``rows`` are the reference, so that no row is its own neighbour.
    """
    many = len(rows) * len(reference) > MANY
    # Filled in place: small results between large blocks split the heap.
    values = rows.new_empty(len(rows), count)
    indices = torch.empty(len(rows), count, dtype=torch.int64)
    half = reference.square().sum(1) / 2
    for at in torch.arange(len(rows)).split(MANY_BLOCK if many else BLOCK):
        block = rows[at]
        similarity = 1 + block @ reference.T - half - block.square().sum(1, keepdim=True) / 2
        if same:
            similarity[torch.arange(len(block)), at] = -torch.inf
        values[at], indices[at] = _largest_by_groups(similarity, count) if many else similarity.topk(count, 1)
    return values, indices


def _largest_by_groups(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest of each row of ``values`` (b, p), falling, and their columns.

    They are looked for in as many groups of columns that have the largest maxima: each of them is in one of these.
    """
    columns = values.shape[1]
    whole = columns - columns % GROUP
    tops = values[:, :whole].unflatten(1, (-1, GROUP)).amax(2)
    groups = tops.topk(min(count, tops.shape[1]), 1).indices
    within = (groups[:, :, None] * GROUP + torch.arange(GROUP)).flatten(1)
    within = torch.cat([within, torch.arange(whole, columns).expand(len(values), -1)], 1)
    found = values.gather(1, within).topk(count, 1)
    return found.values, within.gather(1, found.indices)


class Graph:
    """The symmetric, normalised graph of nearest neighbours of n rows.

    Args:
        rows: (n, d), n at least 3.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        n = len(rows)
        similarity, index = nearest(rows, rows, min(NEIGHBOURS, n - 1), same=True)
        self.lowest = similarity.min()
        source = np.repeat(np.arange(n), similarity.shape[1])
        edges = scipy.sparse.csr_array(
            (self.edge(similarity).reshape(-1).numpy(), (source, index.reshape(-1).numpy())), shape=(n, n)
        )
        edges = (edges + edges.T) / 2
        scale = scipy.sparse.diags_array(1 / np.sqrt(edges.sum(1).clip(1e-12)))
        self.matrix = (scale @ edges @ scale).tocsr()

    def edge(self, similarity: torch.Tensor) -> torch.Tensor:
        """Weights of edges, 1 for a similarity of 1 and 0 for the lowest one of a neighbour."""
        return ((similarity - self.lowest) / (1 - self.lowest).clamp(min=1e-6)).clamp(0, 1) ** POWER

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """(n, c) sum over s from 0 to ``STEPS`` of (ALPHA S)^s values, S the graph's matrix; values (n, c)."""
        total = start = values.numpy()
        for _ in range(STEPS):
            total = ALPHA * (self.matrix @ total) + start
        return torch.from_numpy(total).to(values.dtype)


def spread_answers(
    graph: Graph, known: torch.Tensor, answers: torch.Tensor, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class scores from bought labels: of all rows, and of the bought rows without their own label.

    Spreading is linear in the labels, so that a row's score without its own label is exactly the score with that
    column left out.

    Args:
        graph: of n rows.
        known: (m,) int64, bought rows.
        answers: (m,) int64.
        classes: K.

    Returns:
        (n, K) and (m, K), rows that sum to 1.
    """
    labels = F.one_hot(answers, classes).float()
    everywhere, left_out = torch.zeros(graph.matrix.shape[0], classes), torch.zeros(len(known), classes)
    for columns in torch.arange(len(known)).split(BLOCK):
        place = torch.arange(len(columns))
        one_each = torch.zeros(len(everywhere), len(columns))
        one_each[known[columns], place] = 1
        influence = graph.spread(one_each)  # (n, columns)
        among = influence[known]  # (m, columns)
        among[columns, place] = 0
        everywhere += influence @ labels[columns]
        left_out += among @ labels[columns]
    return as_shares(everywhere), as_shares(left_out)


def as_shares(scores: torch.Tensor) -> torch.Tensor:
    """Rows that sum to 1, even where no bought label reaches."""
    floor = 1e-3 * scores.sum(1, keepdim=True).mean() / scores.shape[1]
    return F.normalize(scores + floor.clamp(min=1e-12), p=1, dim=1)
