"""Models by name: sizes by hand, seeds, refusals, and forward-mode products through torchvision's families."""

import sys
import types
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.build import auto_model, build_model, input_channels
from metaselect.models.head import head_of
from metaselect.registry import MODELS, TORCHVISION_FAMILIES


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def conv(inputs: int, outputs: int, kernel: int = 3, *, bias: bool = True) -> int:
    return inputs * outputs * kernel**2 + outputs * bias


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def residual(channels: int, widths: Sequence[int], depths: Sequence[int], classes: int) -> int:
    """Convolutions without bias, two numbers a channel for BatchNorm, shortcuts without parameters."""
    total, inputs = conv(channels, widths[0], bias=False) + 2 * widths[0], widths[0]
    for width, depth in zip(widths, depths, strict=True):
        for _ in range(depth):
            total += conv(inputs, width, bias=False) + conv(width, width, bias=False) + 4 * width
            inputs = width
    return total + linear(inputs, classes)


def wide_residual(channels: int, width: int, blocks: int, classes: int) -> int:
    """Pre-activation: BatchNorm before each convolution, 1x1 shortcuts where the width changes."""
    total, inputs = conv(channels, 16, bias=False), 16
    for outputs in (16 * width, 32 * width, 64 * width):
        for _ in range(blocks):
            total += 2 * inputs + conv(inputs, outputs, bias=False)
            total += 2 * outputs + conv(outputs, outputs, bias=False)
            total += conv(inputs, outputs, 1, bias=False) if inputs != outputs else 0
            inputs = outputs
    return total + 2 * inputs + linear(inputs, classes)


def lenet_size(channels: int, flat: int, classes: int) -> int:
    convolutions = conv(channels, 6, 5) + conv(6, 16, 5)
    return convolutions + linear(flat, 120) + linear(120, 84) + linear(84, classes)


BUILT = [
    # name, shape, K, d, parameters
    ("linear", (20,), 3, 20, linear(20, 3)),
    ("linear", (1, 4, 5), 3, 20, linear(20, 3)),
    ("mlp", (20,), 3, 64, linear(20, 128) + linear(128, 64) + linear(64, 3)),
    ("mlp", (1, 4, 5), 3, 64, linear(20, 128) + linear(128, 64) + linear(64, 3)),
    ("convnet", (1, 8, 8), 10, 64, conv(1, 16) + conv(16, 32) + linear(32 * 4 * 4, 64) + linear(64, 10)),
    ("convnet", (3, 9, 16), 4, 64, conv(3, 16) + conv(16, 32) + linear(32 * 4 * 8, 64) + linear(64, 4)),
    ("lenet", (1, 28, 28), 10, 84, 44_426),
    ("lenet", (3, 32, 32), 5, 84, lenet_size(3, 16 * 5 * 5, 5)),
    ("lenet", (1, 16, 28), 2, 84, lenet_size(1, 16 * 1 * 4, 2)),
    ("resnet32", (3, 32, 32), 10, 64, 464_154),
    ("resnet32", (1, 17, 24), 2, 64, residual(1, (16, 32, 64), (5, 5, 5), 2)),
    ("resnet34", (3, 8, 8), 10, 512, residual(3, (64, 128, 256, 512), (3, 4, 6, 3), 10)),
    ("wrn-28-10", (3, 8, 8), 10, 640, 36_479_194),
]


@pytest.mark.parametrize(("name", "shape", "classes", "width", "parameters"), BUILT)
def test_our_models_have_the_size_of_their_papers(
    name: str, shape: tuple[int, ...], classes: int, width: int, parameters: int
) -> None:
    model = build_model(name, shape, classes, seed=0)
    assert model.training
    assert size(model) == parameters
    last = head_of(model)
    assert (last.in_features, last.out_features) == (width, classes)
    caught = []
    hook = last.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].shape))
    with torch.no_grad():
        logits = model(torch.zeros(2, *shape))
    hook.remove()
    assert logits.shape == (2, classes)
    assert caught == [(2, width)]


def test_sizes_worked_out_by_hand_agree_with_the_published_ones() -> None:
    assert lenet_size(1, 16 * 4 * 4, 10) == 44_426
    assert residual(3, (16, 32, 64), (5, 5, 5), 10) == 464_154
    assert wide_residual(3, 10, 4, 10) == 36_479_194


def test_every_name_is_tested() -> None:
    assert {row[0] for row in BUILT} == set(MODELS)
    assert {
        family for family in TORCHVISION_FAMILIES if any(name.startswith(family) for name, _ in ZOO)
    } == set(TORCHVISION_FAMILIES)


@pytest.mark.parametrize("name", ["linear", "mlp", "convnet", "resnet32", "mobilenet_v3_small"])
def test_same_seed_same_weights_and_the_global_generator_is_left_alone(name: str) -> None:
    shape = (5,) if name in ("linear", "mlp") else (3, 32, 32)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    once = build_model(name, shape, 3, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = build_model(name, shape, 3, seed=7), build_model(name, shape, 3, seed=8)
    for key, value in once.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.equal(head_of(once).weight, head_of(other).weight)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1,), "mlp"),
        ((127,), "mlp"),
        ((128,), "linear"),
        ((768,), "linear"),
        ((1, 8, 8), "convnet"),
        ((3, 16, 16), "convnet"),
        ((3, 4, 16), "convnet"),
        ((1, 28, 28), "lenet"),
        ((1, 32, 28), "lenet"),
        ((1, 33, 28), "resnet32"),
        ((1, 17, 17), "resnet32"),
        ((1, 20, 32), "resnet32"),
        ((3, 28, 28), "resnet32"),
        ((3, 32, 32), "resnet32"),
        ((3, 64, 64), "resnet32"),
        ((3, 48, 65), "resnet18"),
        ((1, 224, 224), "resnet18"),
    ],
)
def test_automatic_choice(shape: tuple[int, ...], name: str) -> None:
    assert auto_model(shape) == name


@pytest.mark.parametrize(
    "shape", [(7,), (200,), (1, 8, 8), (1, 28, 28), (1, 32, 28), (3, 17, 40), (1, 65, 20)]
)
def test_automatic_choice_can_take_the_shape(shape: tuple[int, ...]) -> None:
    name = auto_model(shape)
    channels = input_channels(name, shape)
    model = build_model(name, shape, 3, seed=0).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, channels, *shape[1:])).shape == (1, 3)


def test_channels_that_a_model_takes() -> None:
    assert input_channels("resnet18", (1, 96, 96)) == 3
    assert input_channels("resnet32", (1, 32, 32)) == 1
    assert input_channels("package.module:factory", (1, 32, 32)) == 1
    assert input_channels("mlp", (9,)) == 9


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module ``their_models`` with factories that keep the contract, or do not."""

    def good(shape: tuple[int, ...], classes: int) -> nn.Module:
        assert isinstance(shape, tuple)
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes))

    def not_last(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(good(shape, 4), nn.Linear(4, classes), nn.Unflatten(1, (1, -1)))

    module = types.ModuleType("their_models")
    vars(module).update(
        good=good,
        no_model=lambda shape, classes: "a model",
        no_linear=lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Identity()),
        other_classes=lambda shape, classes: good(shape, classes + 1),
        not_last=not_last,
        other_inputs=lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(5, classes)),
    )
    monkeypatch.setitem(sys.modules, "their_models", module)


@pytest.mark.usefixtures("factories")
def test_a_factory_is_called_with_shape_and_classes() -> None:
    model = build_model("their_models:good", (1, 4, 4), 3, seed=1)
    assert head_of(model).in_features == 16
    again = build_model("their_models:good", (1, 4, 4), 3, seed=1)
    assert torch.equal(head_of(model).weight, head_of(again).weight)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("their_models:missing", "cannot be imported"),
        ("no_such_module:good", "cannot be imported"),
        (":good", "cannot be imported"),
        (".their_models:good", "cannot be imported"),
        ("their_models:no_model", "returned a str"),
        ("their_models:no_linear", "no nn.Linear"),
        ("their_models:other_classes", r"logits of shape \(2, 4\) for 2 samples, not \(2, 3\)"),
        ("their_models:not_last", "not the output of an nn.Linear"),
        ("their_models:other_inputs", "cannot take inputs of shape"),
    ],
)
def test_a_factory_that_breaks_the_contract_is_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        build_model(name, (1, 4, 4), 3, seed=0)
    assert refused.value.hint


@pytest.mark.parametrize(
    "name", ["vit_b_16", "swin_t", "inception_v3", "googlenet", "squeezenet1_0", "alexnet", "maxvit_t", "gpt"]
)
def test_a_family_that_is_not_supported_is_refused_with_the_ones_that_are(name: str) -> None:
    with pytest.raises(UsageError, match=f"--model {name} is not known") as refused:
        build_model(name, (3, 64, 64), 3, seed=0)
    for known in (*MODELS, *TORCHVISION_FAMILIES):
        assert known in refused.value.hint


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("resnet1000", (3, 64, 64), "torchvision has no model resnet1000"),
        ("densenet121", (3, 8, 8), "cannot take inputs of shape"),
        ("lenet", (1, 8, 28), "at least 16 pixels, not 8x28"),
        ("lenet", (1, 12, 12), "at least 16 pixels"),
        ("lenet", (20,), "needs images"),
        ("convnet", (20,), "needs images"),
        ("resnet32", (20,), "needs images"),
        ("resnet18", (20,), "needs images"),
    ],
)
def test_a_shape_that_a_model_cannot_take_is_refused(name: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        build_model(name, shape, 3, seed=0)
    assert refused.value.exit_code == 2
    assert refused.value.hint


ZOO = [
    # name, and whether autograd can differentiate it twice (the faster oracle)
    ("resnet18", True),
    ("resnext50_32x4d", True),
    ("wide_resnet50_2", True),
    ("vgg11_bn", True),
    ("densenet121", True),
    ("mobilenet_v2", True),
    ("mobilenet_v3_small", False),
    ("efficientnet_b0", True),
    ("convnext_tiny", True),
    ("regnet_x_400mf", True),
    ("regnet_y_400mf", True),
    ("shufflenet_v2_x0_5", True),
    ("mnasnet0_5", True),
]


def double_vjp(losses: torch.Tensor, parameters: list[torch.Tensor], v: list[torch.Tensor]) -> torch.Tensor:
    """(B,) J v from two reverse passes: the derivative of J^T u along u."""
    u = torch.zeros_like(losses, requires_grad=True)
    transposed = torch.autograd.grad(losses, parameters, u, create_graph=True)
    product = sum((row * direction).sum() for row, direction in zip(transposed, v, strict=True))
    return torch.autograd.grad(product, u)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "twice"), ZOO)
def test_products_through_the_zoo(name: str, twice: bool) -> None:
    """In train mode, with dropout and stochastic depth as they come."""
    draw = torch.Generator().manual_seed(2)
    inputs = torch.randn(4, 3, 64, 64, generator=draw)
    dtype = torch.float32 if twice else torch.float64
    model = build_model(name, (1, 64, 64), 3, seed=0).to(dtype)
    batch = Batch(inputs.to(dtype), torch.tensor([0, 1, 2, 0]))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    forward = Forward(model, optimiser, batch, seed=1)
    v = {
        key: torch.randn(value.shape, generator=draw, dtype=dtype) * value.detach().square().mean().sqrt()
        for key, value in forward.params.items()
    }
    s = forward.jvp(v)
    if twice:
        expected = double_vjp(forward.losses, list(forward.params.values()), list(v.values()))
    else:
        ends = []
        for size_of_move in (1e-6, -1e-6):
            with torch.no_grad():
                for key, value in forward.params.items():
                    value.add_(v[key], alpha=size_of_move)
                ends.append(Forward(model, optimiser, batch, seed=1).losses)
                for key, value in forward.params.items():
                    value.sub_(v[key], alpha=size_of_move)
        expected = (ends[0] - ends[1]) / 2e-6
    assert s.shape == (4,)
    assert expected.abs().max() > 1e-3
    assert (s - expected).abs().max() <= 2e-5 * expected.abs().max()
