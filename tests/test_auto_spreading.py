"""Label spreading against dense matrices."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from metaselect.reweighting.auto import spreading
from metaselect.reweighting.auto.spreading import (
    ALPHA,
    NEIGHBOURS,
    POWER,
    STEPS,
    Graph,
    as_shares,
    nearest,
    spread_answers,
)


def unit_rows(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    return F.normalize(rows_of_any_length(n, d, seed), dim=1)


def rows_of_any_length(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def dense(rows: torch.Tensor) -> np.ndarray:
    """(n, n) the normalised graph, edge by edge."""
    x = rows.double().numpy()
    similarity = 1 - np.square(x[:, None] - x).sum(2) / 2
    n, neighbours = len(rows), min(NEIGHBOURS, len(rows) - 1)
    chosen = [sorted(set(range(n)) - {i}, key=lambda j: -similarity[i, j])[:neighbours] for i in range(n)]
    lowest = min(similarity[i, j] for i in range(n) for j in chosen[i])
    edges = np.zeros((n, n))
    for i in range(n):
        for j in chosen[i]:
            weight = ((similarity[i, j] - lowest) / (1 - lowest)) ** POWER
            edges[i, j] += weight / 2
            edges[j, i] += weight / 2
    scale = 1 / np.sqrt(edges.sum(1))
    normalised: np.ndarray = edges * scale[:, None] * scale
    return normalised


@pytest.mark.parametrize("n", [4, 12, 60])
@pytest.mark.parametrize("draw", [unit_rows, rows_of_any_length])
def test_spreading_is_the_truncated_series_of_the_dense_matrix(
    n: int, draw: Callable[[int], torch.Tensor]
) -> None:
    rows, values = draw(n), torch.rand(n, 3, generator=torch.Generator().manual_seed(1))
    matrix, graph = dense(rows), Graph(rows)
    np.testing.assert_allclose(graph.matrix.toarray(), matrix, atol=1e-5)
    total, term = np.zeros((n, 3)), values.numpy().astype(float)
    for _ in range(STEPS + 1):
        total, term = total + term, ALPHA * matrix @ term
    np.testing.assert_allclose(graph.spread(values), total, rtol=1e-4, atol=1e-5)
    # The series of Zhou et al. (2004) is the inverse; the rest after the last term is at most 0.9^41 / (1 - 0.9).
    inverse = np.linalg.inv(np.eye(n) - ALPHA * matrix) @ values.numpy()
    assert np.linalg.norm(inverse - total) <= ALPHA ** (STEPS + 1) / (1 - ALPHA) * np.linalg.norm(values)


def test_the_graph_is_symmetric_without_self_loops_and_contracts() -> None:
    matrix = Graph(unit_rows(60)).matrix.toarray()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-7)
    assert not matrix.diagonal().any()
    assert np.abs(np.linalg.eigvalsh(matrix)).max() <= 1 + 1e-6


def test_scores_of_bought_rows_are_those_of_spreading_without_them() -> None:
    graph, classes = Graph(unit_rows(40)), 3
    known, answers = torch.tensor([1, 4, 9, 20, 33, 39]), torch.tensor([0, 1, 2, 0, 1, 2])
    everywhere, left_out = spread_answers(graph, known, answers, classes)
    assert everywhere.shape == (40, classes)
    torch.testing.assert_close(everywhere.sum(1), torch.ones(40))
    labels = torch.zeros(40, classes)
    labels[known, answers] = 1
    torch.testing.assert_close(everywhere, as_shares(graph.spread(labels)))
    alone = torch.empty(len(known), classes)
    for number, row in enumerate(known):
        without = labels.clone()
        without[row] = 0
        alone[number] = graph.spread(without)[row]
    torch.testing.assert_close(left_out, as_shares(alone))


def test_a_label_has_no_influence_on_its_own_score() -> None:
    graph, known = Graph(unit_rows(40)), torch.arange(0, 40, 5)
    answers = torch.arange(8) % 3
    changed = answers.clone()
    changed[2] = (answers[2] + 1) % 3
    before, after = (spread_answers(graph, known, each, 3)[1] for each in (answers, changed))
    torch.testing.assert_close(before[2], after[2], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(before, after, rtol=1e-2)


def test_duplicates_share_what_they_know() -> None:
    """Twenty copies of each of three rows, all at a similarity of 1."""
    rows = unit_rows(3).repeat_interleave(20, 0)
    scores, left_out = spread_answers(
        Graph(rows), torch.tensor([0, 1, 20, 40]), torch.tensor([0, 0, 1, 2]), 3
    )
    assert torch.isfinite(scores).all()
    assert torch.isfinite(left_out).all()
    assert left_out[0].argmax() == 0


def test_equal_rows_and_rows_without_direction_do_not_break_it() -> None:
    for rows in (unit_rows(1).repeat(15, 1), torch.zeros(15, 5)):
        for scores in spread_answers(Graph(rows), torch.tensor([0, 7]), torch.tensor([0, 1]), 2):
            assert torch.isfinite(scores).all()
            torch.testing.assert_close(scores.sum(1), torch.ones(len(scores)))


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("draw", [unit_rows, rows_of_any_length])
def test_nearest_rows_by_sorting(same: bool, draw: Callable[..., torch.Tensor]) -> None:
    reference = draw(30)
    rows = reference if same else draw(9, seed=1)
    similarity, index = nearest(rows, reference, 4, same=same)
    for i in range(len(rows)):
        apart = {j: float((rows[i] - reference[j]).norm()) for j in range(30) if not (same and i == j)}
        order = sorted(apart, key=lambda j: apart[j])[:4]
        assert index[i].tolist() == order
        expected = [1 - apart[j] ** 2 / 2 for j in order]
        assert similarity[i].tolist() == pytest.approx(expected, abs=1e-5)
        if draw is unit_rows:
            assert expected == pytest.approx([float(rows[i] @ reference[j]) for j in order], abs=1e-5)


@pytest.mark.parametrize("same", [False, True])
def test_nearest_among_many_rows_by_sorting(same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "MANY", 0)
    reference = rows_of_any_length(1500, seed=3)
    rows = reference if same else rows_of_any_length(90, seed=4)
    similarity = 1 - torch.cdist(rows.double(), reference.double()).square() / 2
    if same:
        similarity.fill_diagonal_(-torch.inf)
    expected = similarity.sort(1, descending=True)
    values, index = nearest(rows, reference, NEIGHBOURS, same=same)
    assert torch.equal(index, expected.indices[:, :NEIGHBOURS])
    torch.testing.assert_close(values, expected.values[:, :NEIGHBOURS].float(), rtol=1e-5, atol=1e-5)
