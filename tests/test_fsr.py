"""FSR at work: one step by hand, what a run holds, and that wrong labels lose weight where nothing was bought."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import Listener, plan, predictions_of, start_of
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metaselect.data.stored.preprocess import Preprocess
from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.metrics.ranking import clean_label_auc
from metaselect.models.batch import Batch
from metaselect.models.build import build_model
from metaselect.random import generator
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.fsr import run as fsr
from metaselect.reweighting.fsr.method import FSR
from metaselect.reweighting.fsr.run import FSRRun
from metaselect.reweighting.soft_targets import mixing_factors
from metaselect.run.layout import FEATURES
from metaselect.training.batches import Batches
from metaselect.training.loop import EpochLog, TrainingConfig, TrainState, start_training, train

CLASSES = 3
LABELS = torch.arange(24) % CLASSES
BOUGHT = torch.tensor([0, 3, 6, 9, 12, 1])
SEED = 11


class Net(nn.Module):
    """Has all that a resumed run must bring back: parameters, running statistics, dropout masks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(144, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def net(dropout: float = 0.0) -> Net:
    torch.manual_seed(2)
    made = Net().train()
    made.body[-1].p = dropout
    return made


def begun(*options: str, epochs: int = 5, bought: torch.Tensor | None = None, seed: int = 0) -> FSRRun:
    stream = torch.Generator().manual_seed(seed)
    method = configure(REWEIGHTERS["fsr"], options)
    assert isinstance(method, FSR)
    return method.begin(start_of(LABELS, epochs=epochs, bought=bought, stream=stream))


def epochs_of(
    trainee: TrainState, batches: Batches, resolved: TrainingConfig, bought: torch.Tensor | None = None
) -> Iterator[EpochLog]:
    bought = torch.empty(0, dtype=torch.int64) if bought is None else bought
    ids = torch.tensor([i for i in range(len(batches)) if i not in bought])
    return train(
        trainee,
        batches,
        resolved,
        ids=ids,
        bought=bought,
        meta_batch_size=7,
        report=Listener(),
        what="fsr",
    )


class Scene:
    """A step of a model that has taken some with momentum, with its batches and pool indices."""

    def __init__(self, batches: Batches) -> None:
        self.model = net()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        self.ids, meta_ids = torch.arange(8), torch.arange(12, 19)
        self.batch, self.meta_batch = batches.get(self.ids), batches.get(meta_ids)
        for part in (torch.arange(8, 16), torch.arange(16, 24)):
            inputs, labels = batches.get(part)
            self.optimiser.zero_grad()
            F.cross_entropy(self.model(inputs), labels).backward()
            self.optimiser.step()
        self.forward = Forward(self.model, self.optimiser, self.batch, seed=SEED)

    def by_second_order(
        self, smoothing: float = 0.0, reward_smoothing: float = 0.0
    ) -> dict[str, torch.Tensor]:
        """What FSR computes in closed form, by differentiating through the virtual step of the whole net's head."""
        count = len(self.ids)
        for layer in self.model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.track_running_stats = False
        with torch.no_grad():
            hidden = self.model.body(torch.cat([self.batch.inputs, self.meta_batch.inputs]))
        for layer in self.model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.track_running_stats = True
        head = self.model.head
        params = {name: value.detach().requires_grad_() for name, value in head.named_parameters()}
        weights = torch.full((count,), 1 / count, requires_grad=True)
        logits = functional_call(head, params, (hidden[:count],))
        labels = self.batch.labels
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        slopes = torch.autograd.grad((weights * losses).sum(), list(params.values()), create_graph=True)
        ahead = {
            name: value
            - 0.1
            * (slope + 0.01 * value + 0.9 * self.optimiser.state[getattr(head, name)]["momentum_buffer"])
            for (name, value), slope in zip(params.items(), slopes, strict=True)
        }
        meta_logits = functional_call(head, ahead, (hidden[count:],))
        meta_loss = F.cross_entropy(meta_logits, self.meta_batch.labels, label_smoothing=reward_smoothing)
        (g,) = torch.autograd.grad(meta_loss, weights)
        behind = functional_call(head, ahead, (hidden[:count],))
        return {
            "g": g,
            "logits": logits.detach(),
            "loss": losses.detach(),
            "ahead": F.cross_entropy(behind, labels, reduction="none", label_smoothing=smoothing).detach(),
        }


def test_one_step_without_mixup_by_second_order(tiny_batches: Batches) -> None:
    scene = Scene(tiny_batches)
    expected = scene.by_second_order()
    run = begun("mixup=false", "deferral=0", "margin=paper", "relabel=paper")
    weights, targets, _ = run.step(scene.forward, scene.meta_batch, scene.ids, 0.1)
    rectified = (-expected["g"]).clamp(min=0)
    torch.testing.assert_close(weights, rectified / (rectified.sum() + 1e-5))
    assert 0 < int((weights > 0).sum()) < 8
    assert targets is not None
    # Nothing was seen before, so the model's own labels are uniform; p = 2.
    own = F.one_hot(scene.batch.labels, CLASSES) * weights[:, None]
    torch.testing.assert_close(targets, own + 2 / 8 / CLASSES)
    torch.testing.assert_close(run.history.scores[scene.ids], 0.1 * (expected["loss"] - expected["ahead"]))
    torch.testing.assert_close(run.kept[scene.ids], 0.9 * expected["logits"])
    assert not run.kept[8:].any()
    torch.testing.assert_close(run.recent.used[0, scene.ids], (8 * weights).clamp(max=1))


def test_smoothing_and_shifted_weights_by_second_order(tiny_batches: Batches) -> None:
    scene = Scene(tiny_batches)
    expected = scene.by_second_order(0.1, 0.2)
    options = [
        "mixup=false",
        "deferral=0",
        "pseudo=0",
        "weights=shift",
        "smoothing=0.1",
        "reward_smoothing=0.2",
    ]
    weights, targets, _ = begun(*options).step(scene.forward, scene.meta_batch, scene.ids, 0.1)
    shifted = expected["g"].max() - expected["g"] + 1 / 8
    torch.testing.assert_close(weights, shifted / (shifted.sum() + 1e-5))
    smooth = F.one_hot(scene.batch.labels, CLASSES) * 0.9 + 0.1 / CLASSES
    torch.testing.assert_close(targets, smooth * weights[:, None])


@pytest.mark.parametrize("relabel", ["paper", "released"])
def test_one_step_with_mixup_by_hand(relabel: str, tiny_batches: Batches) -> None:
    scene = Scene(tiny_batches)
    expected = scene.by_second_order()
    run = begun("deferral=0", f"relabel={relabel}")
    weights, targets, _ = run.step(scene.forward, scene.meta_batch, scene.ids, 0.1)
    draw = generator(SEED, "mixup")
    factors = mixing_factors(8, draw)
    partners = torch.randperm(8, generator=draw)
    inputs, labels = scene.batch.inputs, F.one_hot(scene.batch.labels, CLASSES)
    mixed = factors[:, None, None, None] * inputs + (1 - factors[:, None, None, None]) * inputs[partners]
    soft = factors[:, None] * labels + (1 - factors[:, None]) * labels[partners]
    rows = torch.cat([mixed, inputs]) if relabel == "paper" else mixed
    second = torch.full((8, CLASSES), 2 / 8 / CLASSES)
    weighted = soft * weights[:, None]
    torch.testing.assert_close(
        targets, torch.cat([weighted, second]) if relabel == "paper" else weighted + second
    )
    logits = Scene(tiny_batches).model(rows)
    torch.testing.assert_close(scene.forward.logits, logits)
    mixed_loss = F.cross_entropy(logits[:8], soft, reduction="none")
    torch.testing.assert_close(run.history.scores[scene.ids], 0.1 * (mixed_loss - expected["ahead"]).detach())
    seen = expected["logits"] if relabel == "paper" else logits[:8].detach()
    torch.testing.assert_close(run.kept[scene.ids], 0.9 * seen)


@pytest.mark.parametrize("relabel", ["paper", "released"])
@pytest.mark.parametrize("mixup", ["true", "false"])
def test_one_pass_a_step_moves_the_running_statistics(
    mixup: str, relabel: str, tiny_batches: Batches
) -> None:
    scene = Scene(tiny_batches)
    twin = Scene(tiny_batches).model
    run = begun("deferral=0", f"mixup={mixup}", f"relabel={relabel}")
    run.step(scene.forward, scene.meta_batch, scene.ids, 0.1)
    twin(scene.forward._inputs)
    assert len(scene.forward.logits) == (16 if mixup == "true" and relabel == "paper" else 8)
    for name, value in scene.model.named_buffers():
        assert torch.equal(value, dict(twin.named_buffers())[name]), name


def test_deferral_weighs_all_alike_and_still_takes_note(tiny_batches: Batches) -> None:
    scene = Scene(tiny_batches)
    run = begun("deferral=0.4", "relabel=paper")
    assert run.deferred == 2
    for epoch in range(4):
        forward = Forward(scene.model, scene.optimiser, scene.batch, seed=SEED)
        weights, targets, _ = run.step(forward, scene.meta_batch, scene.ids, 0.1)
        assert targets is not None
        uniform = torch.equal(weights, torch.full((8,), 1 / 8))
        assert (uniform, len(targets)) == ((True, 8) if epoch < 2 else (False, 16))
        assert run.history.visits[scene.ids].tolist() == [epoch + 1] * 8
        run.epoch_end(epoch + 1)


@pytest.mark.parametrize(
    ("deferral", "epochs", "expected"), [(1.0, 5, 4), (0.15625, 128, 20), (0.8, 200, 160)]
)
def test_epochs_of_deferral(deferral: float, epochs: int, expected: int) -> None:
    assert begun(f"deferral={deferral}", epochs=epochs).deferred == expected


def test_bought_samples_never_leave_the_dictionary() -> None:
    run = begun("dictionary=12", "share=1", bought=BOUGHT)
    for _ in range(3):
        found = run.dictionary
        assert torch.equal(found[: len(BOUGHT)], BOUGHT)
        assert len(set(found.tolist())) == len(found)
        # Four places a class: five of class 0 were bought, one of class 1.
        assert torch.bincount(LABELS[found]).tolist() == [5, 4, 4]
        run.history.scores.uniform_(-2, -1, generator=torch.Generator().manual_seed(len(found)))
        run.history.visits += 1
        run.epoch_end(1)


def test_without_proxies_classes_with_bought_samples_have_those_alone() -> None:
    run = begun("dictionary=12", "share=1", "proxies=none", bought=BOUGHT)
    for _ in range(2):
        assert torch.equal(run.dictionary[: len(BOUGHT)], BOUGHT)
        assert LABELS[run.dictionary[len(BOUGHT) :]].tolist() == [2] * 4
        run.history.visits += 1
        run.epoch_end(1)
    alone = begun("dictionary=12", "share=1", "proxies=none")
    assert torch.bincount(LABELS[alone.dictionary]).tolist() == [4, 4, 4]


def test_the_last_epoch_of_equal_weights_decides_which_classes_have_proxies(tiny_batches: Batches) -> None:
    run = begun("dictionary=12", "share=1", "deferral=0.4", "relabel=paper", bought=BOUGHT)
    draw, scene = torch.Generator().manual_seed(3), Scene(tiny_batches)
    head, rows = scene.model.head, torch.zeros(CLASSES, CLASSES)
    for epoch in range(2):
        for _ in range(3):
            ids = run.meta_ids(BOUGHT, 10, draw)
            # The last step's visits are those of a network that calls all samples class 1.
            head.bias.data = torch.tensor([0.0, 99.0, 0.0]) if epoch else head.bias.data
            meta = Batch(tiny_batches.get(ids).inputs, LABELS[ids])
            forward = Forward(scene.model, scene.optimiser, scene.batch, seed=SEED)
            _, hidden = forward.joint_hidden(meta)
            with torch.no_grad():
                for row, label, number in zip(
                    head(hidden).softmax(1), meta.labels, ids.tolist(), strict=True
                ):
                    rows[label] += row if number in BOUGHT else 0
            run.step(Forward(scene.model, scene.optimiser, scene.batch, seed=SEED), meta, scene.ids, 0.1)
        run.history.visits += 1
        torch.testing.assert_close(run.proxies.sums, rows)
        assert run.proxies.open
        assert torch.bincount(LABELS[run.dictionary]).tolist() == [5, 4, 4]
        run.epoch_end(epoch + 1)
        rows.zero_()
    # Bought samples of class 0 are called 1, as often as those of class 1 are, and no more.
    assert not run.proxies.open
    assert run.describe() == {"classes_without_proxies": [0]}
    assert "in 1 of 3 classes" in run.sentence()
    run.epoch_end(3)
    assert torch.bincount(LABELS[run.dictionary]).tolist() == [5, 4, 4]
    other = begun("dictionary=12", "share=1", "deferral=0.4", "relabel=paper", bought=BOUGHT)
    other.load_state_dict(run.state_dict())
    assert (other.proxies.open, other.describe()) == (False, run.describe())


def test_who_was_never_visited_cannot_enter_the_dictionary() -> None:
    run = begun("dictionary=24", "share=1")
    assert sorted(run.dictionary.tolist()) == list(range(24))
    run.history.visits[:5] = 1
    run.epoch_end(1)
    assert sorted(run.dictionary.tolist()) == [0, 1, 2, 3, 4]


def test_reward_batches_come_from_the_dictionary_with_given_labels() -> None:
    run = begun("dictionary=6", "share=1")
    draw = torch.Generator().manual_seed(4)
    batches = [run.meta_ids(run.labels.bought, 6, draw).tolist() for _ in range(5)]
    assert all(sorted(ids) == sorted(run.dictionary.tolist()) for ids in batches)
    assert len({tuple(ids) for ids in batches}) > 1


def test_averaged_parameters_by_hand() -> None:
    run = begun("ema=0.2")
    run.average = {"p": torch.zeros(1)}
    expected = 0.0
    for number in range(4):
        run.after_step({"p": torch.ones(1)})
        share = min(0.2, (1 + number) / (10 + number))
        expected = share * expected + 1 - share
        assert float(run.average["p"]) == pytest.approx(expected)
    assert run.averaged() is run.average
    assert begun().averaged() is None


@pytest.mark.parametrize("pair", ["mixup=false", "mixup=true"])
def test_a_batch_without_weight_leaves_the_parameters_alone(
    pair: str, tiny_batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contrary(*words: Any) -> Any:
        look = look_ahead(*words)
        return look._replace(g=look.g.abs())

    look_ahead = vars(fsr)["look_ahead"]
    monkeypatch.setattr(fsr, "look_ahead", contrary)
    resolved = plan(momentum=0.0, weight_decay=0.0)
    for pseudo in (0, 2):
        trainee = start_training(net(), resolved, begun(pair, "deferral=0", f"pseudo={pseudo}"))
        history = list(epochs_of(trainee, tiny_batches, resolved))
        assert [(log.zero_batches, log.mean_weight) for log in history] == [(1, 0)] * 4
        still = [
            torch.equal(old, new)
            for old, new in zip(net().parameters(), trainee.model.parameters(), strict=True)
        ]
        assert all(still) == (pseudo == 0)


def test_settings_for_long_tails_give_every_sample_weight(tiny_batches: Batches) -> None:
    options = [
        *("weights=shift", "pseudo=0", "mixup=false", "share=1"),
        *("smoothing=0.1", "reward_smoothing=0.1", "deferral=0.5"),
    ]
    resolved = plan()
    run = begun(*options, epochs=4)
    history = list(epochs_of(start_training(net(), resolved, run), tiny_batches, resolved))
    assert [log.zero_batches for log in history] == [0] * 4
    assert run.kept.numel() == 0
    weights = run.pool_weights(predictions_of(torch.zeros(24)))
    assert 0 < weights.min() < weights.max() <= 1


@pytest.mark.parametrize(
    "pair",
    [
        "pusher=none",
        "margin=both",
        "weights=exp",
        "relabel=no",
        "proxies=true",
        "dictionary=0",
        "share=1.1",
        "momentum=-0.1",
        "virtual_rate=0",
        "virtual_rate=inf",
        "deferral=nan",
        "pseudo=-1",
        "temperature=0",
        "ema=2",
        "smoothing=1.5",
    ],
)
def test_bad_hyper_parameter_is_refused_by_name(pair: str) -> None:
    with pytest.raises(UsageError, match=pair.partition("=")[0]) as refused:
        configure(REWEIGHTERS["fsr"], [pair])
    assert refused.value.hint


@pytest.fixture(scope="module")
def noisy_blobs() -> tuple[Batches, torch.Tensor, np.ndarray]:
    """300 points in 3 classes, 40 % of the labels wrong: as given, labels, is clean."""
    draw = np.random.default_rng(5)
    true = np.arange(300) % 3
    inputs = (np.eye(3)[true] * 3 + draw.normal(size=(300, 3))).astype(np.float32)
    wrong = draw.permutation(300) < 120
    labels = np.where(wrong, (true + draw.integers(1, 3, 300)) % 3, true)
    preprocess = Preprocess(FEATURES, (), "", (0.0,) * 3, (1.0,) * 3)
    batches = Batches(inputs, labels, preprocess, device=torch.device("cpu"), channels=3)
    return batches, torch.from_numpy(labels), ~wrong


@pytest.mark.parametrize("pusher", ["meta-margin", "negative-loss", "area-under-margin"])
def test_wrong_labels_lose_weight_where_nothing_was_bought(
    pusher: str, noisy_blobs: tuple[Batches, torch.Tensor, np.ndarray]
) -> None:
    batches, labels, clean = noisy_blobs
    resolved = plan(epochs=25, batch_size=32, lr=0.1, momentum=0.0, augment="none")
    run = FSR(pusher=pusher).begin(start_of(labels, epochs=25, lr=0.1))
    trainee = start_training(build_model("mlp", (3,), 3, seed=0), resolved, run)
    list(epochs_of(trainee, batches, resolved))
    auc = clean_label_auc(run.pool_weights(predictions_of(torch.zeros(300))).numpy(), clean)
    assert auc is not None
    assert auc > 0.85
    assert clean[run.dictionary.numpy()].mean() > 0.9
