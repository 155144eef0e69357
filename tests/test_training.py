"""The training loop: resumed runs, the schedule, the order of samples, augmentation, and how it fails."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import METHODS, EveryState, Listener, plan, start_of
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from metaselect.data.stored.preprocess import Preprocess
from metaselect.errors import ConditionUnmet
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.build import build_model
from metaselect.random import derive_seed, generator
from metaselect.reweighting.base import MethodRun, StepObjective, equal_weights
from metaselect.reweighting.uniform import UniformRun
from metaselect.run.layout import FEATURES, IMAGES
from metaselect.stages.reweight.failure_check import BoughtScore, ModelScore, failure_reason, score_start
from metaselect.training.augment import augmentation, random_crop_flip, strong
from metaselect.training.batches import Batches
from metaselect.training.checkpoint import load_state
from metaselect.training.loop import EpochLog, TrainingConfig, TrainState, start_training, train
from metaselect.training.predict import predict
from metaselect.training.saved_models import save_model

BOUGHT = torch.arange(0, 24, 2)
CPU = torch.device("cpu")


def fresh(name: str, resolved: TrainingConfig, *, seed: int = 0) -> TrainState:
    torch.manual_seed(seed)
    stream = torch.Generator().manual_seed(seed)
    start = start_of(
        torch.arange(24) % 3, epochs=resolved.epochs, lr=resolved.lr, bought=BOUGHT, stream=stream
    )
    return start_training(EveryState(), resolved, METHODS[name].begin(start))


def epochs_of(trainee: TrainState, batches: Batches, resolved: TrainingConfig, **options: Any) -> Any:
    meta = not isinstance(trainee.method, UniformRun)
    defaults: dict[str, Any] = {
        "ids": torch.arange(1, 24, 2) if meta else torch.arange(24),
        "bought": BOUGHT,
        "meta_batch_size": 6 if meta else 0,
        "report": Listener(),
        "what": "reweight",
    }
    return train(trainee, batches, resolved, **{**defaults, **options})


def everything(trainee: TrainState) -> dict[str, torch.Tensor]:
    """All that training changes, by name."""
    found = dict(trainee.model.state_dict())
    for position, parameter in enumerate(trainee.model.parameters()):
        for key, value in trainee.optimiser.state[parameter].items():
            found[f"{key}.{position}"] = value
    return found | trainee.method.state_dict()


def test_a_finished_run_yields_no_more(tiny_batches: Batches) -> None:
    trainee = fresh("uniform", plan())
    list(epochs_of(trainee, tiny_batches, plan()))
    assert list(epochs_of(trainee, tiny_batches, plan())) == []


@pytest.mark.parametrize("content", [None, b"", b"no safetensors"])
def test_no_state_or_a_foreign_one_starts_at_the_beginning(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "resume.safetensors"
    if content is not None:
        path.write_bytes(content)
    trainee = fresh("direct", plan())
    before = {key: value.clone() for key, value in everything(trainee).items()}
    assert load_state(trainee, path) == []
    assert trainee.epoch == 0
    assert all(torch.equal(value, before[key]) for key, value in everything(trainee).items())


def test_rate_of_every_step() -> None:
    cosine, step, constant = (plan(schedule=name, lr=0.4) for name in ("cosine", "step", "constant"))
    assert [cosine.lr_at(number, 4) for number in range(4)] == pytest.approx(
        [0.4, 0.2 * (1 + math.sqrt(0.5)), 0.2, 0.2 * (1 - math.sqrt(0.5))]
    )
    assert [step.lr_at(number, 8) for number in range(8)] == pytest.approx(
        4 * [0.4] + 2 * [0.04] + 2 * [0.004]
    )
    assert [constant.lr_at(number, 8) for number in range(8)] == [0.4] * 8
    ramped = replace(constant, lr_ramp=0.5)
    assert [ramped.lr_at(number, 8) for number in range(8)] == pytest.approx([0.1, 0.2, 0.3, *[0.4] * 5])
    assert [replace(cosine, lr_ramp=0.01).lr_at(number, 4) for number in range(4)] == [
        cosine.lr_at(number, 4) for number in range(4)
    ]
    for steps in (1, 2, 3, 1000):
        assert min(cosine.lr_at(number, steps) for number in range(steps)) > 0


class Observer(MethodRun):
    """A meta re-weighter that weighs all alike and notes what it is shown."""

    def __init__(self) -> None:
        self.ids: list[torch.Tensor] = []
        self.rates: list[float] = []
        self.meta_batches: list[Batch] = []
        self.inputs: list[torch.Tensor] = []
        self.ended: list[int] = []

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        assert meta_batch is not None
        self.ids.append(ids)
        self.rates.append(lr)
        self.meta_batches.append(meta_batch)
        self.inputs.append(forward.batch.inputs)
        return StepObjective(equal_weights(ids))

    def epoch_end(self, epoch: int) -> None:
        self.ended.append(epoch)


def points(n: int) -> Batches:
    """Feature k of point k is 1, so that a batch says who is in it."""
    preprocess = Preprocess(FEATURES, (), "", (0.0,) * n, (1.0,) * n)
    labels = np.arange(n) % 2
    return Batches(np.eye(n, dtype=np.float32), labels, preprocess, device=CPU, channels=n)


def observed(batches: Batches, resolved: TrainingConfig, **options: Any) -> Observer:
    watcher = Observer()
    model = nn.Sequential(nn.Flatten(), nn.Linear(batches.raw[0].numel(), 3))
    list(epochs_of(start_training(model, resolved, watcher), batches, resolved, **options))
    return watcher


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(1, 12))
def test_an_epoch_visits_every_sample_once_in_equal_parts(n: int, batch_size: int) -> None:
    ids = torch.arange(40)[torch.randperm(40, generator=torch.Generator().manual_seed(1))[:n]]
    resolved = plan(epochs=2, batch_size=batch_size)
    watcher = observed(points(40), resolved, ids=ids, bought=torch.tensor([0]), meta_batch_size=1)
    steps = -(-n // batch_size)
    sizes = [len(part) for part in watcher.ids]
    assert len(sizes) == 2 * steps
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) > 1 or batch_size < 3
    for epoch in (watcher.ids[:steps], watcher.ids[steps:]):
        assert torch.equal(torch.cat(epoch).sort().values, ids.sort().values)
    assert watcher.rates == [resolved.lr_at(number, 2 * steps) for number in range(2 * steps)]
    assert watcher.ended == [1, 2]


def test_a_step_sees_the_samples_that_it_names() -> None:
    watcher = observed(points(24), plan())
    for ids, inputs in zip(watcher.ids, watcher.inputs, strict=True):
        assert torch.equal(inputs.argmax(1), ids)
    for batch in watcher.meta_batches:
        members = batch.inputs.argmax(1)
        assert len(set(members.tolist())) == 6
        assert set(members.tolist()) <= set(BOUGHT.tolist())
        assert torch.equal(batch.labels, members % 2)
    seen = [frozenset(batch.inputs.argmax(1).tolist()) for batch in watcher.meta_batches]
    assert len(set(seen)) > 1


class OwnOrder(Observer):
    """Visits other samples in each epoch, some of them twice, and has no meta batch."""

    orders = (torch.tensor([3, 3, 5, 1, 1, 7, 9]), torch.tensor([11, 2, 4]))

    def order(self, ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        assert torch.equal(ids, torch.arange(24))
        return self.orders[len(self.ended)]

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        assert meta_batch is None
        self.ids.append(ids)
        self.rates.append(lr)
        losses = torch.arange(1.0, len(ids) + 1) + 0 * forward.losses
        return StepObjective(equal_weights(ids), losses=losses)


def test_a_method_may_choose_the_samples_of_an_epoch_and_the_loss() -> None:
    resolved, watcher = plan(epochs=2, batch_size=4), OwnOrder()
    state = start_training(nn.Sequential(nn.Flatten(), nn.Linear(24, 2)), resolved, watcher)
    history = list(
        epochs_of(state, points(24), resolved, ids=torch.arange(24), bought=BOUGHT[:0], meta_batch_size=0)
    )
    assert [ids.tolist() for ids in watcher.ids] == [[3, 3, 5, 1], [1, 7, 9], [11, 2, 4]]
    # Two steps in the first epoch, one in the second: the rate falls with the share of the training that is over.
    assert watcher.rates == [resolved.lr_at(0, 4), resolved.lr_at(1, 4), resolved.lr_at(1, 2)]
    assert [log.loss for log in history] == pytest.approx([(4 * 2.5 + 3 * 2) / 7, 2])
    assert [log.mean_weight for log in history] == pytest.approx([1, 1])


def test_order_meta_batches_and_noise_are_streams_of_their_own(tiny_batches: Batches) -> None:
    def order(watcher: Observer) -> list[list[int]]:
        return [ids.tolist() for ids in watcher.ids]

    def meta_labels(watcher: Observer) -> list[list[int]]:
        return [batch.labels.tolist() for batch in watcher.meta_batches]

    usual = observed(tiny_batches, plan())
    for other in (
        observed(tiny_batches, plan(augment="none")),
        observed(tiny_batches, plan(lr=0.5, momentum=0.0)),
    ):
        assert order(other) == order(usual)
        assert meta_labels(other) == meta_labels(usual)
    assert order(observed(tiny_batches, plan(), meta_batch_size=3)) == order(usual)
    assert order(observed(tiny_batches, plan(), bought=BOUGHT[:4], meta_batch_size=4)) == order(usual)
    assert order(observed(tiny_batches, plan(seed=1))) != order(usual)
    per_epoch = len(usual.ids) // 4
    assert order(usual)[:per_epoch] != order(usual)[per_epoch : 2 * per_epoch]


def test_streams_have_names() -> None:
    seeds = [
        derive_seed(0, "order", 1),
        derive_seed(0, "order", 2),
        derive_seed(0, "meta", 1),
        derive_seed(1, "order", 1),
    ]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert torch.equal(
        torch.rand(3, generator=generator(0, "order", 1)), torch.rand(3, generator=generator(0, "order", 1))
    )


def test_history_of_the_control_by_hand(tiny_batches: Batches) -> None:
    """Plain SGD without augmentation, written out."""
    resolved = plan(
        epochs=1, augment="none", momentum=0.0, weight_decay=0.0, schedule="constant", batch_size=12
    )
    model = build_model("convnet", (1, 8, 8), 3, seed=0)
    twin = build_model("convnet", (1, 8, 8), 3, seed=0)
    (log,) = epochs_of(start_training(model, resolved, UniformRun()), tiny_batches, resolved)
    order = torch.randperm(24, generator=generator(0, "order", 1))
    losses, hits = 0.0, 0
    for ids in (order[:12], order[12:]):
        inputs, labels = tiny_batches.get(ids)
        logits = twin(inputs)
        loss = F.cross_entropy(logits, labels)
        losses += loss.item() * 12
        hits += int((logits.argmax(1) == labels).sum())
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient
    assert log == EpochLog(1, 0.05, pytest.approx(losses / 24), hits / 24, pytest.approx(1), 0)
    for parameter, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)


def test_divergence_names_the_epoch_and_the_remedy(tiny_batches: Batches) -> None:
    resolved = plan(lr=1e30, momentum=0.0)
    with pytest.raises(ConditionUnmet, match="reweight diverged in epoch 1") as unmet:
        list(epochs_of(fresh("uniform", resolved), tiny_batches, resolved))
    assert unmet.value.exit_code == 1
    assert "--lr" in unmet.value.hint
    assert "1e+30" in unmet.value.hint


GOOD, BETTER, UNKNOWN = BoughtScore(0.3, 0.9), BoughtScore(0.2, 0.95), BoughtScore(math.nan, math.nan)


def score(on_bought: BoughtScore, *, balanced: float | None = None, constant: bool = False) -> ModelScore:
    """As balanced as it is right, unless said otherwise."""
    return ModelScore(on_bought, on_bought.accuracy if balanced is None else balanced, constant)


@pytest.mark.parametrize(
    ("zero_batches", "before", "after", "constant", "words"),
    [
        (0.2, GOOD, GOOD, False, ["in 20% of the batches every weight was 0"]),
        # Decay alone does that.
        (0.2, GOOD, BoughtScore(0.2, 0.9), False, ["it did not learn the bought labels"]),
        (0.2, GOOD, BETTER, True, ["in 20% of the batches"]),
        (1.0, GOOD, BETTER, False, ["in 100% of the batches"]),
        (1.0, UNKNOWN, UNKNOWN, False, ["in 100% of the batches"]),
        (0.0, BETTER, GOOD, True, ["one class to every sample"]),
        (0.0, BETTER, GOOD, False, ["90% of the bought labels right", "(95%)"]),
    ],
)
def test_cause_of_death(
    zero_batches: float, before: BoughtScore, after: BoughtScore, constant: bool, words: list[str]
) -> None:
    sentence = failure_reason(zero_batches, score(before), score(after, constant=constant))
    assert sentence.startswith("The run is dead")
    assert all(part in sentence for part in [*words, "--lr"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (score(GOOD), score(GOOD)),
        (score(GOOD), score(BETTER)),
        (score(UNKNOWN), score(UNKNOWN)),
        # One class to everything, but so did its start.
        (score(BoughtScore(0.2, 0.9), constant=True), score(GOOD, constant=True)),
        (score(BoughtScore(0.4, 0.95)), score(GOOD)),  # fewer right, but a lower loss
        (score(BoughtScore(0.2, 0.9)), score(GOOD)),  # a higher loss, but as many right
        (score(BETTER, balanced=0.7), score(GOOD, balanced=0.75)),  # fewer right, but of the frequent classes
    ],
)
def test_alive(before: ModelScore, after: ModelScore) -> None:
    assert failure_reason(0.19, before, after) == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [(GOOD, BETTER), (BoughtScore(0.3, 1.0), BoughtScore(0.2, 1.0))],
)
def test_a_run_that_learnt_the_bought_labels_is_alive_whatever_weighed_nothing(
    before: BoughtScore, after: BoughtScore
) -> None:
    assert failure_reason(0.99, score(before, constant=True), score(after)) == ""


def test_a_start_is_judged_by_its_bought_samples_and_by_the_classes_that_it_gives(
    tiny_batches: Batches,
) -> None:
    model = fresh("uniform", plan()).model
    with torch.no_grad():
        logits = model.eval()(tiny_batches.get(BOUGHT).inputs)
    (loss, accuracy), balanced, constant = score_start(model, tiny_batches, BOUGHT)
    assert loss == pytest.approx(float(F.cross_entropy(logits, BOUGHT % 3)))
    hits = logits.argmax(1) == BOUGHT % 3
    assert accuracy == float(hits.double().mean())
    by_class = [float(hits[k == BOUGHT % 3].double().mean()) for k in (BOUGHT % 3).unique()]
    assert balanced == pytest.approx(sum(by_class) / len(by_class))
    assert not constant
    nn.init.zeros_(model.layers[-1].weight)
    (loss, accuracy), balanced, constant = score_start(model, tiny_batches, BOUGHT[:0])
    assert all(map(math.isnan, (loss, accuracy, balanced)))
    assert constant


@pytest.mark.parametrize(("height", "width", "pad"), [(6, 6, 1), (8, 12, 1), (16, 16, 2), (32, 32, 4)])
def test_every_augmented_image_is_a_crop_or_its_mirror(height: int, width: int, pad: int) -> None:
    """Brute force over all places of the window on the zero-padded image."""
    draw = torch.Generator().manual_seed(3)
    images = torch.randint(1, 256, (60, 2, height, width), generator=draw, dtype=torch.uint8)
    shifted = random_crop_flip(images, slice(None), len(images), draw)
    assert shifted.shape == images.shape
    assert shifted.dtype == torch.uint8
    seen = set()
    for image, found in zip(images, shifted, strict=True):
        padded = F.pad(image, (pad, pad, pad, pad))
        matches = [
            (top, left, flip)
            for top, left, flip in itertools.product(range(2 * pad + 1), range(2 * pad + 1), (False, True))
            if torch.equal(
                found,
                (lambda window, flip: window.flip(-1) if flip else window)(
                    padded[:, top : top + height, left : left + width], flip
                ),
            )
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    tops, lefts, flips = (set(column) for column in zip(*seen, strict=True))
    assert tops == lefts == set(range(2 * pad + 1))
    assert flips == {False, True}


@pytest.mark.parametrize("kind", ["weak", "strong"])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_is_seeded_and_leaves_the_global_generator_alone(kind: str, channels: int) -> None:
    images = torch.randint(0, 256, (5, channels, 8, 8), generator=generator(0, "images"), dtype=torch.uint8)
    before = torch.get_rng_state()
    once, again, other = (
        augmented(images, slice(None), len(images))
        for seed in (1, 1, 2)
        if (augmented := augmentation(kind, generator(seed, "augment")))
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert once.shape == images.shape
    assert once.dtype == torch.uint8
    assert torch.equal(torch.get_rng_state(), before)


def test_none_is_no_augmentation() -> None:
    assert augmentation("none", generator(0, "augment")) is None


def test_strong_augmentation_cuts_a_square_out_of_every_image_and_distorts_it_in_its_own_way() -> None:
    """White images, which most operations leave white: what is black besides the borders of a shift is the square."""
    white = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    black = (strong(white, slice(None), len(white), generator(0, "augment")) == 0).all(1)  # (200, 32, 32)
    holes = black[:, 4:28, 4:28].flatten(1).float().mean(1)
    assert (black.flatten(1).float().mean(1) >= 0.02).all()
    assert holes.median() < 0.4
    assert holes.std() > 0.05
    noisy = torch.randint(0, 256, (1, 3, 32, 32), generator=generator(0, "noise"), dtype=torch.uint8)
    copies = strong(noisy.expand(64, -1, -1, -1), slice(None), 64, generator(0, "augment"))
    assert len(torch.unique(copies.flatten(1), dim=0)) == 64


def test_each_augmentation_trains_otherwise(tiny_batches: Batches) -> None:
    logs = []
    for kind in ("none", "weak", "strong", "strong"):
        resolved = plan(epochs=2, augment=kind)
        logs.append(list(epochs_of(fresh("uniform", resolved), tiny_batches, resolved)))
    none, weak, strongly, again = logs
    assert strongly == again
    assert none != weak != strongly != none


def test_batches_are_normalised_and_grey_is_repeated() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (5, 1, 4, 4), dtype=np.uint8)
    preprocess = Preprocess(IMAGES, (4, 4), "L", (0.4,), (0.2,))
    batches = Batches(pixels, np.arange(5), preprocess, device=CPU, channels=3)
    inputs, labels = batches.get(torch.tensor([3, 0]))
    expected = (pixels[[3, 0]] / 255 - 0.4) / 0.2
    assert labels.tolist() == [3, 0]
    assert inputs.shape == (2, 3, 4, 4)
    for channel in range(3):
        np.testing.assert_allclose(inputs[:, channel], expected[:, 0], rtol=1e-5, atol=1e-5)


def test_features_are_normalised_and_never_augmented() -> None:
    values = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    preprocess = Preprocess(FEATURES, (), "", (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    batches = Batches(values, np.arange(5), preprocess, device=CPU, channels=3)
    inputs, _ = batches.get(torch.tensor([4, 1]), torch.Generator())
    np.testing.assert_allclose(inputs, (values[[4, 1]] - [0.1, 0.2, 0.3]) / [1, 2, 4], rtol=1e-5)


def test_pool_pass_by_hand_and_without_a_trace(tiny_batches: Batches) -> None:
    model = fresh("uniform", plan()).model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.tensor([5, 2, 2, 20])
    view = predict(model, tiny_batches, ids)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        probs = model.eval()(tiny_batches.get(ids).inputs).softmax(1)
    torch.testing.assert_close(view.label_prob, probs[torch.arange(4), ids % 3])
    torch.testing.assert_close(view.losses, -probs[torch.arange(4), ids % 3].log())
    torch.testing.assert_close(view.confidence, probs.max(1).values)
    assert torch.equal(view.predicted, probs.argmax(1))
    assert view.accuracy == float((probs.argmax(1) == ids % 3).double().mean())


def test_saved_model_is_the_model_even_with_shared_layers(tmp_path: Path) -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.BatchNorm1d(4))
    save_model(model, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_momentum_means_nesterov() -> None:
    model = nn.Linear(2, 2)
    assert start_training(model, plan(momentum=0.9), UniformRun()).optimiser.param_groups[0]["nesterov"]
    assert not start_training(model, plan(momentum=0.0), UniformRun()).optimiser.param_groups[0]["nesterov"]
