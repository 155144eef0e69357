"""Dimensionality-driven learning: dimensions by hand and of known shapes, the turning point, and the targets."""

import math

import pytest
import torch
from data_makers import start_of
from torch import nn

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.losses import d2l
from metaselect.reweighting.losses.d2l import D2LRun, label_share, local_dimensions, turning_point

FALLING = [5.0, 4.0, 3.0, 2.0, 1.0]
"""Of mean 3 and variance 2."""


def test_dimensions_by_hand() -> None:
    """On a line: the distances of 0 are 1 and 3, of 1 they are 1 and 2, of 3 they are 2 and 3."""
    found = local_dimensions(torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64), 20)
    expected = [2 / math.log(3), 2 / math.log(2), 2 / math.log(1.5)]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dimension", [1, 3, 6])
def test_dimensions_of_a_cube_do_not_depend_on_the_space_around_it(dimension: int) -> None:
    draw = torch.Generator().manual_seed(0)
    points = torch.rand(2000, dimension, generator=draw, dtype=torch.float64)
    frame, _ = torch.linalg.qr(torch.randn(12, dimension, generator=draw, dtype=torch.float64))
    found = local_dimensions(points @ frame.T, 20)
    torch.testing.assert_close(found, local_dimensions(points, 20))
    assert float(found.median()) == pytest.approx(dimension, rel=0.25)


def test_equal_representations_have_a_finite_dimension() -> None:
    assert local_dimensions(torch.ones(4, 3), 2).isfinite().all()


def test_the_turning_point_is_two_deviations_above_the_last_five() -> None:
    limit = 3 + 2 * math.sqrt(2)
    assert turning_point([*FALLING, limit - 0.01], 1) is None
    assert turning_point([*FALLING, limit + 0.01], 1) == 6
    assert turning_point([*FALLING, limit + 0.01, 0.0], 1) == 6  # it stays
    assert turning_point([*FALLING, limit + 0.01], 7) is None
    assert turning_point([1.0, 9.0], 1) is None


def test_the_share_of_the_label_by_hand() -> None:
    assert label_share(FALLING, 12, 1) == 1
    assert label_share([*FALLING, 9.0], 12, 1) == pytest.approx(math.exp(-6 / 12 * 9 / 1))
    assert label_share([2.0] * 5 + [3.0, 2.5], 14, 1) == pytest.approx(math.exp(-7 / 14 * 2.5 / 2))


def begun(bought: list[int]) -> D2LRun:
    method = configure(REWEIGHTERS["d2l"], ["initial=0"])
    run: D2LRun = method.begin(
        start_of(
            torch.arange(4) % 2, method=method, epochs=12, bought=torch.tensor(bought, dtype=torch.int64)
        )
    )
    return run


def test_targets_lie_between_label_and_prediction_but_for_bought_samples() -> None:
    """The model predicts class 1 for all; the labels are 0, 1, 0, 1, and sample 2 is bought."""
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.0, 1.0]))
    forward = Forward(
        model, torch.optim.SGD(model.parameters(), 0.1), Batch(torch.eye(4, 3), torch.arange(4) % 2)
    )
    run = begun([2])
    assert run.step(forward, None, torch.arange(4), 0.1).targets is None
    run.load_state_dict({"lids": torch.tensor([*FALLING, 9.0], dtype=torch.float64)})
    targets = run.step(forward, None, torch.arange(4), 0.1).targets
    alpha = math.exp(-4.5)
    assert targets is not None
    expected = torch.tensor([[alpha, 1 - alpha], [0, 1], [1, 0], [0, 1]]) / 4
    torch.testing.assert_close(targets, expected)


def test_an_epoch_is_judged_by_its_first_batches_of_representations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of 4 representations, from steps of 3, 6 and 3 samples; the last three come too late."""
    monkeypatch.setattr(d2l, "BATCH", 4)
    monkeypatch.setattr(d2l, "BATCHES", 2)
    draw = torch.Generator().manual_seed(2)
    inputs, run, model = torch.randn(12, 3, generator=draw), begun([]), nn.Linear(3, 2)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for part in (inputs[:3], inputs[3:9], inputs[9:]):
        ids = torch.arange(len(part)) % 4
        run.step(Forward(model, optimiser, Batch(part, ids % 2)), None, ids, 0.1)
    run.epoch_end(1)
    expected = [float(local_dimensions(inputs[first : first + 4], 20).mean()) for first in (0, 4)]
    assert run.lids == pytest.approx([sum(expected) / 2])
    run.epoch_end(2)  # without a visit, the last one holds
    assert run.lids[1] == run.lids[0]


@pytest.mark.parametrize("pair", ["neighbours=1", "initial=1", "initial=nan"])
def test_options_outside_their_range_are_refused(pair: str) -> None:
    with pytest.raises(UsageError, match=f"--option {pair.split('=')[0]}="):
        configure(REWEIGHTERS["d2l"], [pair])
