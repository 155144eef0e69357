"""``weights.parquet`` of every re-weighter, by the real stage: each column recomputed from what else the run holds."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from annotation_run import call
from data_makers import METHODS, Listener, made, truth_options, write_rows
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from metaselect.annotation.meta_set import MetaSet
from metaselect.data.store import Dataset
from metaselect.data.stored.preprocess import Preprocess
from metaselect.data_options import IngestOptions
from metaselect.models.predictions import Predictions
from metaselect.options import ReweightOptions, WarmupOptions
from metaselect.reweighting.base import Method
from metaselect.run.layout import FEATURES, Run
from metaselect.stages.reweight.reweight import reweight
from metaselect.stages.reweight.weights_table import weights_table
from metaselect.stages.warmup.warmup import warmup
from metaselect.training.loop import train

COLUMNS = {
    "sample_id": pa.string(),
    "given_label": pa.string(),
    "weight": pa.float32(),
    "weight_kind": pa.string(),
    "bought": pa.bool_(),
    "predicted_label": pa.string(),
    "predicted_prob": pa.float32(),
    "label_issue_rank": pa.int64(),
}
NEED_NOTHING = [name for name, method in METHODS.items() if not method.needs_bought]
TWINS = 8


class Pool(NamedTuple):
    """What the run was made from, by sample_id, in no order."""

    given: dict[str, str]
    features: dict[str, np.ndarray]
    twins: list[tuple[str, str]]


class Weighed(NamedTuple):
    """A pool, what people said, and what one method made of it; ``trained`` are the ids that it trained on."""

    pool: Pool
    answers: dict[str, str]
    unusable: set[str]
    folder: Path
    method: Method
    trained: set[str]
    table: pa.Table

    def column(self, name: str) -> np.ndarray:
        return np.array(self.table[name].to_pylist(), dtype=object)


def make_pool() -> Pool:
    """60 points in three classes, a third of the labels wrong, some twice; and three classes of one sample."""
    draw = np.random.default_rng(8)
    ids = [f"x{number}" for number in draw.permutation(200)[:63]]  # x9 stands behind x10
    true = draw.integers(0, 3, 63)
    points = (np.eye(3)[true] * 2 + draw.normal(size=(63, 3))).astype(np.float32)
    labels = np.where(draw.random(63) < 0.3, draw.integers(0, 3, 63), true)
    twins = list(zip(range(TWINS), range(TWINS, 2 * TWINS), strict=True))
    for one, other in twins:
        points[other], labels[other] = points[one], labels[one]
    names = [("cat", "dog", "owl")[label] for label in labels]
    names[60:] = ["alone", "bought alone", "spoilt alone"]
    return Pool(
        dict(zip(ids, names, strict=True)),
        dict(zip(ids, points, strict=True)),
        [(ids[one], ids[other]) for one, other in twins],
    )


def say(pool: Pool) -> tuple[list[tuple[str, str, str]], dict[str, str], set[str]]:
    """Rows of answers; the labels and the unusable samples that they come to."""
    ids = list(pool.given)
    bought = {name: "owl" for name in ids[20:29]} | {ids[61]: "bought alone", ids[60 - 1]: "alone"}
    unusable = {*ids[30:33], ids[62]}
    rows = [(name, label, "done") for name, label in bought.items()]
    rows += [(name, "", "bad_sample") for name in sorted(unusable)]
    rows += [(name, "", status) for name, status in zip(ids[34:36], ("unsure", "skip"), strict=True)]
    return rows, bought, unusable


def make_run(pool: Pool, root: Path) -> Run:
    rows = [(name, *pool.features[name].tolist(), label) for name, label in pool.given.items()]
    data = write_rows(root / "data.csv", ["sample_id", "f0", "f1", "f2", "label"], rows)
    run = made(data, root / "run", feature_columns="f*")
    options = WarmupOptions(model="mlp", epochs=4, batch_size=16, checkpoints=1, device="cpu")
    warmup(None, run, options, IngestOptions(), Listener())
    return run


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Pool, dict[str, str], set[str]]:
    pool = make_pool()
    root = tmp_path_factory.mktemp("annotated")
    run = make_run(pool, root)
    rows, bought, unusable = say(pool)
    answers = write_rows(root / "answers.csv", ["sample_id", "clean_label", "status"], rows)
    assert call(run, "import", str(answers), "--outside-round", "--annotator", "me") == 0
    return run, pool, bought, unusable


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Pool, dict[str, str], set[str]]:
    """Nobody was asked."""
    pool = make_pool()
    return make_run(pool, tmp_path_factory.mktemp("bare")), pool, {}, set()


@pytest.fixture(
    scope="module",
    params=[*(("annotated", name) for name in METHODS), *(("bare", name) for name in NEED_NOTHING)],
    ids=lambda words: "-".join(words),
)
def weighed(request: pytest.FixtureRequest) -> Weighed:
    start, name = request.param
    run, pool, bought, unusable = request.getfixturevalue(start)
    trained: list[int] = []

    def watched(*words: Any, ids: torch.Tensor, **more: Any) -> Iterator[Any]:
        trained.extend(ids.tolist())
        return train(*words, ids=ids, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metaselect.stages.reweight.training.train", watched)
        # By force: the tests of a module may come in an order that makes the fixture twice on the same run.
        options = ReweightOptions(method=name, epochs=4, batch_size=8, device="cpu", folds=0, force=True)
        reweight(run, replace(options, **truth_options(run, name)), Listener())
    folder, ids = run.path(f"reweight/{name}"), sorted(pool.given)
    table = pq.read_table(folder / "weights.parquet")
    who = {ids[i] for i in trained}
    return Weighed(pool, bought, unusable, folder, METHODS[name], who, table)


def test_unusable_samples_leave_every_pool_and_bought_ones_that_of_meta_methods(weighed: Weighed) -> None:
    gone = weighed.unusable | (weighed.answers.keys() if weighed.method.excludes_bought else set())
    assert weighed.trained == weighed.pool.given.keys() - gone


def test_one_row_a_sample_sorted_by_its_id(weighed: Weighed) -> None:
    assert dict(zip(weighed.table.schema.names, weighed.table.schema.types, strict=True)) == COLUMNS
    assert weighed.column("sample_id").tolist() == sorted(weighed.pool.given)
    given_labels = [weighed.pool.given[name] for name in sorted(weighed.pool.given)]
    assert weighed.column("given_label").tolist() == given_labels
    nulls = {name: weighed.table[name].null_count for name in COLUMNS}
    closed = len(weighed.answers) + len(weighed.unusable)
    assert nulls == {**dict.fromkeys(COLUMNS, 0), "label_issue_rank": closed}


def test_weights_and_what_they_are(weighed: Weighed) -> None:
    weights = weighed.table["weight"].to_numpy()
    assert np.isfinite(weights).all()
    assert ((weights >= 0) & (weights <= 1)).all()
    for name, weight, kind, bought in zip(
        *(weighed.column(column) for column in ("sample_id", "weight", "weight_kind", "bought")), strict=True
    ):
        assert bought is (name in weighed.answers)
        if name in weighed.answers:
            assert (weight, kind) == (1, "bought")
        elif name in weighed.unusable:
            assert (weight, kind) == (0, "unusable")
        else:
            assert kind == weighed.method.weight_kind


def probs(weighed: Weighed) -> tuple[np.ndarray, list[str]]:
    """(n, K) float64 softmax of the saved model on the samples by id, in NumPy, and the names of the classes."""
    described = json.loads((weighed.folder / "model.json").read_text())
    saved = load_file(weighed.folder / "model.safetensors")
    layers = {name: value.astype(np.float64) for name, value in saved.items()}
    scale = described["preprocess"]
    x = np.array([weighed.pool.features[name] for name in sorted(weighed.pool.given)], np.float64)
    x = (x - scale["mean"]) / scale["std"]
    for number in (1, 3, 5):
        x = x @ layers[f"layers.{number}.weight"].T + layers[f"layers.{number}.bias"]
        x = np.maximum(x, 0) if number < 5 else x
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True), described["classes"]


def test_predictions_are_the_saved_models(weighed: Weighed) -> None:
    found, classes = probs(weighed)
    assert classes == sorted(set(weighed.pool.given.values()))
    assert weighed.column("predicted_label").tolist() == [classes[k] for k in found.argmax(1)]
    np.testing.assert_allclose(weighed.table["predicted_prob"].to_numpy(), found.max(1), rtol=1e-5)


def test_the_rank_counts_the_labels_that_are_trusted_less(weighed: Weighed) -> None:
    """By weight, then by the probability of the given label; 1 is the label that is trusted least.

    Where the weights are all equal, the probability is of the warm-up's models that did not see the label.
    """
    found, classes = probs(weighed)
    if weighed.method.weight_kind == "uniform":
        table = pq.read_table(weighed.folder.parents[1] / "warmup/predictions.parquet")
        found = np.array(table["out_of_fold"].to_pylist())
    closed = weighed.answers.keys() | weighed.unusable
    rows = [row for row, name in enumerate(weighed.column("sample_id")) if name not in closed]
    ranks = weighed.column("label_issue_rank")
    assert min(ranks[rows]) == 1
    own = {row: found[row, classes.index(weighed.table["given_label"][row].as_py())] for row in rows}
    weights = weighed.table["weight"].to_numpy()
    for row, other in itertools.product(rows, rows):
        if weights[row] < weights[other] or (weights[row] == weights[other] and own[row] < own[other] - 1e-6):
            assert ranks[row] < ranks[other]


def test_twins_of_equal_weight_have_one_rank(weighed: Weighed) -> None:
    """Same features, same label: nothing tells which of them is more likely wrong."""
    if weighed.method.weight_kind == "uniform":
        pytest.skip("ranked by two models of the warm-up, of which each saw one of the twins")
    row = {name: number for number, name in enumerate(weighed.column("sample_id"))}
    weights, prob, rank = (weighed.column(name) for name in ("weight", "predicted_prob", "label_issue_rank"))
    pairs = [sorted((row[one], row[other])) for one, other in weighed.pool.twins]
    equal = [(a, b) for a, b in pairs if (weights[a], prob[a]) == (weights[b], prob[b])]
    assert all(rank[a] == rank[b] for a, b in equal)
    assert equal or weighed.method.weight_kind != "weight net"


few = st.sampled_from([0.0, 0.25, 0.5, 1.0])
rows_of_few = st.lists(st.tuples(few, few, st.sampled_from(["open", "bought", "unusable"])), min_size=1)


@given(rows_of_few, st.lists(few, min_size=1) | st.none())
def test_ranks_with_many_ties_by_counting(
    rows: list[tuple[float, float, str]], held_out: list[float] | None
) -> None:
    n = len(rows)
    weights, label_prob, state = (list(column) for column in zip(*rows, strict=True))
    where: dict[str, Any] = {
        word: np.array([i for i in range(n) if state[i] == word], np.int64) for word in ("bought", "unusable")
    }
    preprocess = Preprocess(FEATURES, (), "", (0.0,), (1.0,))
    ids = [f"s{number:03d}" for number in range(n)]
    pool = Dataset(ids, np.zeros(n, np.int64), ("a", "b"), np.zeros((n, 1), np.float32), preprocess)
    zeros = torch.zeros(n, dtype=torch.int64)
    view = Predictions(torch.zeros(n), zeros, torch.ones(n), torch.tensor(label_prob), zeros == 0)
    meta_set = MetaSet(where["bought"], np.zeros(len(where["bought"]), np.int64), where["unusable"])
    held_out = held_out and [held_out[i % len(held_out)] for i in range(n)]
    unseen = np.array(held_out) if held_out else None
    table = weights_table(pool, meta_set, np.array(weights, np.float32), "made up", view, unseen)
    if held_out and len({weights[i] for i in range(n) if state[i] == "open"}) == 1:
        label_prob = held_out
    keys = [(weights[i], label_prob[i]) if state[i] == "open" else None for i in range(n)]
    expected = [key and 1 + sum(other < key for other in keys if other is not None) for key in keys]
    assert table["label_issue_rank"].to_pylist() == expected
    shown = {"bought": 1.0, "unusable": 0.0}
    assert table["weight"].to_pylist() == [shown.get(state[i], weights[i]) for i in range(n)]
    assert table["bought"].to_pylist() == [word == "bought" for word in state]
