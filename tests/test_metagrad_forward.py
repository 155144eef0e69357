"""The meta gradient against second order, finite differences and the real optimiser, all in float64."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from data_makers import start_of
from nets import CLASSES, GroupNormNet, Transformer, no_flash
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch, frozen_statistics
from metaselect.models.build import build_model
from metaselect.models.head import head_of
from metaselect.models.parameters import parameters_in
from metaselect.random import seeded_globals
from metaselect.reweighting.base import MethodRun, StepObjective
from metaselect.reweighting.direct import DirectRun
from metaselect.reweighting.l2rw import L2RW, rectify_and_normalise
from metaselect.reweighting.meta_gradient import MetaGradient
from metaselect.reweighting.mw_net import MetaWeightNet, MetaWeightNetRun

LR = 0.1
DROPOUT_SEED = 5


class BatchNormNet(nn.Module):
    """Three convolutions with BatchNorm; its output depends on the batch as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(x).mean((2, 3)))


class DropoutNet(nn.Module):
    """Drops out by a layer and by a function, so that both ways must meet the same mask."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop = nn.Linear(64, 20), nn.Dropout(0.4)
        self.second, self.classifier = nn.Linear(20, 20), nn.Linear(20, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.first(x.flatten(1)).tanh())
        return self.classifier(F.dropout(self.second(x).tanh(), 0.3, self.training))


class FunctionalDropoutNet(DropoutNet):
    """Its dropout shows in no module, like stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        self.drop: nn.Module = nn.Identity()


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (lambda: build_model("lenet", (1, 28, 28), CLASSES, seed=3), (1, 28, 28)),
    "convnet": (lambda: build_model("convnet", (1, 8, 8), CLASSES, seed=3), (1, 8, 8)),
    "batchnorm": (BatchNormNet, (1, 8, 8)),
    "dropout": (DropoutNet, (1, 8, 8)),
    "functional dropout": (FunctionalDropoutNet, (1, 8, 8)),
    "group norm": (GroupNormNet, (3, 8, 8)),
    "transformer": (Transformer, (3, 8, 8)),
}
SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
OPTIMISERS = {
    "plain": (SGD, {}),
    "decay": (SGD, {"weight_decay": 0.02}),
    "momentum": (SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": (SGD, {"momentum": 0.8, "weight_decay": 0.01, "nesterov": True}),
    "adam": (Adam, {"weight_decay": 0.01}),
    "adamw": (AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.01}),
}


@pytest.fixture(autouse=True)
def attention_by_products() -> Iterator[None]:
    with no_flash():
        yield


def random_batch(shape: tuple[int, ...], count: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((count, *shape), generator=generator, dtype=torch.float64)
    return Batch(inputs, torch.randint(CLASSES, (count,), generator=generator))


class Scene(NamedTuple):
    """A model in train mode some steps into its training, and what its next step is made from."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    batch: Batch
    meta_batch: Batch

    def forward(self, *, meta_running_statistics: bool = False) -> Forward:
        return Forward(
            self.model,
            self.optimiser,
            self.batch,
            seed=DROPOUT_SEED,
            meta_running_statistics=meta_running_statistics,
        )

    def copy(self) -> "Scene":
        """Its twin, which shares no tensor with it (batches excepted)."""
        model = copy.deepcopy(self.model)
        kind: Any = type(self.optimiser)
        optimiser = kind(model.parameters(), lr=LR)
        optimiser.load_state_dict(copy.deepcopy(self.optimiser.state_dict()))
        return Scene(model, optimiser, self.batch, self.meta_batch)


def make_scene(
    net: str | nn.Module, optimiser: str = "nesterov", *, steps: int = 3, count: int = 7, meta_count: int = 9
) -> Scene:
    if isinstance(net, str):
        factory, shape = NETS[net]
        with seeded_globals(1):
            model = factory()
    else:
        model, shape = net, (3, 8, 8)
    model = model.double().train()
    kind, constants = OPTIMISERS[optimiser]
    taken = kind(model.parameters(), lr=LR if kind is SGD else 0.003, **constants)
    for number in range(steps):
        batch = random_batch(shape, count, 100 + number)
        taken.zero_grad()
        F.cross_entropy(model(batch.inputs), batch.labels).backward()
        taken.step()
    taken.param_groups[0]["lr"] = LR
    return Scene(model, taken, random_batch(shape, count, 1), random_batch(shape, meta_count, 2))


@contextmanager
def eval_batch_norm(model: nn.Module) -> Iterator[None]:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.eval()
    yield
    for layer in layers:
        layer.train()


def written_out(
    optimiser: torch.optim.Optimizer, value: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """The change of a parameter in units of -LR, as the papers of the optimisers have it."""
    group, state = optimiser.param_groups[0], optimiser.state.get(value, {})
    decay = group["weight_decay"]
    if isinstance(optimiser, SGD):
        mu = group["momentum"]
        gradient = gradient + decay * value
        buffer = mu * state["momentum_buffer"] + gradient if mu and state else gradient
        return gradient + mu * buffer if group["nesterov"] else buffer
    decoupled = isinstance(optimiser, AdamW)
    if not decoupled:
        gradient = gradient + decay * value
    beta1, beta2 = group["betas"]
    t = int(state.get("step", 0)) + 1
    m = beta1 * state.get("exp_avg", 0) + (1 - beta1) * gradient
    v = beta2 * state.get("exp_avg_sq", 0) + (1 - beta2) * gradient**2
    size = torch.where(v == 0, 1, v / (1 - beta2**t)).sqrt() * (v != 0)  # the root has no slope at 0
    step = m / (1 - beta1**t) / (size + group["eps"])
    return step + decay * value if decoupled else step


def meta_loss_after(
    scene: Scene,
    weights: Callable[[torch.Tensor], torch.Tensor],
    *,
    real: bool,
    meta_running_statistics: bool = False,
    scope: str = "all",
) -> torch.Tensor:
    """The meta loss after a virtual step written out, with the graph of the step in it.

    Args:
        scene: not changed.
        weights: from the losses (B,) to the weights (B,).
        real: with the optimiser's momentum and weight decay; else plain gradient descent.
        meta_running_statistics: BatchNorm's layers are in eval mode in the meta pass.
        scope: only its parameters take the step.
    """
    params = dict(scene.model.named_parameters())
    buffers = {name: value.clone() for name, value in scene.model.named_buffers()}

    def losses_at(at: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        with seeded_globals(DROPOUT_SEED):
            logits = functional_call(scene.model, {**at, **buffers}, (batch.inputs,))
        return F.cross_entropy(logits, batch.labels, reduction="none")

    losses = losses_at(params, scene.batch)
    total = (weights(losses) * losses).sum()
    gradients = torch.autograd.grad(total, list(params.values()), create_graph=True)
    ahead = {
        name: value - LR * (written_out(scene.optimiser, value, gradient) if real else gradient)
        for (name, value), gradient in zip(params.items(), gradients, strict=True)
    }
    ahead = {
        name: ahead[name] if name in parameters_in(scene.model, scope) else params[name] for name in params
    }
    if not meta_running_statistics:
        return losses_at(ahead, scene.meta_batch).mean()
    with eval_batch_norm(scene.model):
        return losses_at(ahead, scene.meta_batch).mean()


def second_order(
    scene: Scene,
    at: torch.Tensor,
    *,
    real: bool = True,
    meta_running_statistics: bool = False,
    scope: str = "all",
) -> torch.Tensor:
    """(B,) d meta loss / d weights, by differentiating through the virtual step."""
    weights = at.clone().requires_grad_()
    loss = meta_loss_after(
        scene, lambda _: weights, real=real, meta_running_statistics=meta_running_statistics, scope=scope
    )
    return torch.autograd.grad(loss, weights)[0]


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-11) -> bool:
    """Whether they agree in float64 to ``tolerance`` of the largest expected entry, which is not 0."""
    assert found.dtype == expected.dtype == torch.float64
    size = float(expected.abs().max())
    assert size > 0
    return float((found - expected).abs().max()) <= tolerance * size


def some_weights(count: int, total: float = 1.0) -> torch.Tensor:
    return torch.linspace(0.2, 0.8, count, dtype=torch.float64) * total / count


def begun(method: str, count: int) -> Any:
    """A run in float64 whose weights are far from their bounds."""
    if method == "direct":
        return DirectRun(some_weights(count, count), 0.3 / LR, MetaGradient(1, "all"))
    start = start_of(torch.zeros(count, dtype=torch.int64), stream=torch.Generator().manual_seed(8))
    if method == "l2rw":
        run = L2RW().begin(start)
        run.recent.used = run.recent.used.double()
        return run
    net = MetaWeightNet().begin(start)
    net.net.double()
    return net


def take_step(scene: Scene, run: MethodRun, **options: bool) -> StepObjective:
    return run.step(scene.forward(**options), scene.meta_batch, torch.arange(len(scene.batch.labels)), LR)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("net", NETS)
def test_product_is_the_second_order_gradient(net: str, optimiser: str) -> None:
    scene = make_scene(net, optimiser)
    at = some_weights(7)
    expected = second_order(scene, at)
    forward = scene.forward()
    s = forward.jvp(forward.meta_grad(scene.meta_batch, forward.virtual_step(at)))
    assert close(-forward.virtual_rate * s, expected)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("meta_running_statistics", [False, True])
def test_direct_moves_weights_along_second_order(net: str, meta_running_statistics: bool) -> None:
    scene = make_scene(net)
    run = begun("direct", 7)
    old = run.weights.clone()
    gradient = second_order(scene, old / 7, meta_running_statistics=meta_running_statistics)
    factor = LR * (1 + 0.8)  # Nesterov
    step = take_step(scene, run, meta_running_statistics=meta_running_statistics)
    expected = old - 0.3 * gradient / factor
    assert expected.min() > 0
    assert expected.max() < 1
    assert close(run.weights - old, expected - old)
    assert torch.equal(step.weights, run.weights / 7)


def test_direct_clips_where_the_gradient_leads_out_of_the_unit_interval() -> None:
    scene = make_scene("convnet")
    old = torch.tensor([0, 1, 0, 1, 0.5, 0.5, 0], dtype=torch.float64)
    run = DirectRun(old.clone(), 1e4 / LR, MetaGradient(1, "all"))
    gradient = second_order(scene, old / 7)
    take_step(scene, run)
    assert torch.equal(run.weights, torch.where(gradient < 0, 1.0, 0.0).double())
    assert 0 < run.weights.sum() < 7


@pytest.mark.parametrize("net", NETS)
def test_l2rw_is_algorithm_1(net: str) -> None:
    scene = make_scene(net, "momentum")
    u = -second_order(scene, torch.zeros(7, dtype=torch.float64), real=False)  # Eq. 6 and 7
    rectified = torch.where(u > 0, u, 0.0)
    assert 0 < (rectified > 0).sum() < 7
    step = take_step(scene, begun("l2rw", 7))
    assert close(step.weights, rectified / rectified.sum())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("optimiser", ["plain", "nesterov"])
def test_weight_net_gets_the_second_order_gradient(net: str, optimiser: str) -> None:
    scene = make_scene(net, optimiser)
    run = begun("mw-net", 7)
    assert isinstance(run, MetaWeightNetRun)
    twin = copy.deepcopy(run.net)
    adam = torch.optim.Adam(twin.parameters(), lr=1e-3, weight_decay=1e-4)
    loss = meta_loss_after(scene, lambda losses: twin(losses.detach()[:, None])[:, 0] / 7, real=True)
    expected = torch.autograd.grad(loss, list(twin.parameters()))
    with seeded_globals(DROPOUT_SEED):
        losses = F.cross_entropy(
            copy.deepcopy(scene.model)(scene.batch.inputs), scene.batch.labels, reduction="none"
        ).detach()

    step = take_step(scene, run)
    for parameter, gradient in zip(run.net.parameters(), expected, strict=True):
        assert close(parameter.grad, gradient)
    for parameter, gradient in zip(twin.parameters(), expected, strict=True):
        parameter.grad = gradient
    adam.step()
    assert close(step.weights, twin(losses[:, None])[:, 0].detach() / 7)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_resnet32_in_train_mode(optimiser: str) -> None:
    model = build_model("resnet32", (3, 8, 8), CLASSES, seed=3)
    scene = make_scene(model, optimiser, steps=2, count=4, meta_count=5)
    at = some_weights(4)
    expected = second_order(scene, at)
    forward = scene.forward()
    s = forward.jvp(forward.meta_grad(scene.meta_batch, forward.virtual_step(at)))
    assert close(-forward.virtual_rate * s, expected, 1e-10)


def real_step(scene: Scene, weights: torch.Tensor) -> Scene:
    """A twin after torch's own optimiser took the step."""
    twin = scene.copy()
    twin.optimiser.zero_grad()
    with seeded_globals(DROPOUT_SEED):
        losses = F.cross_entropy(twin.model(twin.batch.inputs), twin.batch.labels, reduction="none")
    (weights * losses).sum().backward()
    twin.optimiser.step()
    return twin


@pytest.mark.parametrize("optimiser", ["nesterov", "adamw"])
def test_every_method_on_resnet32_in_train_mode(optimiser: str) -> None:
    scene = make_scene(
        build_model("resnet32", (3, 8, 8), CLASSES, seed=3), optimiser, steps=2, count=4, meta_count=5
    )
    u = (-second_order(scene, torch.zeros(4, dtype=torch.float64), real=False)).clamp(min=0)
    assert close(take_step(scene, begun("l2rw", 4)).weights, u / u.sum(), 1e-10)

    run = begun("direct", 4)
    run.step_per_rate, old = 1e-4 / LR, run.weights.clone()
    expected = -1e-4 * second_order(scene, old / 4) / scene.forward().virtual_rate
    take_step(scene, run)
    assert close(run.weights - old, expected, 1e-9)  # the difference of numbers near 1

    net = begun("mw-net", 4)
    loss = meta_loss_after(scene, lambda losses: net.net(losses.detach()[:, None])[:, 0] / 4, real=True)
    gradients = torch.autograd.grad(loss, list(net.net.parameters()))
    take_step(scene, net)
    for parameter, gradient in zip(net.net.parameters(), gradients, strict=True):
        assert close(parameter.grad, gradient, 1e-10)


@pytest.mark.parametrize("net", ["batchnorm", "dropout"])
def test_sign_and_size_by_finite_differences_of_real_steps(net: str) -> None:
    scene = make_scene(net, "nesterov")
    at, size = some_weights(7), 1e-5

    def meta_loss(weights: torch.Tensor) -> float:
        twin = real_step(scene, weights)
        with torch.no_grad(), seeded_globals(DROPOUT_SEED):
            return float(F.cross_entropy(twin.model(scene.meta_batch.inputs), scene.meta_batch.labels))

    moves = size * torch.eye(7, dtype=torch.float64)
    slopes = [(meta_loss(at + move) - meta_loss(at - move)) / (2 * size) for move in moves]
    forward = scene.forward()
    s = forward.jvp(forward.meta_grad(scene.meta_batch, forward.virtual_step(at)))
    assert close(-forward.virtual_rate * s, torch.tensor(slopes, dtype=torch.float64), 1e-6)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_virtual_is_what_the_optimiser_does(optimiser: str, steps: int) -> None:
    scene = make_scene("batchnorm", optimiser, steps=steps)
    before = copy.deepcopy(scene.model.state_dict())
    state = copy.deepcopy(scene.optimiser.state_dict())
    gradients = [p.grad if p.grad is None else p.grad.clone() for p in scene.model.parameters()]
    weights = some_weights(7)
    ahead = scene.forward().virtual_step(weights)
    for name, parameter in real_step(scene, weights).model.named_parameters():
        assert close(ahead.params[name], parameter.detach(), 1e-15)
    for (name, parameter), gradient in zip(scene.model.named_parameters(), gradients, strict=True):
        assert torch.equal(parameter, before[name])
        assert parameter.grad is gradient is None or torch.equal(parameter.grad, gradient)
    for key, values in scene.optimiser.state_dict()["state"].items():
        for name, value in values.items():
            assert value is state["state"][key][name] is None or torch.equal(value, state["state"][key][name])


@pytest.mark.parametrize("method", ["direct", "l2rw", "mw-net"])
def test_no_second_order_graph_is_ever_built(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def first_order_only(original: Callable[..., object]) -> Callable[..., object]:
        def watched(*positional: object, create_graph: bool = False, **named: Any) -> object:
            assert not create_graph
            calls.append(original)
            return original(*positional, **named)

        return watched

    scene = make_scene("batchnorm")
    monkeypatch.setattr(torch.autograd, "grad", first_order_only(torch.autograd.grad))
    monkeypatch.setattr(torch.autograd, "backward", first_order_only(torch.autograd.backward))
    monkeypatch.setattr(torch.Tensor, "backward", first_order_only(torch.Tensor.backward))
    weights = take_step(scene, begun(method, 7)).weights
    assert calls
    assert not weights.requires_grad


@pytest.mark.parametrize("meta_running_statistics", [False, True])
@pytest.mark.parametrize("method", ["direct", "l2rw", "mw-net"])
def test_one_pass_a_step_moves_the_running_statistics(method: str, meta_running_statistics: bool) -> None:
    scene = make_scene("batchnorm")
    plain = scene.copy().model
    plain(scene.batch.inputs)
    forward = scene.forward(meta_running_statistics=meta_running_statistics)
    weights = begun(method, 7).step(forward, scene.meta_batch, torch.arange(7), LR).weights
    assert forward.losses.shape == weights.shape
    assert int(scene.model.layers[1].num_batches_tracked) == 3 + 1
    for name, value in scene.model.named_buffers():
        assert torch.equal(value, dict(plain.named_buffers())[name]), name
    for layer in scene.model.modules():
        assert layer.training
        assert getattr(layer, "track_running_stats", True)


def test_few_distinct_normalises_the_meta_pass_with_running_statistics() -> None:
    scene = make_scene("batchnorm")
    found = scene.forward(meta_running_statistics=True).meta_grad(scene.meta_batch)
    twin = scene.copy().model.eval()
    F.cross_entropy(twin(scene.meta_batch.inputs), scene.meta_batch.labels).backward()
    usual = scene.forward().meta_grad(scene.meta_batch)
    for name, parameter in twin.named_parameters():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(found["layers.0.weight"], usual["layers.0.weight"], rtol=0.1)


def test_few_distinct_meta_gradient_does_not_depend_on_the_batch_that_a_sample_is_in() -> None:
    scene = make_scene("batchnorm")
    once = scene.meta_batch
    twice = Batch(torch.cat([once.inputs, once.inputs * 3]), torch.cat([once.labels, once.labels]))
    forward = scene.forward(meta_running_statistics=True)
    apart = [
        forward.meta_grad(Batch(twice.inputs[half], twice.labels[half]))["classifier.weight"]
        for half in (slice(0, 9), slice(9, 18))
    ]
    assert close(forward.meta_grad(twice)["classifier.weight"], (apart[0] + apart[1]) / 2)


@pytest.mark.parametrize("net", ["dropout", "functional dropout"])
def test_every_pass_draws_the_same_mask_and_leaves_the_global_generator_alone(net: str) -> None:
    scene = make_scene(net)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    forward = scene.forward()
    v = forward.meta_grad(scene.meta_batch)
    first, s = forward.losses, forward.jvp(v)
    torch.manual_seed(2)
    again = scene.forward()
    assert torch.equal(again.losses, first)
    assert torch.equal(again.jvp(v), s)
    other = Forward(scene.model, scene.optimiser, scene.batch, seed=DROPOUT_SEED + 1)
    assert not torch.equal(other.losses, first)
    torch.set_rng_state(state)
    scene.forward().jvp(v)
    assert torch.equal(torch.get_rng_state(), state)


def test_jvp_is_linear_and_zero_where_a_parameter_does_not_matter() -> None:
    scene = make_scene("convnet")
    with torch.no_grad():
        head_of(scene.model).weight.zero_()  # the hidden layers bear on nothing now
    forward = scene.forward()
    v = {name: torch.ones_like(value) for name, value in forward.params.items()}
    hidden_only = {name: value * (not name.startswith("classifier")) for name, value in v.items()}
    assert torch.equal(forward.jvp(hidden_only), torch.zeros(7, dtype=torch.float64))
    double = {name: 2 * value for name, value in v.items()}
    v["classifier.bias"][0] = double["classifier.bias"][0] = 0
    v["classifier.bias"][1:] = torch.tensor([1, -1])
    double["classifier.bias"][1:] = torch.tensor([2, -2])
    assert close(forward.jvp(double), 2 * forward.jvp(v))


def test_jvp_is_zero_when_no_parameter_matters() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(1, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :CLASSES]

    batch = random_batch((1, 8, 8), 7, 1)
    model = Constant().double()
    forward = Forward(model, torch.optim.SGD(model.parameters(), lr=LR), batch)
    v = {name: torch.ones_like(value) for name, value in forward.params.items()}
    assert torch.equal(forward.jvp(v), torch.zeros(7, dtype=torch.float64))


class PartlyIdleNet(DropoutNet):
    """With a frozen first layer and a head that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.first.requires_grad_(False)
        self.idle = nn.Linear(4, 4)
        self.last = nn.Linear(CLASSES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(super().forward(x))


@pytest.mark.parametrize("method", ["direct", "l2rw", "mw-net"])
def test_frozen_and_unused_parameters_stay(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "partly idle", (PartlyIdleNet, (1, 8, 8)))
    scene = make_scene("partly idle")
    weights = take_step(scene, begun(method, 7)).weights
    assert torch.isfinite(weights).all()
    ahead = scene.forward().virtual_step(some_weights(7)).params
    taken = dict(real_step(scene, some_weights(7)).model.named_parameters())
    assert set(taken) - set(ahead) == {"first.weight", "first.bias"}
    assert torch.equal(ahead["idle.weight"], scene.model.idle.weight)
    for name, value in ahead.items():
        assert close(value, taken[name].detach(), 1e-15)


def test_turning_the_meta_gradient_round_turns_round_who_gets_weight() -> None:
    scene = make_scene("convnet", "plain")
    forward = scene.forward()
    v = forward.meta_grad(scene.meta_batch)
    away = {name: -value for name, value in v.items()}
    helped = rectify_and_normalise(forward.jvp(v)) > 0
    assert 0 < helped.sum() < 7
    assert torch.equal(rectify_and_normalise(forward.jvp(away)) > 0, ~helped)


def test_frozen_statistics_puts_the_layers_back_after_an_error() -> None:
    model = BatchNormNet().train()

    def fail_inside() -> None:
        with frozen_statistics(model, use_running=True):
            assert not model.layers[1].training
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert all(layer.training for layer in model.modules())
