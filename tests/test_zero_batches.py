"""Batches in which every weight is 0: nothing but momentum and decay may move, and a run of them is dead or is not."""

from pathlib import Path
from typing import Any

import data_makers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import metaselect
from data_makers import KINDS, META, METHODS, EveryState, plan, start_of, write_rows

from metaselect.metagrad.forward import Forward
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.base import MethodRun, StepObjective
from metaselect.training.batches import Batches
from metaselect.training.loop import EpochLog, TrainState
from metaselect.training.predict import predict

BOUGHT = torch.arange(0, 24, 2)
TRAININGS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.0, "weight_decay": 0.0},
    "momentum": {"momentum": 0.9, "weight_decay": 0.0},
    "amp": {"momentum": 0.0, "weight_decay": 0.0, "amp": True},
    "adam": {"weight_decay": 0.0, "optimiser": "adam"},
    "adamw": {"weight_decay": 0.0, "optimiser": "adamw", "accumulate": 2},
}
"""Without decay. A momentum that was never given a gradient is 0, so it moves nothing either."""

OPTIONS: dict[str, tuple[str, ...]] = {"fsr": ("", "ema=0.9", "mixup=false relabel=paper")}
CASES = [
    (name, words, training)
    for name in METHODS
    for words in OPTIONS.get(name, ("",))
    for training in (TRAININGS if name in KINDS else ("momentum",))
]
DRIVEN = [("direct", "step=1000"), ("mw-net", "net_lr=10000 net_weight_decay=0"), ("l2rw", "")]
"""Those whose own arithmetic comes to 0 where every sample pulls against the meta loss; fsr's is in test_fsr."""


def trained(name: str, words: str, batches: Batches, **changes: Any) -> tuple[TrainState, list[EpochLog]]:
    method, stream = configure(REWEIGHTERS[name], words.split()), torch.Generator().manual_seed(1)
    resolved = plan(epochs=3, **changes)
    return data_makers.trained(method, fresh(), batches, resolved, bought=BOUGHT, stream=stream)


def fresh() -> EveryState:
    torch.manual_seed(3)
    return EveryState()


def moved(trainee: TrainState) -> list[str]:
    """Names of the parameters that are not what they were before training."""
    before = dict(fresh().named_parameters())
    return [name for name, value in trainee.model.named_parameters() if not torch.equal(value, before[name])]


@pytest.mark.parametrize(("name", "words", "training"), CASES, ids=lambda word: word or "defaults")
def test_nothing_but_the_weighted_step_moves_the_parameters(
    name: str, words: str, training: str, tiny_batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method does all that it does, and its weights come to nothing."""
    kind = type(METHODS[name].begin(start_of(tiny_batches.labels, bought=BOUGHT)))
    step = kind.step

    def nothing(run: MethodRun, *given: Any) -> StepObjective:
        weights, targets, losses = step(run, *given)
        return StepObjective(weights * 0, None if targets is None else targets * 0, losses)

    assert moved(trained(name, words, tiny_batches, **TRAININGS[training])[0])
    monkeypatch.setattr(kind, "step", nothing)
    trainee, history = trained(name, words, tiny_batches, **TRAININGS[training])
    assert [(log.loss, log.mean_weight, log.zero_batches) for log in history] == [(0, 0, 1)] * 3
    assert moved(trainee) == []
    for state in trainee.optimiser.state.values():
        assert not any(value.any() for value in state.values() if torch.is_tensor(value) and value.dim())


@pytest.mark.parametrize(("name", "words"), DRIVEN)
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.01)])
def test_methods_whose_weights_all_come_to_zero(
    name: str,
    words: str,
    momentum: float,
    decay: float,
    tiny_batches: Batches,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    product = Forward.jvp
    monkeypatch.setattr(Forward, "jvp", lambda forward, v: -product(forward, v).abs())
    trainee, history = trained(name, words, tiny_batches, momentum=momentum, weight_decay=decay)
    assert [(log.loss, log.mean_weight, log.zero_batches) for log in history] == [(0, 0, 1)] * 3
    assert bool(moved(trainee)) == bool(decay)
    weights = trainee.method.pool_weights(predict(trainee.model, tiny_batches, torch.arange(24)))
    assert not weights[1::2].any()


def test_every_meta_method_is_driven_to_zero_somewhere() -> None:
    assert {name for name, _ in DRIVEN} | {"fsr"} == set(META)


L2RW = ("reweight", "--method", "l2rw", "--lr", 0.01, "--batch-size", 10, "--epochs", 6, "--json")


@pytest.fixture
def rare_class(tmp_path: Path) -> Path:
    """A run with 3 bought labels of each class, and 3 samples of one class among the other 394.

    The warm-up gives the frequent class to every sample. Most batches hold no sample of the rare one, and in these
    every sample pulls against the bought labels.
    """
    count, rare = 400, np.arange(400) < 6
    features = np.random.default_rng(3).normal(size=(count, 2)).astype(np.float32) + 4 * rare[:, None]
    labels = np.where(rare, "rare", "frequent")
    ids = [f"s{number:03}" for number in range(count)]
    table = pa.table({"sample_id": ids, "features": list(features), "label": labels})
    pq.write_table(table, tmp_path / "pool.parquet")
    answers = [(ids[number], labels[number]) for number in (0, 1, 2, 100, 101, 102)]
    form = write_rows(tmp_path / "answers.csv", ("sample_id", "clean_label"), answers)
    run = tmp_path / "run"
    metaselect("ingest", tmp_path / "pool.parquet", run=run)
    metaselect("warmup", "--model", "mlp", "--epochs", 2, run=run)
    metaselect("annotate", "import", form, "--outside-round", run=run)
    return run


def test_a_run_that_learns_from_the_few_batches_that_count_is_not_dead(rare_class: Path) -> None:
    result = metaselect(*L2RW, run=rare_class).json
    assert result["zero_batches"] > 0.5
    assert result["bought_accuracy"] > 0.5
    assert result["dead"] is None


def test_a_run_that_learns_nothing_is_dead(rare_class: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = metaselect(*L2RW, "--lr", 1e-5, run=rare_class, code=1).json
    assert slow["zero_batches"] > 0.5
    assert (slow["bought_accuracy"], "did not learn" in slow["dead"]) == (0.5, True)
    product = Forward.jvp
    monkeypatch.setattr(Forward, "jvp", lambda forward, v: -product(forward, v).abs())
    still = metaselect(*L2RW, "--name", "still", run=rare_class, code=1).json
    assert (still["zero_batches"], still["bought_accuracy"]) == (1.0, 0.5)
    assert "in 100% of the batches every weight was 0" in still["dead"]
