"""The product through the step's own forward pass, against differentiating twice; and when it gives way to another."""

import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from data_makers import Listener, start_of
from nets import CLASSES, GroupNormNet, InPlaceNet, Transformer, no_flash
from torch import nn
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.metagrad import jvp_through_graph as graph_module
from metaselect.metagrad.forward import Forward
from metaselect.metagrad.jvp import JvpSolver
from metaselect.metagrad.jvp_rules import RULES, NoRule, by_two_vjps
from metaselect.metagrad.jvp_strategies import (
    STRATEGIES,
    LossPasses,
    central_differences,
    double_backward,
    dual_numbers,
    through_graph,
)
from metaselect.metagrad.jvp_through_graph import jvp_through_graph
from metaselect.models.batch import Batch
from metaselect.models.build import build_model
from metaselect.models.wide_resnet import WideResNet
from metaselect.random import seeded_globals
from metaselect.registry import REWEIGHTERS, configure
from metaselect.training.batches import Batches
from metaselect.training.loop import TrainingConfig, start_training, train

# Torch scripts its rules of forward mode when the first of them is needed, whichever test that is.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

NETS: dict[str, Callable[[], nn.Module]] = {
    "lenet": lambda: build_model("lenet", (3, 16, 16), CLASSES, seed=3),
    "convnet": lambda: build_model("convnet", (3, 8, 8), CLASSES, seed=3),
    "resnet32": lambda: build_model("resnet32", (3, 8, 8), CLASSES, seed=3),
    "wide resnet": lambda: WideResNet((3, 8, 8), CLASSES, 10, 2),
    "group norm": GroupNormNet,
    "transformer": Transformer,
    "in place": InPlaceNet,
}


def make_forward(
    model: nn.Module,
    jvp_solver: JvpSolver | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    autocast: bool = False,
) -> Forward:
    draw = torch.Generator().manual_seed(1)
    size = 16 if type(model).__name__ == "LeNet" else 8
    batch = Batch(torch.randn(6, 3, size, size, generator=draw, dtype=dtype), torch.arange(6) % CLASSES)
    model = model.to(dtype).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    return Forward(model, optimiser, batch, seed=5, jvp_solver=jvp_solver, autocast=autocast)


def made(net: str) -> nn.Module:
    with seeded_globals(2):
        return NETS[net]()


def direction(forward: Forward) -> dict[str, torch.Tensor]:
    """A random v, each parameter's in proportion to its size."""
    draw = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(p.shape, generator=draw).to(p) * p.detach().square().mean().sqrt().clamp(min=0.05)
        for name, p in forward.params.items()
    }


def passes_of(forward: Forward) -> LossPasses:
    """What the forward offers to the ways of the product."""
    seen: list[LossPasses] = []
    jvp_solver = forward.jvp_solver

    def keep(passes: LossPasses, v: object) -> torch.Tensor:
        seen.append(passes)
        return torch.zeros(1)

    forward.jvp_solver = JvpSolver(strategies=[keep])
    forward.jvp({})
    forward.jvp_solver = jvp_solver
    return seen[0]


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a share of the largest expected entry, which is not 0."""
    assert found.shape == expected.shape
    assert expected.abs().max() > 0
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_product_is_second_order_differentiation(net: str, channels_last: bool) -> None:
    forward = make_forward(made(net), JvpSolver(strategies=[through_graph]))
    if channels_last:
        forward.model.to(memory_format=torch.channels_last)
        batch = forward.batch
        forward.batch = batch._replace(inputs=batch.inputs.to(memory_format=torch.channels_last))
    v = direction(forward)
    with no_flash():
        s = forward.jvp(v)
        assert not s.requires_grad
        assert gap(s, double_backward(passes_of(forward), v)) < 1e-10
        assert (
            gap(s, dual_numbers(passes_of(forward), v)) < 1e-10
        )  # a pass of its own: the masks are the same


def test_sharing_leaves_the_graph_as_it_is() -> None:
    forward, twin = (make_forward(made("in place")) for _ in range(2))
    v = direction(forward)
    assert torch.equal(forward.jvp(v), forward.jvp(v))
    for one in (forward, twin):
        one.losses.sum().backward()
    for name, p in forward.params.items():
        assert torch.equal(p.grad, twin.params[name].grad)


@pytest.mark.parametrize("few", ["v without a bias", "v of the last layer", "frozen stem"])
def test_what_does_not_move_costs_nothing(few: str) -> None:
    model = made("resnet32")
    if few == "frozen stem":
        model.stem.requires_grad_(False)
        model.bn.requires_grad_(False)
    forward = make_forward(model, JvpSolver(strategies=[through_graph]))
    v = direction(forward)
    if few == "v of the last layer":
        v = {name: value * name.startswith("classifier") for name, value in v.items()}
    elif few == "v without a bias":
        v = {name: value * (not name.endswith("bias")) for name, value in v.items()}
    assert gap(forward.jvp(v), double_backward(passes_of(forward), v)) < 1e-10
    some = {p: v[name] for name, p in forward.params.items() if name.startswith("classifier")}
    only_last = {name: value * name.startswith("classifier") for name, value in v.items()}
    assert gap(jvp_through_graph(forward.losses, some), forward.jvp(only_last)) < 1e-10


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def batch_norm(training: bool) -> Callable[..., torch.Tensor]:
    def apply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, draw(3), draw(3).square(), weight, bias, training)

    return apply


OPERATIONS: list[tuple[str, Callable[..., torch.Tensor], Sequence[torch.Tensor]]] = [
    ("Add", lambda x, y: torch.add(x, y, alpha=3), [draw(2, 3), draw(3)]),
    ("Add", lambda x, y: torch.add(x, y, alpha=3), [draw(3), draw(2, 3)]),
    ("Addmm", F.linear, [draw(4, 3), draw(5, 3), draw(5)][:3]),
    ("Addmm", lambda b, x, w: torch.addmm(b, x, w, beta=2, alpha=3), [draw(5), draw(4, 3), draw(3, 5)]),
    ("Bmm", torch.bmm, [draw(2, 3, 4), draw(2, 4, 5)]),
    ("Clone", torch.clone, [draw(4)]),
    (
        "Convolution",
        lambda x, w, b: F.conv2d(x, w, b, 2, 1, 2, 2),
        [draw(2, 4, 9, 9), draw(6, 2, 3, 3), draw(6)],
    ),
    ("Convolution", lambda x, w, b: F.conv1d(x, w, b, 2), [draw(2, 4, 9), draw(6, 4, 3), draw(6)]),
    (
        "Convolution",
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1),
        [draw(2, 4, 5, 5), draw(4, 6, 3, 3), draw(6)],
    ),
    ("Elu", F.elu, [draw(7)]),
    ("Expand", lambda x: x.expand(4, 3), [draw(3)]),
    ("Gelu", F.gelu, [draw(7)]),
    ("Gelu", lambda x: F.gelu(x, approximate="tanh"), [draw(7)]),
    ("Hardsigmoid", F.hardsigmoid, [draw(7)]),
    ("Hardswish", F.hardswish, [draw(7)]),
    ("Hardtanh", F.relu6, [draw(7)]),
    ("LeakyRelu", F.leaky_relu, [draw(7)]),
    ("MaxPool2DWithIndices", lambda x: F.max_pool2d(x, 3, 2, 1), [draw(2, 3, 9, 7)]),
    ("Mish", F.mish, [draw(7)]),
    ("Mm", torch.mm, [draw(2, 4), draw(4, 5)]),
    ("Mul", torch.mul, [draw(2, 3), draw(3)]),
    ("Mul", lambda x: x * 3, [draw(2, 3)]),
    ("NativeBatchNorm", batch_norm(True), [draw(4, 3, 2, 2), draw(3), draw(3)]),
    ("NativeBatchNorm", batch_norm(True), [draw(4, 3), draw(3), draw(3)]),
    ("NativeBatchNorm", batch_norm(False), [draw(4, 3, 2), draw(3), draw(3)]),
    ("NativeBatchNorm", lambda x: F.batch_norm(x, None, None, training=True), [draw(4, 3, 2)]),
    ("NativeDropout", lambda x: torch.native_dropout(x, 0.5, True)[0], [draw(20)]),
    ("NativeGroupNorm", lambda x, w, b: F.group_norm(x, 2, w, b), [draw(3, 4, 5), draw(4), draw(4)]),
    ("NativeGroupNorm", lambda x: F.group_norm(x, 2), [draw(3, 4, 5, 2)]),
    (
        "NativeLayerNorm",
        lambda x, w, b: F.layer_norm(x, (4, 5), w, b),
        [draw(3, 4, 5), draw(4, 5), draw(4, 5) + 1],
    ),
    ("NativeLayerNorm", lambda x: F.layer_norm(x, (5,)), [draw(3, 4, 5)]),
    ("Relu", F.relu, [draw(7)]),
    ("Relu", lambda x: F.relu_(x * 1), [draw(7)]),
    ("Sigmoid", torch.sigmoid, [draw(7)]),
    ("Silu", F.silu, [draw(7)]),
    ("Softmax", lambda x: F.softmax(x, 1), [draw(3, 4)]),
    ("Softplus", F.softplus, [draw(7)]),
    ("T", torch.t, [draw(3, 4)]),
    ("Tanh", torch.tanh, [draw(7)]),
    ("ToCopy", lambda x: x.to(torch.float32), [draw(3, 4)]),
    ("Unsqueeze", lambda x: x.unsqueeze(1), [draw(3, 4)]),
    ("View", lambda x: x.flatten(), [draw(3, 4)]),
]
SEEN_ELSEWHERE = {
    "CudnnBatchNorm",
    "ReshapeAlias",
    "SafeSoftmax",
    "UnsafeView",
}  # on a GPU, or within attention


def test_every_rule_has_an_oracle() -> None:
    names = {name for name, _, _ in OPERATIONS} | SEEN_ELSEWHERE
    # The products of BatchNorm over several ranks are compared with those of one in rank_steps.py.
    assert {f"{name}Backward0" for name in names} | {"WholeBatchNormBackward"} == RULES.keys()


@pytest.mark.parametrize("case", range(len(OPERATIONS)), ids=[name for name, _, _ in OPERATIONS])
def test_rule_is_the_jacobian(case: int) -> None:
    """Against J from autograd, for each input alone and for all at once."""
    name, operation, inputs = OPERATIONS[case]
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = operation(*leaves)
    nodes, ahead = set(), [out.grad_fn]
    while ahead:
        node = ahead.pop()
        nodes.add(node.name())
        ahead += [source for source, _ in node.next_functions if source is not None]
    assert f"{name}Backward0" in nodes
    basis = torch.eye(out.numel(), dtype=out.dtype).view(-1, *out.shape)
    rows = [torch.autograd.grad(out, leaves, one, retain_graph=True) for one in basis]
    moves = [draw(*x.shape, 1)[..., 0] for x in inputs]
    for chosen in [*({k} for k in range(len(inputs))), set(range(len(inputs)))]:
        expected = sum(torch.stack([(row[k] * moves[k]).sum() for row in rows]) for k in chosen).view_as(out)
        found = jvp_through_graph(out, {leaves[k]: moves[k] for k in chosen})
        assert found.dtype == out.dtype
        assert gap(found.double(), expected.double()) < (1e-6 if out.dtype == torch.float32 else 1e-12)


def test_an_operation_without_a_rule_is_differentiated_twice() -> None:
    x, y = draw(3, 4).requires_grad_(), draw(3, 4).requires_grad_()
    out = torch.atan2(x, y)
    assert out.grad_fn.name() not in RULES
    moves = draw(4, 3).t().contiguous(), draw(3, 4) + 1
    expected = torch.func.jvp(torch.atan2, (x.detach(), y.detach()), moves)[1]
    assert gap(by_two_vjps(out.grad_fn, *moves)[0], expected) < 1e-12
    several = torch.cat(out.split(1))  # a node of several outputs
    assert gap(jvp_through_graph(several, {x: moves[0], y: moves[1]}), expected) < 1e-12


def test_a_parameter_changed_in_place_in_between_is_noticed() -> None:
    forward = make_forward(made("convnet"))
    losses = forward.losses
    with torch.no_grad():
        forward.model.classifier.weight.add_(1)
    v = {p: torch.ones_like(p) for p in forward.params.values()}
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        jvp_through_graph(losses, v)


def test_few_tangents_live_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a residual net, an operation's inputs and output, and the shortcut's."""
    living: list[weakref.ref[torch.Tensor]] = []
    counts = []
    original = graph_module._apply

    def watched(*given: object) -> object:
        answer = original(*given)
        living.extend(weakref.ref(change) for change in answer)
        counts.append(sum(one() is not None for one in living))
        return answer

    monkeypatch.setattr(graph_module, "_apply", watched)
    forward = make_forward(made("resnet32"), JvpSolver(strategies=[through_graph]))
    forward.jvp(direction(forward))
    assert len(counts) > 100
    assert max(counts) <= 4


def test_no_pass_is_hidden() -> None:
    """Forward passes, and backward passes through the logits, of one step of each method after the first."""
    expected = {"l2rw": (2, 2), "direct": (2, 3), "mw-net": (2, 3)}
    for method, (forwards, backwards) in expected.items():
        model, jvp_solver, counts = made("resnet32"), JvpSolver(), [0, 0]

        def count(_: object, __: object, logits: torch.Tensor, counts: list[int] = counts) -> None:
            counts[0] += 1

            def back(gradient: torch.Tensor) -> None:
                counts[1] += 1

            if logits.requires_grad:
                logits.register_hook(back)

        model.register_forward_hook(count)
        run = configure(REWEIGHTERS[method], []).begin(
            start_of(torch.arange(6), stream=torch.Generator().manual_seed(0))
        )
        for _ in range(2):
            counts[:] = [0, 0]
            forward = make_forward(model, jvp_solver, dtype=torch.float32)
            weights = run.step(forward, forward.batch, torch.arange(6), 0.1).weights
            (weights * forward.losses).sum().backward()
        assert counts == [forwards, backwards], method


@pytest.mark.parametrize("net", ["resnet32", "in place"])
def test_product_and_its_check_disturb_nothing(net: str) -> None:
    forward, twin = make_forward(made(net)), make_forward(made(net))
    twin_losses = twin.losses
    state = torch.get_rng_state()
    forward.jvp(direction(forward))
    forward.jvp(direction(forward))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(forward.losses, twin_losses)
    for name, value in forward.model.state_dict().items():
        assert torch.equal(value, twin.model.state_dict()[name]), (
            name
        )  # one pass moved the running statistics
    assert all(p.grad is None and p.requires_grad for p in forward.params.values())


@pytest.mark.parametrize("net", ["lenet", "resnet32", "wide resnet", "group norm", "transformer"])
def test_in_bfloat16_it_is_as_exact_as_the_graph(net: str) -> None:
    exact = make_forward(made(net), JvpSolver(strategies=[through_graph]))
    rough = make_forward(made(net), JvpSolver(strategies=[through_graph]), dtype=torch.float32, autocast=True)
    v = direction(exact)
    v32 = {name: value.float() for name, value in v.items()}
    with no_flash():
        expected = exact.jvp(v)
        found = rough.jvp(v32)
        same_graph = double_backward(passes_of(rough), v32)
    assert found.dtype == torch.float32
    own_error = gap(same_graph.double(), expected)
    assert own_error > 1e-4
    assert gap(found, same_graph) <= 2 * own_error


class Doubled(torch.autograd.Function):
    """Twice its input, with a backward pass and no forward mode."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        pass

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient


class DoubledForward(Doubled):
    """And with forward mode."""

    @staticmethod
    def jvp(ctx: object, moved: torch.Tensor) -> torch.Tensor:
        return 2 * moved


class DoubledOnce(Doubled):
    """And with a backward pass that cannot be differentiated."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient


class CustomNet(nn.Module):
    """With an operation that torch does not know."""

    def __init__(self, operation: type[Doubled]) -> None:
        super().__init__()
        self.operation = operation
        self.conv, self.classifier = nn.Conv2d(3, 6, 3), nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.operation.apply(self.conv(x).tanh().mean((2, 3))))


@pytest.mark.parametrize(
    ("operation", "autocast", "strategy", "tolerance"),
    [
        (DoubledForward, False, dual_numbers, 1e-6),
        (DoubledOnce, False, central_differences, 1e-2),
        (Doubled, True, double_backward, 1e-6),
    ],
)
def test_without_a_rule_another_way_is_taken_and_said_once(
    operation: type[Doubled], autocast: bool, strategy: Callable[..., torch.Tensor], tolerance: float
) -> None:
    said: list[str] = []
    with seeded_globals(2):
        model = CustomNet(operation)
    jvp_solver = JvpSolver(said.append)
    for _ in range(2):
        forward = make_forward(model, jvp_solver, dtype=torch.float32, autocast=autocast)
        v = direction(forward)
        s = forward.jvp(v)
    reference = make_forward(CustomNet(DoubledForward), dtype=torch.float32, autocast=autocast)
    reference.model.load_state_dict(model.state_dict())
    assert gap(s, dual_numbers(passes_of(reference), v)) < (2e-2 if autocast else tolerance)
    assert jvp_solver.strategies[0] is strategy
    (message,) = said
    assert message.startswith(
        f"Meta gradients come from {STRATEGIES[strategy]}; not from {STRATEGIES[through_graph]} ("
    )
    assert f"{operation.__name__}Backward" in message


def test_attention_by_the_fused_kernel_falls_back_to_differences() -> None:
    said: list[str] = []
    with seeded_globals(2):
        model = Transformer(dropout=0)
    forward = make_forward(model, JvpSolver(said.append))
    v = direction(forward)
    s = forward.jvp(v)
    with no_flash():
        assert gap(s, make_forward(model, JvpSolver(strategies=[through_graph])).jvp(v)) < 1e-6
    assert said[0].startswith(f"Meta gradients come from {STRATEGIES[central_differences]}")
    assert "ScaledDotProductFlashAttention" in said[0]


def test_where_no_way_leads_through_it_is_said() -> None:
    forward = make_forward(CustomNet(DoubledOnce), dtype=torch.float32, autocast=True)
    with pytest.raises(UsageError, match="half precision is too coarse") as refused:
        forward.jvp(direction(forward))
    assert refused.value.hint


def test_a_wrong_rule_is_found_on_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "ReluBackward0", lambda node, moved: 1.001 * node(moved))
    said: list[str] = []
    forward = make_forward(made("resnet32"), JvpSolver(said.append))
    v = direction(forward)
    assert torch.equal(forward.jvp(v), dual_numbers(passes_of(forward), v))
    assert "(differs by" in said[0]


def test_a_torch_that_saves_other_tensors_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "AddmmBackward0", lambda node, *moved: node._saved_under_another_name)
    said: list[str] = []
    forward = make_forward(made("convnet"), JvpSolver(said.append))
    v = direction(forward)
    assert torch.equal(forward.jvp(v), dual_numbers(passes_of(forward), v))
    assert "AddmmBackward0: " in said[0]


@pytest.mark.parametrize("operation", [None, DoubledForward])
def test_a_training_says_it_once(operation: type[Doubled] | None, tiny_batches: Batches) -> None:
    model = made("convnet") if operation is None else CustomNet(operation)
    stem = nn.Conv2d(1, 3, 1)
    plan = TrainingConfig(2, 6, 0.01, 0.9, 0.0, "constant", augment="none", amp=False, seed=0)
    stream = torch.Generator().manual_seed(0)
    start = start_of(torch.arange(24) % 3, epochs=2, lr=0.01, stream=stream)
    trainee = start_training(
        nn.Sequential(stem, model), plan, configure(REWEIGHTERS["l2rw"], []).begin(start)
    )
    reporter, ids = Listener(), torch.arange(24)
    list(
        train(
            trainee,
            tiny_batches,
            plan,
            ids=ids[8:],
            bought=ids[:8],
            meta_batch_size=6,
            report=reporter,
            what="reweight",
        )
    )
    assert [note.split(";")[0] for note in reporter.notes] == (
        [] if operation is None else [f"Meta gradients come from {STRATEGIES[dual_numbers]}"]
    )


def test_memory_that_runs_out_is_not_taken_for_a_missing_rule() -> None:
    def exhausted(passes: LossPasses, v: object) -> torch.Tensor:
        raise RuntimeError("can't allocate memory")

    forward = make_forward(made("convnet"), JvpSolver(strategies=[exhausted, dual_numbers]))
    with pytest.raises(RuntimeError, match="can't allocate"):
        forward.jvp(direction(forward))


@pytest.mark.parametrize("net", ["lenet", "resnet32"])
def test_central_differences_come_close_and_zero_stays_zero(net: str) -> None:
    forward = make_forward(made(net))
    v = direction(forward)
    assert gap(central_differences(passes_of(forward), v), forward.jvp(v)) < 1e-5
    nothing = {name: torch.zeros_like(value) for name, value in v.items()}
    assert torch.equal(central_differences(passes_of(forward), nothing), torch.zeros(6, dtype=torch.float64))
    with pytest.raises(NoRule, match="half precision"):
        central_differences(passes_of(forward)._replace(autocast=True), v)
