"""``MetaReweighter``: the numbers of the command line, scikit-learn's rules for classifiers, no global random state."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import metaselect
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_api_arrays import NAMES, Samples, samples

import metaselect as ms

QUICK: dict[str, Any] = {"model": "mlp", "epochs": 3, "warmup_epochs": 3}


def bought_rows(data: Samples, count: int = 16) -> np.ndarray:
    return np.sort(np.random.default_rng(6).permutation(len(data.ids))[:count])


def run_of(data: Samples, rows: np.ndarray, folder: Path, *warmup: object) -> Path:
    """A run of the command line with the same samples, and bought labels outside of any round but one."""
    manifest, _ = data.write(folder)
    run = folder / "run"
    metaselect("warmup", manifest, *warmup, run=run)
    metaselect("select", "--budget", 1, "--method", "random", run=run)
    lines = [f"{data.ids[row]},{data.true[row]}" for row in rows.tolist()]
    (folder / "answers.csv").write_text("\n".join(["sample_id,clean_label", *lines]) + "\n")
    metaselect("annotate", "import", folder / "answers.csv", "--outside-round", run=run)
    return run


@pytest.mark.parametrize(
    ("method", "model"),
    [("auto", "linear"), ("uniform", "linear"), ("auto", "mlp"), ("direct", "mlp"), ("fsr", "mlp")],
)
def test_a_fit_is_that_of_the_command_line(method: str, model: str, tmp_path: Path) -> None:
    data = samples()
    rows = bought_rows(data)
    epochs = () if model == "linear" else ("--epochs", 3)
    run = run_of(data, rows, tmp_path, "--model", model, *epochs, "--seed", 4)
    given: dict[str, Any] = {} if model == "linear" else {"epochs": 3, "warmup_epochs": 3}
    estimator = ms.MetaReweighter(method, model=model, seed=4, **given)
    estimator.fit(data.features, data.given, data.features[rows], data.true[rows])
    words = ("reweight", "--method", method, *epochs, "--folds", 0, "--seed", 4)
    metaselect(*words, run=run, code=1 if estimator.dead_ else 0)
    table = ms.open_run(run).weights(method)
    assert estimator.sample_weight_.tolist() == table["weight"].tolist()
    assert estimator.classes_.tolist() == NAMES.tolist()
    assert estimator.predict(data.features).tolist() == table["predicted_label"].tolist()
    probs = estimator.predict_proba(data.features).max(1)
    np.testing.assert_allclose(probs, table["predicted_prob"], atol=1e-5)
    assert estimator.model_ == model


def test_bought_labels_that_are_no_rows_of_x_are_further_samples(tmp_path: Path) -> None:
    """As in a run where these samples have no given label."""
    data = samples()
    pool, meta = np.arange(100), np.arange(100, 120)
    given = [*data.given[:100].tolist(), *[None] * 20]
    table = {"sample_id": data.ids, "label": pa.array(given), "features": data.features.tolist()}
    pq.write_table(pa.table(table), tmp_path / "data.parquet")
    run = tmp_path / "run"
    metaselect("warmup", tmp_path / "data.parquet", "--model", "linear", run=run)
    metaselect("select", "--budget", 1, "--method", "random", run=run)
    lines = [f"{data.ids[row]},{data.true[row]}" for row in meta.tolist()]
    (tmp_path / "answers.csv").write_text("\n".join(["sample_id,clean_label", *lines]) + "\n")
    metaselect("annotate", "import", tmp_path / "answers.csv", "--outside-round", run=run)
    metaselect("reweight", "--folds", 0, run=run)
    estimator = ms.MetaReweighter(model="linear").fit(
        data.features[pool], data.given[pool], data.features[meta], data.true[meta]
    )
    weights = ms.open_run(run).weights()["weight"]
    assert estimator.sample_weight_.tolist() == weights.tolist()[:100]


def test_without_bought_labels_training_is_plain() -> None:
    data = samples()
    plain = ms.MetaReweighter("uniform", model="linear").fit(data.features, data.given)
    assert set(plain.sample_weight_) == {1.0}
    for method in ("auto", "direct", "mw-net"):
        other = ms.MetaReweighter(method, model="linear").fit(data.features, data.given)
        assert np.array_equal(other.predict_proba(data.features), plain.predict_proba(data.features))


def test_of_equal_rows_each_bought_one_takes_another() -> None:
    data = samples()
    features, given = (
        np.concatenate([data.features, data.features[[7]]]),
        np.append(data.given, data.given[7]),
    )
    right = [data.true[7]] * 2
    once = ms.MetaReweighter("uniform", model="linear").fit(features, given, features[[7]], right[:1])
    twice = ms.MetaReweighter("gce", **QUICK).fit(features, given, features[[7, 120]], right)
    assert once.sample_weight_[[7, 120]].tolist() == [1, 1]
    assert twice.sample_weight_[[7, 120]].tolist() == [1, 1]
    assert (np.delete(twice.sample_weight_, [7, 120]) < 1).all()


def test_a_fit_repeats_itself_and_leaves_the_process_as_it_was() -> None:
    data = samples()
    states = str(np.random.get_state()), torch.get_rng_state().tolist()
    threads = torch.get_num_threads()
    first, second, other = (
        ms.MetaReweighter(**QUICK, seed=seed).fit(data.features, data.given) for seed in (0, 0, 1)
    )
    assert (str(np.random.get_state()), torch.get_rng_state().tolist()) == states
    assert torch.get_num_threads() == threads
    probs = first.predict_proba(data.features)
    assert np.array_equal(probs, second.predict_proba(data.features))
    assert not np.array_equal(probs, other.predict_proba(data.features))
    for same in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert np.array_equal(probs, same.predict_proba(data.features))


def test_it_works_inside_scikit_learn() -> None:
    data = samples()
    scores = cross_val_score(
        make_pipeline(StandardScaler(), ms.MetaReweighter(model="linear")), data.features, data.given, cv=3
    )
    assert scores.mean() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "'best' is not known. One of: auto"),
        ({"model": "resnet32"}, "needs images"),
        ({"epochs": 0}, "it must be at least 1"),
        ({"model": "linear", "warmup_epochs": 3}, "has no effect on the model linear"),
        ({"device": "abacus"}, "finds no such device"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_a_value_error(options: dict[str, Any], message: str) -> None:
    data = samples()
    with pytest.raises(ValueError, match=message):
        ms.MetaReweighter(**options).fit(data.features, data.given)


def test_rows_and_labels_of_other_orders_are_refused() -> None:
    rows = pd.DataFrame(np.eye(4, 3), index=list("abcd"), columns=list("xyz"))
    labels = pd.Series([0, 1, 0, 1], index=list("dcba"))
    with pytest.raises(ValueError, match=r"rows go by position: use X.loc\[y.index\]"):
        ms.MetaReweighter().fit(rows, labels)
    with pytest.raises(ValueError, match="different orders"):
        ms.MetaReweighter().fit(rows, labels.loc[rows.index], rows, labels)


def test_arguments_that_do_not_fit_together_are_refused() -> None:
    data = samples()
    estimator = ms.MetaReweighter(model="linear")
    with pytest.raises(ValueError, match="X_meta and y_meta are given together"):
        estimator.fit(data.features, data.given, X_meta=data.features)
    with pytest.raises(ValueError, match="19 features, but MetaReweighter is expecting 20"):
        estimator.fit(data.features, data.given, data.features[:5, 1:], data.true[:5])
    with pytest.raises(ValueError, match="There is one class"):
        estimator.fit(data.features[:3], ["ant"] * 3)
    with pytest.raises(NotFittedError):
        ms.MetaReweighter().predict(data.features)


@pytest.mark.slow
@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [ms.MetaReweighter(model="linear"), ms.MetaReweighter(**QUICK)]
)
def test_scikit_learns_checks_pass(estimator: Any, check: Any) -> None:
    check(estimator)
