"""What makes a meta step cheaper or another: kept v, fewer parameters, parts of a step, other optimisers and nets."""

import copy
from typing import Any

import pytest
import torch
from data_makers import METHODS, Listener, plan, start_of
from test_metagrad_forward import (
    LR,
    NETS,
    OPTIMISERS,
    begun,
    close,
    make_scene,
    meta_loss_after,
    random_batch,
    second_order,
    some_weights,
    take_step,
)
from torch import nn

from metaselect.errors import UsageError
from metaselect.metagrad import virtual_step as optimisers
from metaselect.metagrad.forward import Forward
from metaselect.models.build import build_model
from metaselect.models.parameters import parameters_in
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.direct import DirectRun
from metaselect.reweighting.meta_gradient import MetaGradient
from metaselect.reweighting.mw_net import MetaWeightNet, MetaWeightNetRun
from metaselect.reweighting.uniform import UniformRun
from metaselect.training.batches import Batches
from metaselect.training.loop import EpochLog, TrainingConfig, TrainState, start_training, train


def weight_net(pairs: list[str]) -> MetaWeightNetRun:
    start = start_of(torch.zeros(7, dtype=torch.int64), stream=torch.Generator().manual_seed(8))
    hyper = configure(REWEIGHTERS["mw-net"], pairs)
    assert isinstance(hyper, MetaWeightNet)
    run = hyper.begin(start)
    run.net.double()
    return run


def epochs_of(
    trainee: TrainState,
    batches: Batches,
    given: TrainingConfig,
    ids: torch.Tensor,
    bought: torch.Tensor | None = None,
) -> list[EpochLog]:
    """What `train` says of every epoch on these samples."""
    bought, meta = (torch.arange(0), 0) if bought is None else (bought, 8)
    return list(
        train(
            trainee, batches, given, ids=ids, bought=bought, meta_batch_size=meta, report=Listener(), what="t"
        )
    )


# Optimisers


def test_the_slope_of_adams_first_step_in_closed_form() -> None:
    """From nothing, u = g / (|g| + eps): in the sum of both terms of its derivative, all but eps cancels."""
    value = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    gradient = torch.tensor([1e-3, -2.0, 1e-9, 0.0, 5e-6], dtype=torch.float64)
    adam = torch.optim.Adam([value], lr=LR)
    slope = optimisers.step_parameter(adam, value, gradient).slope
    assert slope is not None
    expected = 1e-8 / (gradient.abs() + 1e-8) ** 2
    assert torch.allclose(slope, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_the_slope_by_finite_differences_of_real_steps(optimiser: str, dtype: torch.dtype) -> None:
    kind, constants = OPTIMISERS[optimiser]
    draw = torch.Generator().manual_seed(2)

    def after(last: torch.Tensor) -> torch.Tensor:
        value = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))
        taken = kind([value], lr=LR, **constants)
        for gradient in (*history, last):
            value.grad = gradient.clone()
            taken.step()
        return value.detach()

    history = [torch.randn(6, generator=draw, dtype=torch.float64) for _ in range(3)]
    gradient, size = torch.randn(6, generator=draw, dtype=torch.float64), 1e-6
    expected = (after(gradient - size) - after(gradient + size)) / (2 * size)  # elementwise, so all at once

    value = nn.Parameter(torch.linspace(-1, 1, 6, dtype=dtype))
    taken = kind([value], lr=LR, **constants)
    for step in history:
        value.grad = step.to(dtype)
        taken.step()
    ahead = optimisers.step_parameter(taken, value, gradient.to(dtype))
    slope = torch.ones_like(value) if ahead.slope is None else ahead.slope
    found = optimisers.virtual_rate(taken) * slope.detach().double()
    assert torch.allclose(found, expected, rtol=1e-3 if dtype == torch.float32 else 1e-6)


@pytest.mark.parametrize(
    ("made", "odd"),
    [
        (lambda p: torch.optim.RMSprop(p, lr=LR), "RMSprop"),
        (lambda p: torch.optim.Adam(p, lr=LR, amsgrad=True), "amsgrad"),
        (lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, dampening=0.1), "dampening"),
        (lambda p: torch.optim.SGD(p, lr=LR, maximize=True), "maximize"),
    ],
)
def test_another_optimiser_is_refused_with_a_sentence(made: object, odd: str) -> None:
    scene = make_scene("lenet", "plain")
    assert callable(made)
    forward = Forward(scene.model, made(scene.model.parameters()), scene.batch)
    with pytest.raises(UsageError, match=odd) as caught:
        forward.virtual_step(some_weights(7))
    assert "Adam" in str(caught.value.hint)


# Scope


@pytest.mark.parametrize("optimiser", ["nesterov", "adam"])
@pytest.mark.parametrize("scope", ["top", "last"])
@pytest.mark.parametrize("net", ["lenet", "batchnorm", "transformer"])
def test_a_scope_is_the_second_order_gradient_of_a_virtual_step_of_its_parameters(
    net: str, scope: str, optimiser: str
) -> None:
    scene = make_scene(net, optimiser)
    at = some_weights(7)
    expected = second_order(scene, at, scope=scope)
    forward = scene.forward()
    s = MetaGradient(1, scope).of(forward, scene.meta_batch, at)
    assert close(-forward.virtual_rate * s, expected, 1e-10)
    assert not close(-forward.virtual_rate * s, second_order(scene, at), 1e-3)


def test_scopes_of_resnet32_are_its_last_stage_and_its_last_layer() -> None:
    model = build_model("resnet32", (3, 8, 8), 3, seed=0)
    names = dict(model.named_parameters())
    assert parameters_in(model, "all") == set(names)
    last = (
        {"classifier.weight", "classifier.bias"} if "classifier.weight" in names else {"fc.weight", "fc.bias"}
    )
    assert parameters_in(model, "last") == last
    assert last < parameters_in(model, "top") < set(names)
    stage = {name for name in names if names[name].shape[:1] == (64,)}
    assert parameters_in(model, "top") == last | stage


def test_below_the_scope_nothing_is_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene("lenet", "plain")
    first = next(scene.model.parameters())
    reached: list[int] = []
    first.register_hook(lambda gradient: reached.append(1))
    forward = scene.forward()
    MetaGradient(1, "last").of(forward, scene.meta_batch, some_weights(7))
    assert not reached
    MetaGradient(1, "all").of(scene.forward(), scene.meta_batch, some_weights(7))
    assert reached  # of the virtual step's gradient


@pytest.mark.parametrize("pair", ["every=0", "scope=middle"])
@pytest.mark.parametrize("method", ["direct", "l2rw", "mw-net"])
def test_knobs_are_checked(method: str, pair: str) -> None:
    with pytest.raises(UsageError, match=pair):
        configure(REWEIGHTERS[method], [pair])


def test_a_scope_without_a_trained_parameter_is_refused() -> None:
    scene = make_scene("lenet", "plain")
    for name in parameters_in(scene.model, "last"):
        scene.model.get_parameter(name).requires_grad_(False)
    with pytest.raises(UsageError, match="all frozen"):
        MetaGradient(1, "last").of(scene.forward(), scene.meta_batch, some_weights(7))


# Keeping v


def test_v_is_taken_anew_every_three_steps_and_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    meta_gradient, taken = MetaGradient(3, "all"), Forward.meta_grad
    steps: list[int] = []

    def counted(*given: Any) -> Any:
        steps.append(number)
        return taken(*given)

    monkeypatch.setattr(Forward, "meta_grad", counted)
    scene = make_scene("lenet", "plain")
    for number in range(12):
        if number == 7:
            meta_gradient.epoch_end()
        meta_gradient.of(scene.forward(), random_batch((1, 28, 28), 5, number), some_weights(7))
    assert steps == [0, 3, 6, 7, 10]


def test_a_kept_v_meets_the_samples_of_today() -> None:
    before, after = make_scene("batchnorm", steps=1), make_scene("batchnorm", steps=3)
    forward = before.forward()
    v = forward.meta_grad(before.meta_batch, forward.virtual_step(some_weights(7)))
    meta_gradient = MetaGradient(2, "all")
    meta_gradient.of(before.forward(), before.meta_batch, some_weights(7))
    found = meta_gradient.of(after.forward(), after.meta_batch, some_weights(7))
    assert torch.equal(found, after.forward().jvp(v))


# Parts of a step


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_accumulated_parts_are_one_step_on_their_mean(tiny_batches: Batches, optimiser: str) -> None:
    """Without BatchNorm and in equal parts, that is a step on all of them."""
    ids = torch.arange(24)
    models = []
    for batch_size, accumulate in ((12, 1), (4, 3)):
        given = plan(
            epochs=2,
            batch_size=batch_size,
            accumulate=accumulate,
            optimiser=optimiser,
            lr=0.05,
            momentum=0.0,
            augment="none",
        )
        model = build_model("mlp", tiny_batches.raw.shape[1:], 3, seed=1)
        trainee = start_training(model, given, UniformRun())
        epochs_of(trainee, tiny_batches, given, ids)
        models.append(model.state_dict())
    start = build_model("mlp", tiny_batches.raw.shape[1:], 3, seed=1).state_dict()
    for name, value in models[0].items():
        assert torch.allclose(models[1][name], value, atol=1e-4)
        assert not torch.allclose(start[name], value, atol=2e-3)


def test_every_part_has_a_sample(tiny_batches: Batches) -> None:
    """Parts of one sample in groups of four, which ten samples do not fill."""
    given = plan(epochs=1, batch_size=1, accumulate=4, momentum=0.0)
    model = build_model("mlp", tiny_batches.raw.shape[1:], 3, seed=1)
    trainee = start_training(model, given, UniformRun())
    (log,) = epochs_of(trainee, tiny_batches, given, torch.arange(10))
    assert log.mean_weight == pytest.approx(1)


# Meta-Weight-Net's variants


@pytest.mark.parametrize("optimiser", ["plain", "nesterov", "adamw"])
@pytest.mark.parametrize(
    "pairs",
    [
        ["normalised=true"],
        ["detached=false"],
        ["normalised=true", "detached=false", "net_optimiser=sgd"],
        ["lagged=true"],
        ["lagged=true", "normalised=true"],
    ],
    ids=lambda pairs: ",".join(pairs),
)
@pytest.mark.parametrize("net", NETS)
def test_variants_of_the_weight_net_get_the_second_order_gradient(
    net: str, pairs: list[str], optimiser: str
) -> None:
    scene = make_scene(net, optimiser)
    run = weight_net(pairs)
    twin = copy.deepcopy(run.net)
    hyper = run.hyper

    def weights(losses: torch.Tensor) -> torch.Tensor:
        outputs = twin((losses.detach() if hyper.detached else losses)[:, None])[:, 0]
        return outputs / (outputs.sum() if hyper.normalised else len(outputs))

    loss = meta_loss_after(scene, weights, real=True)
    expected = torch.autograd.grad(loss, list(twin.parameters()))
    losses = scene.copy().forward().losses.detach()
    step = take_step(scene, run)
    for parameter, gradient in zip(run.net.parameters(), expected, strict=True):
        assert close(parameter.grad, gradient, 1e-10)
    used = twin if hyper.lagged else run.net
    outputs = used(losses[:, None])[:, 0].detach()
    assert close(step.weights, outputs / (outputs.sum() if hyper.normalised else 7))


def test_a_lagged_step_runs_one_backward_pass_less_and_is_the_same_step() -> None:
    passes = dict.fromkeys((False, True), 0)
    for lagged in passes:
        scene, twin = make_scene("batchnorm"), make_scene("batchnorm")

        def count(gradient: torch.Tensor, lagged: bool = lagged) -> None:
            passes[lagged] += 1

        next(scene.model.parameters()).register_hook(count)
        forward = scene.forward()
        weights = (
            weight_net([f"lagged={lagged}".lower()])
            .step(forward, scene.meta_batch, torch.arange(7), LR)
            .weights
        )
        for each in (scene, twin):
            each.optimiser.zero_grad()
        forward.backward(weights)
        (weights * twin.forward().losses).sum().backward()
        for mine, other in zip(scene.model.parameters(), twin.model.parameters(), strict=True):
            assert torch.allclose(mine.grad, other.grad, rtol=1e-9, atol=1e-14)
    assert passes == {False: 2, True: 1}


def test_a_share_of_the_gradient_is_added_to_what_is_there() -> None:
    for reused in (False, True):
        scene, twin = make_scene("batchnorm"), make_scene("batchnorm")
        weights = some_weights(7)
        for model in (scene.model, twin.model):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
        forward = scene.forward()
        if reused:
            forward.virtual_step(weights, keep_gradient=True)
        forward.backward(weights, 0.25)
        (0.25 * (weights * twin.forward().losses).sum()).backward()
        for mine, other in zip(scene.model.parameters(), twin.model.parameters(), strict=True):
            assert close(mine.grad, other.grad, 1e-14)


def test_lagged_needs_the_detached_form() -> None:
    with pytest.raises(UsageError, match="lagged"):
        configure(REWEIGHTERS["mw-net"], ["lagged=true", "detached=false"])


def test_direct_with_adam_moves_weights_along_second_order() -> None:
    scene = make_scene("batchnorm", "adam")
    old = some_weights(7, 7)
    run = DirectRun(old.clone(), 1e-3 / LR, MetaGradient(1, "all"))
    expected = -1e-3 * second_order(scene, old / 7) / LR
    take_step(scene, run)
    assert close(run.weights - old, expected, 1e-10)


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_every_optimiser(tiny_batches: Batches, method: str, optimiser: str) -> None:
    given = plan(epochs=2, optimiser=optimiser, lr=0.001, momentum=0.0, accumulate=2)
    labels = tiny_batches.labels
    bought = torch.arange(0, 24, 2)
    run = METHODS[method].begin(start_of(labels, epochs=2, lr=0.001, bought=bought))
    trainee = start_training(build_model("mlp", tiny_batches.raw.shape[1:], 3, seed=1), given, run)
    before = copy.deepcopy(trainee.model.state_dict())
    logs = epochs_of(trainee, tiny_batches, given, torch.arange(1, 24, 2), bought)
    assert len(logs) == 2
    assert any(not torch.equal(value, before[name]) for name, value in trainee.model.state_dict().items())
    assert type(trainee.optimiser).__name__.lower() == optimiser


def test_begun_covers_the_methods_that_take_a_virtual_step() -> None:
    assert {type(begun(name, 7)).__name__ for name in ("direct", "l2rw", "mw-net")} == {
        "DirectRun",
        "L2RWRun",
        "MetaWeightNetRun",
    }
