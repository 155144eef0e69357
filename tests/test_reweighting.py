"""The contract that every re-weighter keeps, and what single methods promise."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import METHODS, Listener, evidence_of, predictions_of, start_of, trained
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from metaselect.data.stored.preprocess import Preprocess
from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.metrics.ranking import clean_label_auc
from metaselect.models.batch import Batch
from metaselect.models.build import build_model
from metaselect.models.cross_fit import cross_fit
from metaselect.random import generator
from metaselect.registry import REWEIGHTERS, configure, format_value, settings
from metaselect.reweighting.base import MethodRun
from metaselect.reweighting.direct import DirectRun, move_weights
from metaselect.reweighting.evidence import Evidence, Space
from metaselect.reweighting.l2rw import L2RW, L2RWRun, rectify_and_normalise
from metaselect.reweighting.meta_gradient import MetaGradient
from metaselect.run.layout import FEATURES
from metaselect.training.batches import Batches
from metaselect.training.loop import EpochLog, TrainingConfig, backward, start_training, train
from metaselect.training.predict import predict

WEIGHING = [name for name in METHODS if name != "uniform"]
"""Those whose weights tell samples apart."""
BOUGHT = torch.arange(0, 24, 2)


def plan(**changes: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.05,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "augment": "none",
        "amp": False,
        "seed": 0,
    }
    return TrainingConfig(**{**defaults, **changes})


def final_weights(
    name: str,
    batches: Batches,
    *,
    given: Batches | None = None,
    bought: torch.Tensor = BOUGHT,
    model: str = "convnet",
    evidence: Evidence | None = None,
    **changes: Any,
) -> tuple[torch.Tensor, list[EpochLog]]:
    """(n,) weights after a small run, and its history; ``given`` holds given labels where bought ones differ."""
    resolved, n = plan(**changes), len(batches)
    method = METHODS[name]
    shape = tuple(batches.raw.shape[1:])
    net = build_model(model, shape, int(batches.labels.max()) + 1, seed=resolved.seed)
    stream = generator(resolved.seed, "reweight", "method")
    trainee, history = trained(
        method, net, batches, resolved, bought=bought, stream=stream, evidence=evidence
    )
    view = predict(trainee.model, given or batches, torch.arange(n))
    return trainee.method.pool_weights(view), history


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_one_a_sample_in_the_unit_interval(name: str, tiny_batches: Batches) -> None:
    weights, history = final_weights(name, tiny_batches)
    assert weights.shape == (24,)
    assert torch.isfinite(weights).all()
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert [log.epoch for log in history] == [1, 2]
    assert configure(REWEIGHTERS[name], []).weight_kind


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_answer(name: str, tiny_batches: Batches) -> None:
    weights, history = final_weights(name, tiny_batches, augment="weak")
    torch.manual_seed(99)
    again, history_again = final_weights(name, tiny_batches, augment="weak")
    assert torch.equal(weights, again)
    assert history == history_again
    _, other = final_weights(name, tiny_batches, augment="weak", seed=1)
    assert other != history


def forwards(count: int) -> Iterator[tuple[Forward, Batch, torch.Tensor]]:
    """Steps of one model on different batches of 6, with a meta batch and pool indices."""
    model = build_model("mlp", (5,), 3, seed=4).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    draw = torch.Generator().manual_seed(6)
    for _ in range(count):
        inputs, labels = torch.randn(10, 5, generator=draw), torch.randint(3, (10,), generator=draw)
        ids = torch.randperm(20, generator=draw)[:6]
        forward = Forward(model, optimiser, Batch(inputs[:6], labels[:6]))
        yield forward, Batch(inputs[6:], labels[6:]), ids


def begun(name: str, seed: int) -> MethodRun:
    # A method with evidence fits a model when it begins, and again, with the same seed, when it resumes.
    seed = 1 if METHODS[name].needs_evidence else seed
    start = start_of(torch.arange(20) % 3, stream=torch.Generator().manual_seed(seed))
    return METHODS[name].begin(start)


@pytest.mark.parametrize("name", METHODS)
def test_state_round_trip_goes_on_equally(name: str) -> None:
    run, other = begun(name, 1), begun(name, 2)
    steps = list(forwards(6))
    for number, (forward, meta_batch, ids) in enumerate(steps[:4], 1):
        run.step(forward, meta_batch, ids, 0.1)
        run.epoch_end(number)
    saved = {key: value.clone() for key, value in run.state_dict().items()}
    other.load_state_dict(saved)
    assert saved.keys() == other.state_dict().keys()
    for number, (forward, meta_batch, ids) in enumerate(steps[4:], 5):
        expected = run.step(forward, meta_batch, ids, 0.1)
        assert torch.equal(other.step(forward, meta_batch, ids, 0.1).weights, expected.weights)
        run.epoch_end(number)
        other.epoch_end(number)
    for key, value in run.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    predictions = predictions_of(torch.linspace(0, 3, 20))
    assert torch.equal(run.pool_weights(predictions), other.pool_weights(predictions))


@pytest.mark.parametrize("name", METHODS)
def test_the_first_seed_does_not_leak_into_a_loaded_run(name: str) -> None:
    """What a run drew at its start must be in the saved state, or a resumed run is another run."""
    run, other = begun(name, 1), begun(name, 2)
    other.load_state_dict({key: value.clone() for key, value in run.state_dict().items()})
    ((forward, meta_batch, ids),) = forwards(1)
    expected = run.step(forward, meta_batch, ids, 0.1).weights
    assert torch.equal(other.step(forward, meta_batch, ids, 0.1).weights, expected)


@pytest.mark.parametrize("name", METHODS)
def test_step_weights_are_factors_of_the_loss_sum(name: str) -> None:
    ((forward, meta_batch, ids),) = forwards(1)
    weights, targets, losses = begun(name, 1).step(forward, meta_batch, ids, 0.1)
    assert targets is None or losses is None
    assert losses is None or (losses.shape == (6,) and losses.requires_grad)
    assert weights.shape == (6,)
    assert not weights.requires_grad
    assert (weights >= 0).all()
    assert weights.sum() <= 1 + 1e-6  # each is at most 1 / B, or they sum to 1


@pytest.mark.parametrize("name", WEIGHING)
def test_one_flipped_bought_label_changes_the_weights(name: str, tiny_batches: Batches) -> None:
    evidence = evidence_of(tiny_batches.labels, BOUGHT)
    before, _ = final_weights(name, tiny_batches, evidence=evidence)
    tiny_batches.labels[BOUGHT[3]] = (tiny_batches.labels[BOUGHT[3]] + 1) % 3
    after, _ = final_weights(name, tiny_batches, evidence=evidence)
    pool = torch.ones(24, dtype=torch.bool)
    pool[BOUGHT] = False
    assert not torch.equal(before[pool], after[pool])


@pytest.mark.parametrize("name", METHODS)
def test_unknown_option_lists_the_valid_ones(name: str) -> None:
    method = configure(REWEIGHTERS[name], [])
    with pytest.raises(UsageError, match="no-such-key=1") as refused:
        configure(REWEIGHTERS[name], ["no-such-key=1"])
    assert refused.value.exit_code == 2
    for key, value in settings(method).items():
        assert f"{key}={format_value(value)}" in refused.value.hint
    assert settings(method) or "none" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("direct", "step=0"),
        ("direct", "step=-1"),
        ("direct", "step=nan"),
        ("direct", "step=inf"),
        ("direct", "step=large"),
        ("mw-net", "hidden=0"),
        ("mw-net", "hidden=1.5"),
        ("mw-net", "net_lr=0"),
        ("mw-net", "net_lr=nan"),
        ("mw-net", "net_weight_decay=-1"),
        ("mw-net", "net_weight_decay=nan"),
    ],
)
def test_bad_hyper_parameter_is_refused_by_name(name: str, pair: str) -> None:
    with pytest.raises(UsageError, match=pair.partition("=")[0]) as refused:
        configure(REWEIGHTERS[name], [pair])
    assert refused.value.exit_code == 2
    assert refused.value.hint


def test_option_sets_the_field() -> None:
    as_it_is = settings(configure(REWEIGHTERS["mw-net"], []))
    changed = settings(configure(REWEIGHTERS["mw-net"], ["hidden=7", "net_lr=0.5", "lagged=true"]))
    assert changed == {**as_it_is, "hidden": 7, "net_lr": 0.5, "lagged": True}
    assert changed != as_it_is
    assert configure(REWEIGHTERS["direct"], ["step=2"]).step == 2.0


vectors = arrays(
    np.float64, st.integers(1, 12), elements=st.integers(-1000, 1000).map(lambda tenths: tenths / 10)
)


@given(vectors)
def test_rectified_weights_sum_to_one_or_are_all_zero(values: np.ndarray) -> None:
    weights = rectify_and_normalise(torch.from_numpy(values))
    assert torch.equal(weights > 0, torch.from_numpy(values > 0))
    assert (weights >= 0).all()
    total = float(weights.sum())
    assert total == pytest.approx(1) if (values > 0).any() else total == 0


@given(vectors, st.floats(1e-3, 1e3))
def test_rectified_weights_do_not_depend_on_the_unit(values: np.ndarray, unit: float) -> None:
    once, scaled = torch.from_numpy(values), torch.from_numpy(values * unit)
    torch.testing.assert_close(rectify_and_normalise(scaled), rectify_and_normalise(once))


def test_rectified_weights_by_hand() -> None:
    found = rectify_and_normalise(torch.tensor([3.0, -1.0, 0.0, 1.0]))
    assert found.tolist() == [0.75, 0, 0, 0.25]


@given(vectors)
def test_moved_weights_are_clipped_and_follow_the_sign(s: np.ndarray) -> None:
    old = torch.full((len(s),), 0.5, dtype=torch.float64)
    moved = move_weights(old, torch.from_numpy(s), 0.01)
    assert torch.equal(moved, torch.from_numpy(np.minimum(np.maximum(0.5 + 0.01 * s, 0), 1)))


def test_direct_moves_only_the_samples_of_the_batch_and_falls_with_the_rate() -> None:
    ((forward, meta_batch, ids),) = forwards(1)
    start = torch.full((20,), 0.5)
    full, half = (DirectRun(start.clone(), 1.0, MetaGradient(1, "all")) for _ in range(2))
    full.step(forward, meta_batch, ids, 0.1)
    half.step(forward, meta_batch, ids, 0.05)
    others = torch.ones(20, dtype=torch.bool)
    others[ids] = False
    assert torch.equal(full.weights[others], start[others])
    assert (full.weights[ids] != 0.5).all()
    torch.testing.assert_close(full.weights - 0.5, 2 * (half.weights - 0.5), rtol=1e-4, atol=1e-7)


class Contrary:
    """A forward pass whose every sample pulls against the meta loss."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward

    def meta_grad(self, meta_batch: Batch, params: object = None) -> object:
        return self.forward.meta_grad(meta_batch)

    def jvp(self, v: Any) -> torch.Tensor:
        return -self.forward.jvp(v).abs()


def test_l2rw_gives_a_contrary_batch_no_weight() -> None:
    ((forward, meta_batch, ids),) = forwards(1)
    run = begun("l2rw", 1)
    weights = run.step(Contrary(forward), meta_batch, ids, 0.1).weights
    assert torch.equal(weights, torch.zeros(6))
    assert torch.equal(run.pool_weights(predictions_of(torch.zeros(20))), torch.zeros(20))


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.01)])
def test_a_batch_of_zero_weights_leaves_the_step_to_momentum_and_decay(
    momentum: float, decay: float, tiny_batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unmoved(L2RWRun):
        def step(self, forward: Any, *rest: Any) -> Any:
            return super().step(Contrary(forward), *rest)

    resolved = plan(momentum=momentum, weight_decay=decay)
    model = build_model("convnet", (1, 8, 8), 3, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainee = start_training(model, resolved, Unmoved(torch.zeros(3, 24), MetaGradient(1, "all")))
    history = list(
        train(
            trainee,
            tiny_batches,
            resolved,
            ids=torch.arange(1, 24, 2),
            bought=BOUGHT,
            meta_batch_size=8,
            report=Listener(),
            what="l2rw",
        )
    )
    unchanged = [torch.equal(value, before[name]) for name, value in model.state_dict().items()]
    assert all(unchanged) if momentum == decay == 0 else not any(unchanged)
    assert [(log.zero_batches, log.mean_weight, log.loss) for log in history] == [(1, 0, 0)] * 2


def test_l2rw_reports_the_mean_of_its_last_three_epochs() -> None:
    run = L2RW().begin(start_of(torch.arange(20) % 3))
    steps = forwards(15)
    used = torch.zeros(5, 20)
    for epoch in range(5):
        for ids in torch.arange(18).split(6):
            forward, meta_batch, _ = next(steps)
            used[epoch, ids] = (run.step(forward, meta_batch, ids, 0.1).weights * 6).clamp(max=1)
        run.epoch_end(epoch + 1)
        expected = used[max(epoch - 2, 0) : epoch + 1].mean(0)
        torch.testing.assert_close(run.pool_weights(predictions_of(torch.zeros(20))), expected)
    assert expected.max() < 1
    assert torch.equal(expected[18:], torch.zeros(2))  # never visited


def test_weight_net_weighs_by_the_loss_alone() -> None:
    run = begun("mw-net", 1)
    losses = torch.tensor([0.3, 2.0, 0.3, 5.0])
    weights = run.pool_weights(predictions_of(losses))
    assert weights[0] == weights[2] != weights[1]
    assert not weights.requires_grad


def test_uniform_is_plain_cross_entropy() -> None:
    ((forward, _, ids),) = forwards(1)
    run = begun("uniform", 1)
    step = run.step(forward, None, ids, 0.1)
    loss = backward(forward, step)
    twin = build_model("mlp", (5,), 3, seed=4).train()
    expected = F.cross_entropy(twin(forward.batch.inputs), forward.batch.labels)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for mine, other in zip(forward.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    assert run.pool_weights(predictions_of(torch.tensor([0.1, 3.0]))).tolist() == [1, 1]


@pytest.fixture(scope="module")
def noisy_blobs() -> tuple[Batches, Batches, torch.Tensor, np.ndarray]:
    """300 points in 3 classes, 40 % of the labels wrong, 30 bought: repaired, as given, bought, is clean."""
    draw = np.random.default_rng(5)
    true = np.arange(300) % 3
    inputs = (np.eye(3)[true] * 3 + draw.normal(size=(300, 3))).astype(np.float32)
    wrong = draw.permutation(300) < 120
    labels = np.where(wrong, (true + draw.integers(1, 3, 300)) % 3, true)
    bought = np.arange(30)
    repaired = labels.copy()
    repaired[bought] = true[bought]
    preprocess = Preprocess(FEATURES, (), "", (0.0,) * 3, (1.0,) * 3)
    made = [
        Batches(inputs, given, preprocess, device=torch.device("cpu"), channels=3)
        for given in (repaired, labels)
    ]
    return made[0], made[1], torch.from_numpy(bought), ~wrong


@pytest.mark.parametrize("name", WEIGHING)
def test_wrong_labels_lose_weight(
    name: str, noisy_blobs: tuple[Batches, Batches, torch.Tensor, np.ndarray]
) -> None:
    batches, given, bought, clean = noisy_blobs
    inputs, fold = given.raw, torch.arange(300) % 2
    probs = cross_fit(inputs, F.one_hot(given.labels, 3).float(), fold).log_probs.exp()
    evidence = Evidence(given.labels, probs, probs, (Space(inputs, torch.arange(300)),), improving=True)
    weights, _ = final_weights(
        name,
        batches,
        given=given,
        bought=bought,
        evidence=evidence,
        model="mlp",
        epochs=40,
        batch_size=32,
        lr=0.1,
    )
    auc = clean_label_auc(weights.numpy()[30:], clean[30:])
    assert auc is not None
    assert auc > 0.85


def test_hidden_layer_and_losses_belong_to_one_pass() -> None:
    ((forward, _, _),) = forwards(1)
    last = forward.model.layers[-1]
    torch.testing.assert_close(last(forward.hidden), forward.logits)
    torch.testing.assert_close(
        forward.losses, F.cross_entropy(forward.logits, forward.batch.labels, reduction="none")
    )
