"""``warmup/predictions.parquet``: neighbours by brute force, models without a fold, counts of wrong events."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_line import WARMUP, metaselect
from data_makers import Listener
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from metaselect.data.store import Dataset, load_pool
from metaselect.models import neighbours as neighbours_module
from metaselect.models.build import build_model
from metaselect.models.cross_fit import stratified_folds
from metaselect.models.head import head_of
from metaselect.models.logistic_regression import fit_logistic_regression
from metaselect.models.neighbours import neighbour_count, neighbour_votes
from metaselect.options import WarmupOptions
from metaselect.random import generator
from metaselect.run.artefacts import WARMUP_PREDICTIONS
from metaselect.run.files import sha256_file
from metaselect.run.layout import Run
from metaselect.stages.warmup import plan as plan_module
from metaselect.stages.warmup.descent import Descent, train_by_descent
from metaselect.stages.warmup.fold_models import pool_predictions_by_descent
from metaselect.stages.warmup.plan import plan_warmup
from metaselect.training.pool_predictions import PoolPredictions, pool_predictions


def votes_by_hand(features: torch.Tensor, labels: torch.Tensor, classes: int, count: int) -> torch.Tensor:
    """Every pair, one by one."""
    votes = torch.zeros(len(features), classes)
    for row, one in enumerate(features):
        cosines = [
            (-float(one @ other / one.norm() / other.norm()), place)
            for place, other in enumerate(features)
            if place != row
        ]
        for _, place in sorted(cosines)[:count]:
            votes[row, labels[place]] += 1 / min(count, len(cosines))
    return votes


@settings(max_examples=25)
@given(st.integers(2, 25), st.integers(1, 6), st.integers(1, 30), st.integers(0, 99))
def test_neighbours_are_those_of_brute_force(n: int, d: int, count: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d + 1, generator=draw)
    labels = torch.randint(4, (n,), generator=draw)
    found = neighbour_votes(features, labels, 4, count, draw)
    assert torch.allclose(found, votes_by_hand(features, labels, 4, count), atol=1e-6)


def test_blocks_and_drawn_references(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(3)
    features, labels = torch.randn(50, 3, generator=draw), torch.randint(3, (50,), generator=draw)
    whole = neighbour_votes(features, labels, 3, 4, draw)
    monkeypatch.setattr(neighbours_module, "TILE_ENTRIES", 130)
    assert torch.equal(neighbour_votes(features, labels, 3, 4, draw), whole)
    monkeypatch.setattr(neighbours_module, "MOST_REFERENCES", 20)
    few = neighbour_votes(features, labels, 3, 4, generator(1, "references"))
    reference = torch.randperm(50, generator=generator(1, "references"))[:20].sort().values
    for row in range(50):
        others = reference[reference != row]
        alone = torch.cat([torch.tensor([row]), others])
        assert torch.allclose(few[row], votes_by_hand(features[alone], labels[alone], 3, 4)[0], atol=1e-6)
    assert not torch.allclose(few, whole)


def test_small_pools_have_fewer_neighbours() -> None:
    assert [neighbour_count(n) for n in (10, 39, 40, 200, 299, 300, 10**6)] == [3, 3, 4, 20, 29, 30, 30]


def softmax_and_hidden(name: str, weights: Path, pool: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a saved model, for the whole pool, in plain PyTorch."""
    model: nn.Module = build_model(name, pool.inputs.shape[1:], len(pool.classes), seed=5)
    model.load_state_dict(load_file(weights))
    model.eval()
    scale = pool.preprocess
    inputs = (torch.from_numpy(np.array(pool.inputs)) / 255 - scale.mean[0]) / scale.std[0]
    caught: list[torch.Tensor] = []
    head_of(model).register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        return model(inputs).softmax(1), caught[0]


@pytest.fixture
def judged(warm: Path, tmp_path: Path) -> dict[str, Any]:
    """A short training with three folds whose models are still there."""
    pool = load_pool(Run(warm))
    options = WarmupOptions(folds=3, seed=2, model="convnet", epochs=3, batch_size=16, checkpoints=3)
    plan = plan_warmup(pool, options, torch.device("cpu"), Listener())
    assert plan.descent is not None
    folder = tmp_path / "work"
    fitted = train_by_descent(plan, plan.descent, folder, Listener())
    predictions = pool_predictions_by_descent(plan, plan.descent, fitted, folder, Listener())
    return {"pool": pool, "plan": plan, "fitted": fitted, "predictions": predictions, "folder": folder}


def test_probabilities_are_those_of_the_start_checkpoint(judged: dict[str, Any]) -> None:
    path = judged["folder"] / f"checkpoints/epoch-{judged['fitted'].start.epoch:04d}.safetensors"
    expected, _ = softmax_and_hidden("convnet", path, judged["pool"])
    assert torch.allclose(judged["predictions"].probs, expected, atol=1e-5)


def test_out_of_fold_predictions_are_of_the_best_epoch_of_a_model_without_the_fold(
    judged: dict[str, Any],
) -> None:
    pool, predictions, plan = judged["pool"], judged["predictions"], judged["plan"]
    labels = torch.from_numpy(pool.labels)
    fold = stratified_folds(labels, 3, generator(2, "warmup", "folds"))
    steps = judged["plan"].descent.config.epochs * math.ceil(len(plan.train_ids) / 16)
    for number in range(3):
        members = fold == number
        folder = judged["folder"] / f"fold-{number + 1}"
        probs, hidden = softmax_and_hidden("convnet", folder / "best.safetensors", pool)
        assert torch.allclose(predictions.out_of_fold[members], probs[members], atol=1e-5)
        expected = votes_by_hand(hidden[members], labels[members], len(pool.classes), 20)
        # A neighbour in twenty may differ where two are equally near up to rounding.
        assert (predictions.neighbours[members] - expected).abs().max() <= 0.0501
        assert ((predictions.neighbours[members] - expected).abs() < 1e-6).float().mean() > 0.99
        with safe_open(folder / "resume.safetensors", "pt") as file:
            history = json.loads(file.metadata()["history"])
        assert abs(len(history) * math.ceil(int((~members).sum()) / 16) - steps) <= 9
        losses = -probs[members].log()[torch.arange(int(members.sum())), labels[members]]
        assert float(losses.mean()) == pytest.approx(min(row["held_out_loss"] for row in history), abs=1e-5)


def test_fold_models_never_train_on_their_fold(
    judged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training is on all of the pool but one fold, and each sample is in one of these folds."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    epochs = Descent.epochs

    def noted(self: Any, ids: torch.Tensor, held_out: torch.Tensor, *rest: Any) -> Any:
        seen.append((ids, held_out))
        return epochs(self, ids, held_out, *rest)

    monkeypatch.setattr(Descent, "epochs", noted)
    plan = judged["plan"]
    again = pool_predictions_by_descent(plan, plan.descent, judged["fitted"], judged["folder"], Listener())
    assert again.out_of_fold is not None
    assert torch.equal(again.out_of_fold, judged["predictions"].out_of_fold)  # nothing is trained twice
    assert len(seen) == 3
    everything = torch.arange(len(judged["pool"]))
    for ids, held_out in seen:
        assert torch.equal(torch.cat([ids, held_out]).sort().values, everything)
    assert torch.equal(torch.cat([held_out for _, held_out in seen]).sort().values, everything)


def test_wrong_events_add_up_to_the_history(judged: dict[str, Any]) -> None:
    plan, fitted = judged["plan"], judged["fitted"]
    counts = fitted.wrong_events * 3
    assert torch.allclose(counts, counts.round(), atol=1e-5)
    for ids, column in ((plan.train_ids, "accuracy"), (plan.held_out, "held_out_accuracy")):
        expected = sum((1 - getattr(row, column)) * len(ids) for row in fitted.history)
        assert float(counts[ids].sum()) == pytest.approx(expected, abs=1e-3)
    assert 0 < float(counts.sum()) < 3 * len(judged["pool"])


def test_wrong_events_of_held_out_samples_are_those_of_each_epoch(judged: dict[str, Any]) -> None:
    pool, held_out = judged["pool"], judged["plan"].held_out
    labels = torch.from_numpy(pool.labels)
    wrong = torch.zeros(len(pool))
    for epoch in (1, 2, 3):
        probs, _ = softmax_and_hidden(
            "convnet", judged["folder"] / f"checkpoints/epoch-{epoch:04d}.safetensors", pool
        )
        wrong += probs.argmax(1) != labels
    assert torch.allclose(judged["fitted"].wrong_events[held_out], wrong[held_out] / 3)


def test_the_command_writes_them_and_says_what_they_cost(warm: Path) -> None:
    said = metaselect(*WARMUP, "--force", run=warm).err
    assert "2 more models are trained" in said
    assert "about 3 times as long" in said
    table = pq.read_table(warm / "warmup/predictions.parquet")
    assert tuple(table.column_names) == WARMUP_PREDICTIONS.columns
    assert table["sample_id"].to_pylist() == list(load_pool(Run(warm)).sample_ids)
    read = pool_predictions(Run(warm))
    assert read is not None
    assert read.out_of_fold is not None
    assert read.neighbours is not None
    for each in (read.probs, read.out_of_fold, read.neighbours):
        assert torch.allclose(each.sum(1), torch.ones(len(each)), atol=1e-5)
    assert not torch.allclose(read.probs, read.out_of_fold, atol=0.05)
    assert not list((warm / "warmup").glob("fold-*"))
    metaselect("verify", run=warm)


def test_without_folds_three_columns_are_empty(warm: Path) -> None:
    before = pool_predictions(Run(warm))
    done = metaselect(*WARMUP, "--force", "--folds", 0, run=warm)
    assert "more models" not in done.err
    read = pool_predictions(Run(warm))
    assert read is not None
    assert before is not None
    assert (read.out_of_fold, read.neighbours, read.fold) == (None, None, None)
    assert before.fold is not None
    assert sorted(set(before.fold.tolist())) == [0, 1]
    assert not (warm / "warmup/folds").exists()
    assert torch.equal(read.probs, before.probs)
    assert torch.equal(read.wrong_events, before.wrong_events)
    assert "folds: 0 -> 2" in metaselect(*WARMUP, run=warm, code=4).err


@pytest.mark.parametrize("column", [True, False], ids=["without the column fold", "without the table"])
def test_a_run_of_an_earlier_version_can_be_read(finished: Path, column: bool) -> None:
    """Neither had the networks of the folds: `auto` takes the representations of the warm-up's own."""
    path, record = finished / "warmup/predictions.parquet", finished / "warmup/stage.json"
    raw, table = json.loads(record.read_text()), pq.read_table(path)
    outputs = {name: stamp for name, stamp in raw["outputs"].items() if not name.startswith("folds/")}
    shutil.rmtree(finished / "warmup/folds")
    if column:
        pq.write_table(table.drop_columns(["fold"]), path)
        outputs[path.name] |= {"size": path.stat().st_size, "sha256": sha256_file(path)}
    else:
        path.unlink()
        del outputs[path.name]
    record.write_text(json.dumps({**raw, "outputs": outputs}))
    found = pool_predictions(Run(finished))
    assert (found is not None) == column
    if found is not None:
        assert found.fold is None
        assert found.out_of_fold is not None
        assert found.out_of_fold.tolist() == table["out_of_fold"].to_pylist()
    metaselect("select", "--budget", 20, run=finished)
    metaselect("reweight", "--epochs", 2, "--folds", 0, "--name", "now", run=finished)
    metaselect("verify", run=finished)


def test_dry_runs_and_large_pools(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dry = ("warmup", "--force", "--dry-run", "--json")
    two, none, five = (metaselect(*dry, *words, run=warm) for words in ((), ("--folds", 0), ("--folds", 5)))
    assert [each.json["needs"]["fold_models"] for each in (two, none, five)] == [2, 0, 5]
    assert "about 3 times" in two.err
    assert "about 6 times" in five.err
    sizes = [each.json["needs"]["disk_mib"] for each in (none, two, five)]
    assert sizes == sorted(set(sizes))
    monkeypatch.setattr(plan_module, "MOST_NUMBERS", 1999)
    large = metaselect(*dry, run=warm)
    assert large.json["needs"]["fold_models"] == 0
    assert "left out for 200 samples of 10 classes; --folds 2 computes them" in large.err
    assert metaselect(*dry, "--folds", 2, run=warm).json["needs"]["fold_models"] == 2
    assert (
        "--folds is 1; it must be from 2 to 100" in metaselect("warmup", "--folds", 1, run=warm, code=2).err
    )
    assert (
        "--folds 60 is too many for 200 samples" in metaselect("warmup", "--folds", 60, run=warm, code=2).err
    )


def test_predictions_of_linear_are_fits_without_the_fold(warm: Path) -> None:
    done = metaselect("warmup", "--model", "linear", "--force", "--json", run=warm).json
    pool, read = load_pool(Run(warm)), pool_predictions(Run(warm))
    assert isinstance(read, PoolPredictions)
    assert read.out_of_fold is not None
    assert read.neighbours is not None
    scale = pool.preprocess
    inputs = ((torch.from_numpy(np.array(pool.inputs)) / 255 - scale.mean[0]) / scale.std[0]).flatten(1)
    labels = torch.from_numpy(pool.labels)
    targets = nn.functional.one_hot(labels).float()
    fold = stratified_folds(labels, 5, generator(0, "warmup", "folds"))
    for number in range(5):
        params = fit_logistic_regression(
            inputs[fold != number], targets[fold != number], done["weight_decay"]
        )
        expected = params.log_probs(inputs[fold == number]).exp()
        assert torch.allclose(read.out_of_fold[fold == number], expected, atol=2e-3)
    assert torch.equal(read.wrong_events, (read.out_of_fold.argmax(1) != labels).float())
    # Pixels that are white in all images make ties of none of these cosines.
    assert (read.neighbours - votes_by_hand(inputs, labels, 10, 20)).abs().max() <= 0.0501
    metaselect("warmup", "--model", "linear", "--folds", 0, "--force", run=warm)
    without = pool_predictions(Run(warm))
    assert without is not None
    assert (without.out_of_fold, without.neighbours) == (None, None)
    assert torch.equal(without.wrong_events, read.wrong_events)
