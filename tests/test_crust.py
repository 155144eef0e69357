"""CRUST: medoids against plain loops, their weights by hand, and what a small run trains on."""

import math
from itertools import pairwise

import pytest
import torch
from data_makers import start_of
from torch import nn

from metaselect.errors import UsageError
from metaselect.metagrad.facility_location import FacilityLocation
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.random import generator, uniform
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.weighting import crust
from metaselect.reweighting.weighting.crust import (
    CrustRun,
    medoid_weights,
    partners_of_same_label,
    parts_of_classes,
)

LABELS = torch.arange(12) % 2
BOUGHT = torch.tensor([3, 8])
INPUTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(4))


def plain_weights(rows: torch.Tensor, known: list[int], count: int) -> list[int]:
    """Every candidate tried at every pick; then each row counts for the medoid that it is closest to."""
    distances = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    medoids, m = list(known), len(rows)

    def cost(chosen: list[int]) -> float:
        return float(distances[:, chosen].amin(1).sum())

    while len(medoids) < count:
        medoids.append(min(set(range(m)) - set(medoids), key=lambda j: (cost([*medoids, j]), j)))
    weights = [0] * m
    for i in range(m):
        weights[min(sorted(medoids), key=lambda j: float(distances[i, j]))] += 1
    return weights


def known_rows(m: int, known: list[int]) -> torch.Tensor:
    return torch.zeros(m, dtype=torch.bool).index_fill(0, torch.tensor(known, dtype=torch.int64), True)


def test_weights_by_hand() -> None:
    """On a line, distances from 2 and from 10 have the smallest sum, 58; then 40 gains 38, and 10 and 11 gain 16."""
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [40.0]])
    assert medoid_weights(points, known_rows(6, []), 0.5).tolist() == [0, 0, 3, 2, 0, 1]
    # With 0 bought, 40 gains 40, and then 10 and 11 gain 20.
    assert medoid_weights(points, known_rows(6, [0]), 0.5).tolist() == [3, 0, 0, 2, 0, 1]
    # More bought ones than the share, and all are medoids.
    assert medoid_weights(points, known_rows(6, [0, 1, 2, 5]), 0.5).tolist() == [1, 1, 3, 0, 0, 1]
    assert medoid_weights(points, known_rows(6, []), 1.0).tolist() == [1] * 6


@pytest.mark.parametrize("seed", range(10))
def test_medoids_are_those_of_plain_loops(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    m = 5 + seed % 4
    rows, known = torch.randn(m, 3, generator=draw), [[], [seed % m], [0, m - 1]][seed % 3]
    found = medoid_weights(rows, known_rows(m, known), 0.5)
    assert found.tolist() == plain_weights(rows, known, round(m / 2))


def test_equal_gradients_and_a_class_of_one() -> None:
    """Of equal ones the lowest indices are medoids, the first one of all but the other medoids."""
    assert medoid_weights(torch.ones(5, 2), known_rows(5, [3]), 0.6).tolist() == [3, 1, 0, 1, 0]
    assert medoid_weights(torch.zeros(1, 2), known_rows(1, []), 0.5).tolist() == [1]


def test_distances_that_are_kept_are_the_plain_ones() -> None:
    rows, ones = INPUTS.double(), torch.ones(12, 1, dtype=torch.float64)
    kept, computed = (
        FacilityLocation(torch.arange(12), rows, ones, euclidean=True, kept=kept) for kept in (True, False)
    )
    expected = torch.cdist(rows, rows)
    for columns in (slice(2, 7), [9, 4]):
        torch.testing.assert_close(kept.distances(columns, 1), expected[1:, columns], rtol=0, atol=1e-5)
        torch.testing.assert_close(kept.distances(columns), computed.distances(columns), rtol=0, atol=1e-5)
    kept.gains(slice(0, 12))  # changes what it was given
    torch.testing.assert_close(kept.distances(slice(0, 12)), expected, rtol=0, atol=1e-5)


def test_large_classes_are_split_into_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crust, "MOST_SAMPLES", 3)
    ids = torch.arange(20, 31)
    labels = (torch.arange(11) >= 7).long() * 4
    parts = parts_of_classes(ids, labels, torch.Generator().manual_seed(1))
    assert [len(part) for part in parts] == [3, 2, 2, 2, 2]
    assert torch.cat(list(parts[:3])).sort().values.tolist() == list(range(20, 27))
    assert torch.cat(list(parts[3:])).sort().values.tolist() == list(range(27, 31))
    assert all(one < other for part in parts for one, other in pairwise(part.tolist()))
    assert torch.cat(list(parts[:3])).tolist() != list(range(20, 27))


def test_partners_are_a_random_order_within_each_label() -> None:
    labels = torch.randint(3, (40,), generator=torch.Generator().manual_seed(2))
    partners = partners_of_same_label(labels, torch.Generator().manual_seed(3))
    assert partners.sort().values.tolist() == list(range(40))
    assert torch.equal(labels[partners], labels)
    assert not torch.equal(partners, partners_of_same_label(labels, torch.Generator().manual_seed(4)))


def begun(*options: str, epochs: int = 5) -> CrustRun:
    method = configure(REWEIGHTERS["crust"], options)
    run: CrustRun = method.begin(start_of(LABELS, method=method, epochs=epochs, bought=BOUGHT))
    return run


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def passed(run: CrustRun, model: nn.Module, ids: torch.Tensor) -> tuple[Forward, torch.Tensor]:
    """One step: the pass that it took, and the weights."""
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    forward = Forward(model, optimiser, Batch(INPUTS[ids], LABELS[ids]), seed=6)
    return forward, run.step(forward, None, ids, 0.1).weights


def test_each_class_is_trained_on_by_the_medoids_of_its_gradients() -> None:
    run, model = begun("mixup=0"), network()
    for ids in torch.arange(12).split(6):
        assert passed(run, model, ids)[1].tolist() == pytest.approx([1 / 6] * 6)
    run.epoch_end(1)
    logits = model(INPUTS).detach().requires_grad_()
    (residuals,) = torch.autograd.grad(nn.functional.cross_entropy(logits, LABELS, reduction="sum"), logits)
    gradients = residuals @ model[2].weight.detach()  # type: ignore[index]
    expected = torch.zeros(12)
    for label in (0, 1):
        members = LABELS.eq(label).nonzero()[:, 0]
        known = [at for at, sample in enumerate(members.tolist()) if sample in BOUGHT]
        expected[members] = torch.tensor(plain_weights(gradients[members], known, 3)).float()
    assert torch.equal(run.weights, expected)
    assert (run.weights > 0).sum() == 6
    assert (run.weights[BOUGHT] > 0).all()
    ids = torch.tensor([3, 8, 0, 1, 2])
    torch.testing.assert_close(passed(run, model, ids)[1], expected[ids] / expected[ids].sum())
    without = (expected == 0).nonzero()[:, 0]
    assert passed(run, model, without)[1].tolist() == [0] * 6


def test_the_first_epochs_have_all_samples() -> None:
    run, model = begun("initial=0.3", epochs=10), network()
    for epoch in range(1, 4):
        passed(run, model, torch.arange(12))
        assert (run.weights == 1).all()
        run.epoch_end(epoch)
    assert (run.weights > 0).sum() == 6


def test_inputs_are_mixed_with_those_of_the_same_label_once_there_is_a_coreset() -> None:
    run, model, ids = begun("mixup=0.5"), network(), torch.arange(12)
    forward, _ = passed(run, model, ids)
    assert torch.equal(forward.logits, model(INPUTS))
    run.epoch_end(1)
    forward, _ = passed(run, model, ids)
    share = 1 - uniform(6, "crust share") ** 2
    partners = partners_of_same_label(LABELS, generator(6, "crust"))
    torch.testing.assert_close(forward.logits, model(share * INPUTS + (1 - share) * INPUTS[partners]))


def test_a_resumed_run_has_the_same_coreset_and_goes_on_alike() -> None:
    runs, model = [begun(), begun()], network()
    passed(runs[0], model, torch.arange(12))
    runs[0].epoch_end(1)
    runs[1].load_state_dict(runs[0].state_dict())
    for epoch in (2, 3):
        steps = [passed(run, model, torch.arange(12)) for run in runs]
        assert torch.equal(steps[0][0].logits, steps[1][0].logits)
        assert torch.equal(steps[0][1], steps[1][1])
        for run in runs:
            run.epoch_end(epoch)
    assert torch.equal(runs[0].weights, runs[1].weights)


@pytest.mark.parametrize(
    "pair", ["share=0", "share=1.1", "share=nan", "initial=1", "mixup=-1", f"mixup={math.inf}"]
)
def test_options_outside_their_range_are_refused(pair: str) -> None:
    with pytest.raises(UsageError, match=f"--option {pair.split('=')[0]}="):
        configure(REWEIGHTERS["crust"], [pair])
