"""The warm-up of the model `linear`: what it solves, which model a rule takes, and options that have no effect."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import metaselect, tree
from data_makers import KINDS
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from metaselect.models.cross_fit import is_above
from metaselect.run.layout import Run
from metaselect.training.saved_models import warmup_model

CLASSES = ("ant", "bee", "cat")


def write_features(path: Path, rows: np.ndarray, labels: Sequence[str]) -> Path:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).reshape(-1)), rows.shape[1])
    ids = [f"{path.stem}-{number:04d}" for number in range(len(rows))]
    pq.write_table(pa.table({"sample_id": ids, "features": lists, "label": list(labels)}), path)
    return path


def clusters(path: Path, n: int, d: int, *, wrong: float = 0.2, apart: float = 1.5) -> Path:
    """One cluster a class, on scales that differ by feature; some labels are the next class's."""
    draw = np.random.default_rng(4)
    clean = np.arange(n) % 3
    rows = (draw.normal(0, apart, (3, d))[clean] + draw.normal(0, 1, (n, d))) * draw.uniform(0.1, 10, d) + 3
    given = np.where(draw.random(n) < wrong, (clean + 1) % 3, clean)
    return write_features(path, rows, [CLASSES[label] for label in given])


def ring(path: Path, n: int) -> Path:
    """Two classes that no line separates: within a circle, and around it."""
    draw = np.random.default_rng(2)
    label = np.arange(n) % 2
    angle, radius = draw.uniform(0, 2 * np.pi, n), np.where(label == 1, 3.0, 1.0) + draw.normal(0, 0.2, n)
    return write_features(
        path, np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), [CLASSES[k] for k in label]
    )


def solution(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and biases of the only checkpoint."""
    (path,) = sorted((run / "warmup/checkpoints").iterdir())
    assert path.name == "epoch-0001.safetensors"
    tensors = load_file(path)
    return tensors["head.weight"], tensors["head.bias"]


def test_it_solves_logistic_regression_on_standardised_features(tmp_path: Path) -> None:
    data, run = clusters(tmp_path / "train.parquet", 150, 130), tmp_path / "run"
    done = metaselect("warmup", data, "--json", run=run).json
    assert (done["model"], done["epochs"], done["checkpoints"], done["start_epoch"]) == ("linear", 1, [1], 1)
    features = np.load(run / "data/features.npy")
    standardised = (features - features.mean(0)) / features.std(0)
    labels = np.array([CLASSES.index(name) for name in pq.read_table(data)["label"].to_pylist()])
    oracle = LogisticRegression(C=1 / (150 * done["weight_decay"]), tol=1e-8, max_iter=10_000)
    expected = oracle.fit(standardised, labels).predict_proba(standardised)
    weight, bias = solution(run)
    probs = F.softmax(torch.from_numpy(standardised) @ weight.T + bias, 1).numpy()
    assert np.abs(probs - expected).max() < 2e-3
    assert done["accuracy_on_given_labels"] == pytest.approx((expected.argmax(1) == labels).mean())
    assert warmup_model(Run(run)).weight_decay == done["weight_decay"]
    header, row = (run / "warmup/history.csv").read_text().splitlines()
    values = dict(zip(header.split(","), map(float, row.split(",")), strict=True))
    assert values["loss"] == pytest.approx(-np.log(expected[np.arange(150), labels]).mean(), abs=1e-3)
    assert values["held_out_loss"] > values["loss"]
    assert values["held_out_accuracy"] == done["held_out_accuracy_on_given_labels"]


def test_a_given_weight_decay_is_taken(tmp_path: Path) -> None:
    data = clusters(tmp_path / "train.parquet", 90, 130)
    weak, strong = tmp_path / "weak", tmp_path / "strong"
    for run, decay in ((weak, 0.001), (strong, 5.0)):
        done = metaselect("warmup", data, "--weight-decay", decay, "--json", run=run).json
        assert done["weight_decay"] == decay
    assert solution(weak)[0].norm() > 5 * solution(strong)[0].norm()
    assert "other settings" in metaselect("warmup", run=weak, code=4).err


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    data = clusters(tmp_path / "train.parquet", 90, 130)
    for name in ("once", "again", "other"):
        metaselect("warmup", data, "--seed", int(name == "other"), run=tmp_path / name)
    once, again, other = (
        tree(tmp_path / name / "warmup", leave=("stage.json",)) for name in ("once", "again", "other")
    )
    assert once == again
    assert once["history.csv"] != other["history.csv"]  # the folds are drawn by the seed
    assert "warmup is up to date" in metaselect("warmup", data, run=tmp_path / "once").err


@pytest.mark.parametrize("kind", ["clusters", "ring"])
def test_few_features_take_the_model_that_predicts_held_out_labels_better(tmp_path: Path, kind: str) -> None:
    data = (
        clusters(tmp_path / "d.parquet", 300, 4, wrong=0, apart=0.6)
        if kind == "clusters"
        else ring(tmp_path / "d.parquet", 300)
    )
    run = tmp_path / "run"
    done = metaselect("warmup", data, "--json", run=run)
    losses = done.json["held_out_losses"]
    assert set(losses) == {"linear", "mlp"}
    better = "linear" if kind == "clusters" else "mlp"
    assert done.json["model"] == better
    assert (
        f"Taking {better}: the cross-entropy with held-out given labels is {losses['linear']:.4f}" in done.err
    )
    described = json.loads((run / "warmup/model.json").read_text())
    assert described["architecture"] == better
    kept = sorted(path.name for path in (run / "warmup/checkpoints").iterdir())
    assert kept == [f"epoch-{epoch:04d}.safetensors" for epoch in described["checkpoints"]]
    alone = tmp_path / "alone"
    metaselect("warmup", data, "--model", better, run=alone)
    assert tree(run / "warmup", leave=("stage.json",)) == tree(alone / "warmup", leave=("stage.json",))
    assert "warmup is up to date" in metaselect("warmup", run=run).err


def test_a_difference_within_a_standard_error_is_none() -> None:
    others = torch.tensor([1.0, 2.0, 3.0, 4.0])
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0])  # its mean has the standard error sqrt(4/3) / 2 = .577
    assert not is_above(others - 1, others)
    assert not is_above(others, others)
    assert not is_above(
        others[:1] + 9, others[:1]
    )  # one sample has no standard error, and warnings are errors
    assert not is_above(others + noise + 0.57, others)
    assert is_above(others + noise + 0.58, others)


@pytest.mark.parametrize(
    "words", [("--lr", 0.1), ("--epochs", 3), ("--schedule", "step"), ("--checkpoints", 2), ("--amp",)],
    ids=lambda words: words[0],
)  # fmt: skip
def test_an_option_without_effect_is_refused_or_noted(tmp_path: Path, words: tuple[object, ...]) -> None:
    data, run = clusters(tmp_path / "train.parquet", 60, 130), tmp_path / "run"
    metaselect("ingest", data, run=run)
    said = f"{words[0]} has no effect on the model linear, which is solved exactly."
    assert said in metaselect("warmup", "--model", "linear", *words, run=run, code=2).err
    assert not (run / "warmup").exists()
    assert said in metaselect("warmup", *words, run=run).err
    assert "warmup is up to date" in metaselect("warmup", run=run).err


def test_a_weight_decay_of_zero_and_weights_without_a_model_are_refused(tmp_path: Path) -> None:
    data, run = clusters(tmp_path / "train.parquet", 60, 5), tmp_path / "run"
    metaselect("ingest", data, run=run)
    assert "linear has no solution" in metaselect("warmup", "--weight-decay", 0, run=run, code=2).err
    metaselect("warmup", "--weight-decay", 0, "--model", "mlp", "--epochs", 1, run=run)
    weights = run / "warmup/checkpoints/epoch-0001.safetensors"
    words = ("warmup", "--weights", weights, "--force")
    assert "--model names none" in metaselect(*words, run=run, code=2).err
    metaselect(*words, "--model", "mlp", run=run)


def test_images_can_be_solved_too(warm: Path) -> None:
    done = metaselect("warmup", "--model", "linear", "--force", "--json", run=warm).json
    assert done["model"] == "linear"
    assert done["held_out_accuracy_on_given_labels"] > 0.3


@pytest.mark.parametrize("method", KINDS)
def test_every_method_trains_it_with_the_weight_decay_of_the_warmup(tmp_path: Path, method: str) -> None:
    data, run = clusters(tmp_path / "train.parquet", 60, 130), tmp_path / "run"
    decay = metaselect("warmup", data, "--json", run=run).json["weight_decay"]
    metaselect("select", "--budget", 6, run=run)
    truth = tmp_path / "truth.csv"
    rows = [f"train-{number:04d},{CLASSES[number % 3]}" for number in range(60)]
    truth.write_text("\n".join(["sample_id,clean_label", *rows, ""]))
    metaselect("annotate", "simulate", truth, run=run)
    small = ("--option", "dictionary=12") if method == "fsr" else ()
    metaselect("reweight", "--method", method, "--epochs", 2, *small, run=run)
    assert json.loads((run / f"reweight/{method}/stage.json").read_text())["options"]["weight_decay"] == decay
    described = json.loads((run / f"reweight/{method}/model.json").read_text())
    assert described["architecture"] == "linear"
    metaselect(
        "reweight", "--method", method, "--epochs", 2, *small, "--weight-decay", 0.5, "--name", "o", run=run
    )
    assert json.loads((run / "reweight/o/stage.json").read_text())["options"]["weight_decay"] == 0.5
    metaselect(
        "reweight", "--method", method, "--init", "scratch", "--epochs", 1, *small, "--name", "s", run=run
    )
    assert json.loads((run / "reweight/s/stage.json").read_text())["options"]["weight_decay"] == decay
