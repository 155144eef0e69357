"""Gradients of sampled layers against one backward pass a sample, and the draw against its expectation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import Listener
from torch import nn
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.features import extract as features
from metaselect.features import per_sample_gradients as layer_gradients
from metaselect.features.extract import gradient_features
from metaselect.features.files import read_gradients, read_recipe, write_gradients
from metaselect.features.per_sample_gradients import (
    DrawnLayer,
    SampledGradients,
    draw_layers,
    layer_energies,
    layers_without_gradients,
)
from metaselect.features.projections import Projection, make_projection
from metaselect.models.batch import Batch
from metaselect.models.build import build_model
from metaselect.selection.gbc import GBC
from metaselect.training.batches import Batches

WHOLE = 10**9  # numbers: nothing is projected away


class Unusual(nn.Module):
    """Grouped, strided, dilated, padded by a word, depthwise, in place, over positions, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 4, groups=8, dilation=2, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.strided = nn.Conv2d(8, 6, (3, 2), stride=(2, 1), padding="valid")
        self.along = nn.Conv1d(6, 7, 3, padding=1)
        self.twice = nn.Linear(7, 7)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.grouped(x))
        x = self.relu(self.strided(self.norm(self.depthwise(x))))
        x = self.relu(self.along(x.flatten(2))).transpose(1, 2)
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))).mean(1))


def plain(shape: tuple[int, ...], **options: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        convolution = nn.Conv2d(shape[0], 6, **options)
        return nn.Sequential(
            convolution, nn.ReLU(True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)
        )

    return make


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unusual": (Unusual, (4, 13, 11)),
    "image": (plain((1, 20, 20), kernel_size=5), (1, 20, 20)),
    "padded image": (plain((3, 18, 20), kernel_size=3, padding=1), (3, 18, 20)),
    "grouped image": (plain((3, 12, 12), kernel_size=3, padding=1, groups=3), (3, 12, 12)),
    "linear": (lambda: nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5)), (6,)),
    "lenet": (lambda: build_model("lenet", (1, 28, 28), 5, seed=0), (1, 28, 28)),
    "resnet32": (lambda: build_model("resnet32", (3, 32, 32), 5, seed=0), (3, 32, 32)),
}


def made(name: str, size: int = 4) -> tuple[nn.Module, Batch]:
    build, shape = MODELS[name]
    torch.manual_seed(1)
    model = build().double().eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # no identity
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return model, Batch(torch.randn(size, *shape, dtype=torch.float64), torch.arange(size) % 5)


def one_by_one(model: nn.Module, batch: Batch, layers: list[str], gradient: str) -> list[torch.Tensor]:
    """(B, O, I) of each layer, bias last, by one backward pass a sample."""
    named = dict(model.named_modules())
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    for given, label in zip(batch.inputs, batch.labels, strict=True):
        logits = model(given[None])
        full = F.cross_entropy(logits, label[None])
        loss = full if gradient == "full" else full + logits[0, label]  # the label-free part: log sum exp
        for name in layers:
            parts = list(named[name].parameters())
            found = torch.autograd.grad(loss, parts, retain_graph=True)
            columns = [found[0].flatten(1), *(part[:, None] for part in found[1:])]
            rows[name].append(torch.cat(columns, 1))
    return [torch.stack(rows[name]) for name in layers]


@pytest.mark.parametrize("gradient", ["label-free", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_whole_gradients_equal_one_backward_pass_a_sample(name: str, gradient: str) -> None:
    model, batch = made(name)
    layers = list(layer_energies(model, [batch], gradient))
    expected = one_by_one(model, batch, layers, gradient)
    named = dict(model.named_modules())
    whole = [make_projection(named[layer], WHOLE, torch.Generator()) for layer in layers]
    rows = SampledGradients(model, [DrawnLayer(layer, 1, 1.0) for layer in layers], whole, gradient)(batch)
    dense = torch.cat([block.flatten(1) for block in expected], 1)
    assert rows.shape == dense.shape
    torch.testing.assert_close(rows, dense, rtol=1e-10, atol=1e-13)
    # Not by chance: every layer has a gradient, unless the loss of ResNet at its start has none.
    assert all(block.abs().max() > 0 for block in expected)


@pytest.mark.parametrize("numbers", [1, 30, 409])
@pytest.mark.parametrize("name", MODELS)
def test_projected_gradients_are_projections_of_the_whole(
    name: str, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = made(name, 3)
    layers = list(layer_energies(model, [batch], "label-free"))
    expected = one_by_one(model, batch, layers, "label-free")
    named = dict(model.named_modules())
    draw = torch.Generator().manual_seed(2)
    sides = [make_projection(named[layer], numbers, draw) for layer in layers]
    assert all(len(side.outputs) * len(side.inputs) <= numbers for side in sides)
    draws = [DrawnLayer(layer, 1, 0.5 + place) for place, layer in enumerate(layers)]
    sampled = SampledGradients(model, draws, sides, "label-free")
    assert sampled.width == sum(len(side.outputs) * len(side.inputs) for side in sides)
    dense = [
        each.scale * (side.outputs @ block @ side.inputs.T).flatten(1)
        for each, side, block in zip(draws, sides, expected, strict=True)
    ]
    for many in (1, 10**6):  # both ways through a convolution
        monkeypatch.setattr("metaselect.features.projections.MANY_POSITIONS", many)
        torch.testing.assert_close(sampled(batch), torch.cat(dense, 1), rtol=1e-9, atol=1e-12)


def test_the_model_is_left_as_it_was() -> None:
    model, batch = made("unusual")
    model.along.weight.requires_grad_(False)
    before = [(name, p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()]
    energies = layer_energies(model, [batch], "full")
    sides = [make_projection(model.get_submodule(layer), 20, torch.Generator()) for layer in energies]
    SampledGradients(model, [DrawnLayer(layer, 1, 1.0) for layer in energies], sides, "full")(batch)
    for (name, p), (known, requires, value) in zip(model.named_parameters(), before, strict=True):
        assert (name, p.requires_grad) == (known, requires)
        assert p.grad is None
        assert torch.equal(p, value)
    assert not any(layer._forward_hooks for layer in model.modules())


def test_the_backward_pass_stops_at_the_earliest_sampled_layer() -> None:
    model, batch = made("lenet")
    needed: dict[str, bool] = {}
    for name, layer in model.named_modules():
        layer.register_forward_hook(
            lambda _, __, output, name=name: needed.update({name: output.requires_grad})
        )
    side = make_projection(model.get_submodule("features.7"), 50, torch.Generator())
    SampledGradients(model, [DrawnLayer("features.7", 1, 1.0)], [side], "label-free")(batch)
    assert not needed["features.3"]
    assert needed["features.9"]


@pytest.mark.parametrize("gradient", ["label-free", "full"])
@pytest.mark.parametrize("name", ["unusual", "lenet"])
def test_energies_are_squared_norms_of_mean_gradients(name: str, gradient: str) -> None:
    model, batch = made(name, 6)
    parts = [Batch(batch.inputs[:1], batch.labels[:1]), Batch(batch.inputs[1:], batch.labels[1:])]
    energies = layer_energies(model, parts, gradient)
    expected = one_by_one(model, batch, list(energies), gradient)
    for found, block in zip(energies.values(), expected, strict=True):
        assert found == pytest.approx(float(block.mean(0).square().sum()), rel=1e-9)


def test_layers_that_cannot_be_sampled_are_named_and_left_out() -> None:
    model, batch = made("unusual")
    model.unused = nn.Linear(3, 3).double()
    model.tied = nn.Linear(7, 7).double()
    model.tied.weight = model.twice.weight
    model.wrapping = nn.Conv2d(1, 1, 3, padding_mode="circular").double()
    assert list(layer_energies(model, [batch], "full")) == [
        "grouped", "depthwise", "strided", "along", "head",
    ]  # fmt: skip
    assert layers_without_gradients(model, list(layer_energies(model, [batch], "full"))) == [
        "norm", "twice", "unused", "tied", "wrapping",
    ]  # fmt: skip


class Attending(nn.Module):
    """Layers that are used without a call, across samples, on patches, or by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.across = nn.Linear(8, 8)
        self.patches = nn.Linear(4, 4)
        self.named = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))  # (B, 4, 8)
        turned = x.transpose(0, 1)  # positions first, as some layers want it
        turned = turned + self.attention(turned, turned, turned)[0]
        x = torch.tanh(self.across(turned)).transpose(0, 1)
        x = x + self.patches(x.reshape(-1, 4)).view_as(x)
        return self.head(self.named(input=x).mean(1))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_layers_that_mix_samples_or_are_never_called_are_left_out(size: int) -> None:
    torch.manual_seed(2)
    model = Attending().double().eval()
    batch = Batch(torch.randn(size, 4, 6, dtype=torch.float64), torch.arange(size) % 5)
    layers = list(layer_energies(model, [batch], "full"))
    assert layers == ["first", "head"]
    expected = one_by_one(model, batch, layers, "full")
    whole = [make_projection(model.get_submodule(layer), WHOLE, torch.Generator()) for layer in layers]
    rows = SampledGradients(model, [DrawnLayer(layer, 1, 1.0) for layer in layers], whole, "full")(batch)
    torch.testing.assert_close(rows, torch.cat([block.flatten(1) for block in expected], 1))


def test_draws_follow_the_energies_and_repeats_are_merged() -> None:
    energies = {"a": 1.0, "b": 3.0, "c": 0.0, "d": 6.0}
    draw = torch.Generator().manual_seed(0)
    totals = dict.fromkeys(energies, 0)
    for _ in range(2000):
        drawn = draw_layers(energies, 5, draw)
        assert sum(each.times for each in drawn) == 5
        assert [each.name for each in drawn] == sorted({each.name for each in drawn})
        for each in drawn:
            totals[each.name] += each.times
            p = energies[each.name] / 10
            assert each.scale == pytest.approx((each.times / (5 * p)) ** 0.5)
    assert totals["c"] == 0
    for name, share in (("a", 0.1), ("b", 0.3), ("d", 0.6)):
        sd = (share * (1 - share) / 10_000) ** 0.5
        assert totals[name] / 10_000 == pytest.approx(share, abs=4 * sd)


def test_a_dead_model_draws_its_layers_alike() -> None:
    drawn = draw_layers({"a": 0.0, "b": 0.0}, 200, torch.Generator().manual_seed(1))
    assert [each.name for each in drawn] == ["a", "b"]
    assert all(70 < each.times < 130 for each in drawn)


def test_inner_products_over_many_draws_are_those_of_the_full_gradient() -> None:
    """Unbiased: the mean of 1,000 draws is within 5 % of the inner product over all layers, on LeNet."""
    model, batch = made("lenet", 8)
    layers = layer_energies(model, [batch], "label-free")
    named = dict(model.named_modules())
    full = torch.cat([b.flatten(1) for b in one_by_one(model, batch, list(layers), "label-free")], 1)
    blocks = {
        layer: SampledGradients(
            model,
            [DrawnLayer(layer, 1, 1.0)],
            [make_projection(named[layer], WHOLE, torch.Generator())],
            "label-free",
        )(batch)
        for layer in layers
    }
    draw = torch.Generator().manual_seed(3)
    total = torch.zeros(8, 8, dtype=torch.float64)
    for _ in range(1000):
        for each in draw_layers(layers, 5, draw):
            rows = each.scale * blocks[each.name]
            total += rows @ rows.T
    expected = full @ full.T
    assert ((total / 1000 - expected).abs() <= 0.05 * expected.abs()).all()


def test_projections_have_orthonormal_rows_and_keep_small_sides() -> None:
    draw = torch.Generator().manual_seed(4)
    for layer, numbers, sizes in (
        (nn.Linear(84, 10), 850, (10, 85)),  # all of it
        (nn.Linear(256, 10), 400, (10, 40)),  # the side of 10 stays whole
        (nn.Linear(256, 120), 409, (20, 20)),
        (nn.Linear(7, 300), 409, (51, 8)),  # the bias counts as a column
        (nn.Conv2d(64, 64, 3), 409, (20, 20)),
        (nn.Conv2d(1, 64, 3, bias=False), 90, (10, 9)),
        (nn.Linear(256, 120), 1, (1, 1)),
        (nn.Linear(64, 2), 1, (1, 1)),
        (nn.Linear(64, 2), 2, (2, 1)),
    ):
        side = make_projection(layer, numbers, draw)
        assert (len(side.outputs), len(side.inputs)) == sizes
        for rows in side:
            gram = (rows @ rows.T).double()
            assert torch.allclose(gram, torch.eye(len(rows)).double() * rows.shape[1] / len(rows), atol=1e-5)


def test_projected_inner_products_are_unbiased() -> None:
    layer = nn.Linear(30, 25)
    generator = torch.Generator().manual_seed(5)
    g, h = torch.randn(2, 25, 31, generator=generator)
    h = g + 0.5 * h
    found = []
    for _ in range(400):
        side = make_projection(layer, 40, generator)
        found.append(float(((side.outputs @ g @ side.inputs.T) * (side.outputs @ h @ side.inputs.T)).sum()))
    expected = float((g * h).sum())
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / 20)


def learnt(steps: int = 30) -> tuple[nn.Module, Batch]:
    """LeNet after a few steps on five noisy patterns, and 100 samples of them; float64."""
    draw = torch.Generator().manual_seed(0)
    model = build_model("lenet", (1, 28, 28), 5, seed=0)
    patterns = torch.randn(5, 1, 28, 28, generator=draw)
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)

    def batch(size: int) -> Batch:
        labels = torch.randint(5, (size,), generator=draw)
        return Batch(patterns[labels] + 1.5 * torch.randn(size, 1, 28, 28, generator=draw), labels)

    for _ in range(steps):
        given = batch(32)
        optimiser.zero_grad()
        F.cross_entropy(model(given.inputs), given.labels).backward()
        optimiser.step()
    given = batch(100)
    return model.double().eval(), Batch(given.inputs.double(), given.labels)


def test_projections_keep_the_geometry_that_clustering_sees() -> None:
    """conv2 and fc1 of LeNet in 2,048 numbers: cosines to 0.09, distances of unit rows to 13 %.

    Such a projection was measured at these figures elsewhere. Unit rows, since a factor that all rows share, which
    dominates where they are nearly parallel, is undone by the scaling of each checkpoint.
    """
    model, batch = learnt()
    named, layers = dict(model.named_modules()), ["features.3", "features.7"]
    draws = [DrawnLayer(layer, 1, 1.0) for layer in layers]
    whole = [make_projection(named[layer], WHOLE, torch.Generator()) for layer in layers]
    exact = F.normalize(SampledGradients(model, draws, whole, "label-free")(batch))
    apart = ~torch.eye(100, dtype=torch.bool)
    angles, distances = [], []
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        sides: list[Projection] = [make_projection(named[layer], 1024, draw) for layer in layers]
        rows = F.normalize(SampledGradients(model, draws, sides, "label-free")(batch))
        angles.append(float((rows @ rows.T - exact @ exact.T)[apart].abs().mean()))
        near = torch.cdist(rows, rows)[apart] ** 2 / torch.cdist(exact, exact)[apart] ** 2
        distances.append(float((near - 1).abs().median()))
    assert np.mean(angles) < 0.09
    assert np.mean(distances) < 0.13


def test_features_of_a_pool(
    tiny_batches: Batches, reporter: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directions and norms give the rows back to float16, whatever the size of a batch."""
    model = build_model("convnet", (1, 8, 8), 3, seed=2)
    method = GBC(draws=4, width=100, sample=10)
    rows = []
    watched = layer_gradients.SampledGradients.__call__

    def call(self: SampledGradients, batch: Batch) -> torch.Tensor:
        found = watched(self, batch)
        rows.append(found.clone())
        return found

    monkeypatch.setattr(SampledGradients, "__call__", call)
    found, details = gradient_features(
        model, tiny_batches, method, torch.Generator(), report=reporter, what="gradients"
    )
    whole = torch.cat(rows)
    torch.testing.assert_close(found.norms[:, None] * found.directions.float(), whole, rtol=2e-3, atol=1e-4)
    assert found.directions.dtype == torch.float16
    assert details["width"] == found.directions.shape[1] <= 100
    layers: Any = details["sampled_layers"]
    assert sum(each["draws"] for each in layers) == 4
    assert reporter.tracked == [("gradients", 0, 24)]
    monkeypatch.setattr(features, "BACKWARD_PIXELS", 1)
    again, _ = gradient_features(
        model, tiny_batches, method, torch.Generator(), report=reporter, what="gradients"
    )
    torch.testing.assert_close(again.norms, found.norms)
    torch.testing.assert_close(again.directions, found.directions, rtol=0, atol=1e-3)


def test_a_model_without_such_layers_is_refused(tiny_batches: Batches, reporter: Listener) -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(64, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) @ self.scale

    with pytest.raises(UsageError, match="no linear or convolutional layer"):
        gradient_features(Bare(), tiny_batches, GBC(), torch.Generator(), report=reporter, what="gradients")


def test_files_keep_gradients_and_recipe(tiny_batches: Batches, reporter: Listener, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = build_model("convnet", (1, 8, 8), 3, seed=2)
    found, details = gradient_features(
        model, tiny_batches, GBC(), torch.Generator(), report=reporter, what="gradients"
    )
    path = tmp_path / "gradients.parquet"
    write_gradients(path, [str(j) for j in range(24)], found, {"seed": 3, "found": details})
    back = read_gradients(path)
    assert torch.equal(back.norms, found.norms)
    assert torch.equal(back.directions, found.directions)
    assert read_recipe(path) == {"seed": 3, "found": details}
