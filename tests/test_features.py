"""A pass over the pool: the factors against a forward and a backward pass written out."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from data_makers import Listener
from torch import nn
from torch.nn import functional as F

from metaselect.features import extract as features
from metaselect.features.extract import last_layer_factors
from metaselect.features.files import LastLayerFactors, read_factors, read_recipe, write_factors
from metaselect.models.build import build_model
from metaselect.models.head import head_of
from metaselect.training.batches import Batches


@pytest.fixture
def model() -> nn.Module:
    return build_model("convnet", (1, 8, 8), 3, seed=2)


def test_factors_are_the_softmax_and_the_input_of_the_last_layer(
    model: nn.Module, tiny_batches: Batches, reporter: Listener
) -> None:
    found = last_layer_factors(model, tiny_batches, reporter, "features")
    inputs = tiny_batches.get(torch.arange(24)).inputs
    with torch.no_grad():
        hidden = model.features(inputs)
        probs = model.classifier(hidden).softmax(1)
    torch.testing.assert_close(found.hidden, hidden)
    torch.testing.assert_close(found.probs, probs)
    assert found.probs.dtype == found.hidden.dtype == torch.float32
    assert reporter.tracked == [("features", 0, 24)]
    assert not head_of(model)._forward_pre_hooks


def test_factors_make_the_gradient_of_the_last_layer(
    model: nn.Module, tiny_batches: Batches, reporter: Listener
) -> None:
    """G_j = (softmax(z_j) - onehot(y_j)) x_j^T, against one float64 backward pass a sample."""
    found = last_layer_factors(model, tiny_batches, reporter, "features")
    inputs, labels = tiny_batches.get(torch.arange(24))
    model.double()
    weight = head_of(model).weight
    for j in range(24):
        loss = F.cross_entropy(model(inputs[j : j + 1].double()), labels[j : j + 1])
        (gradient,) = torch.autograd.grad(loss, weight)
        factor = found.probs[j].double() - F.one_hot(labels[j], 3)
        torch.testing.assert_close(
            torch.outer(factor, found.hidden[j].double()), gradient, rtol=1e-4, atol=1e-6
        )
        assert gradient.abs().max() > 1e-3


def test_the_pass_leaves_running_statistics_alone_and_does_not_mix_samples(
    tiny_batches: Batches, reporter: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 3)]
    model = nn.Sequential(*layers).train()
    model(tiny_batches.get(torch.arange(24)).inputs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = last_layer_factors(model, tiny_batches, reporter, "features")
    monkeypatch.setattr(features, "FORWARD_BATCH", 5)
    parts = last_layer_factors(model, tiny_batches, reporter, "features")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(parts.hidden, whole.hidden)
    torch.testing.assert_close(parts.probs, whole.probs)


def test_the_hook_is_removed_after_an_error(tiny_batches: Batches, reporter: Listener) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))  # 64 inputs come
    with pytest.raises(RuntimeError):
        last_layer_factors(model, tiny_batches, reporter, "features")
    assert not model[1]._forward_pre_hooks


@pytest.mark.parametrize("row_group", [None, 3])
def test_factors_round_trip(row_group: int | None, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    factors = LastLayerFactors(torch.rand(10, 3, generator=draw), torch.randn(10, 7, generator=draw))
    path = tmp_path / "gradients.parquet"
    ids = [f"id-{j}" for j in range(10)]
    write_factors(path, ids, factors, {"features": "factors"})
    assert read_recipe(path) == {"features": "factors"}
    table = pq.read_table(path)
    assert table["sample_id"].to_pylist() == ids
    if row_group:
        pq.write_table(table, path, row_group_size=row_group)
    found = read_factors(path)
    assert torch.equal(found.probs, factors.probs)
    assert torch.equal(found.hidden, factors.hidden)
    assert np.array_equal(np.stack(table["hidden"].to_numpy()), factors.hidden.numpy())
    assert [file.name for file in tmp_path.iterdir()] == ["gradients.parquet"]
