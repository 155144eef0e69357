"""The comparison at the end of a re-weighting: what is held out and predicted, and how an interrupted one goes on."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotation_run import call, csv_rows
from command_line import metaselect, tree
from data_makers import METHODS, Listener, made, truth_options, write_rows

from metaselect.data_options import IngestOptions
from metaselect.errors import ConditionUnmet, UsageError
from metaselect.options import ReweightOptions, WarmupOptions
from metaselect.registry import REWEIGHTERS
from metaselect.run.layout import Run
from metaselect.stages.reweight import cross_fit as module
from metaselect.stages.reweight.cross_fit import Fold, split, without
from metaselect.stages.reweight.evidence import label_evidence
from metaselect.stages.reweight.reweight import reweight
from metaselect.stages.reweight.setup import ReweightSetup, resolve_setup
from metaselect.stages.reweight.training import train_method
from metaselect.stages.warmup.warmup import warmup
from metaselect.training.pool_predictions import pool_predictions

N, BOUGHT, EPOCHS = 60, 12, 4
ARMS = ("warmup", "baseline", "method")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three clusters of points, a fifth of the labels wrong; twelve bought labels and an unusable sample."""
    root = tmp_path_factory.mktemp("cross-fit")
    draw = np.random.default_rng(4)
    true = np.arange(N) % 3
    points = np.eye(3)[true] * 2 + draw.normal(size=(N, 3))
    given = np.where(draw.random(N) < 0.2, (true + 1) % 3, true)
    names = ("cat", "dog", "owl")
    rows = [(f"x{i:02d}", *points[i], names[given[i]]) for i in range(N)]
    data = write_rows(root / "data.csv", ["sample_id", "f0", "f1", "f2", "label"], rows)
    run = made(data, root / "run", feature_columns="f*")
    options = WarmupOptions(model="mlp", epochs=3, batch_size=16, checkpoints=1, device="cpu")
    warmup(None, run, options, IngestOptions(), Listener())
    said = [(f"x{i:02d}", names[true[i]], "done") for i in range(0, 5 * BOUGHT, 5)] + [
        ("x01", "", "bad_sample")
    ]
    answers = write_rows(root / "answers.csv", ["sample_id", "clean_label", "status"], said)
    assert call(run, "import", str(answers), "--outside-round", "--annotator", "me") == 0
    return run


def options_of(method: str = "direct", **changes: Any) -> ReweightOptions:
    return ReweightOptions(
        method=method, **{"epochs": EPOCHS, "batch_size": 8, "device": "cpu", "folds": 2, **changes}
    )


def setup_of(run: Run, method: str) -> ReweightSetup:
    return resolve_setup(run, options_of(method, **truth_options(run, method)), Listener())


def with_evidence(setup: ReweightSetup) -> ReweightSetup:
    """As the stage does it before it trains."""
    return setup._replace(evidence=label_evidence(setup, Listener()))


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_balanced_in_the_whole_and_in_each_class(run: Run, folds: int) -> None:
    setup = setup_of(run, "direct")
    label = dict(zip(setup.meta_set.bought.tolist(), setup.meta_set.labels.tolist(), strict=True))
    found = [Counter(label[i] for i in fold.bought.tolist()) for fold in split(setup, folds)]
    for sizes in ([each.total() for each in found], *([each[k] for each in found] for k in range(3))):
        assert max(sizes) - min(sizes) <= 1
    assert len({len(fold.others) for fold in split(setup, folds)}) == 1


def test_each_bought_sample_is_in_one_fold_and_others_are_kept_out_beside_it(run: Run) -> None:
    setup = setup_of(run, "direct")
    folds = split(setup, 2)
    assert sorted(i for fold in folds for i in fold.bought.tolist()) == list(range(0, 5 * BOUGHT, 5))
    others = [i for fold in folds for i in fold.others.tolist()]
    assert len(others) == len(set(others)) == 2 * int(0.1 * (N - BOUGHT - 1))
    assert not {*others} & {1, *range(0, 5 * BOUGHT, 5)}
    assert len(split(setup, 100)) == BOUGHT  # leave one out


@pytest.mark.parametrize("method", REWEIGHTERS)
def test_nothing_of_a_held_out_sample_enters_the_training_without_it(
    method: str, run: Run, tmp_path: Path
) -> None:
    """Neither its clean label, nor its given one, nor its features."""
    setup = setup_of(run, method)
    fold = split(setup, 2)[0]
    assert len(fold.others) > 0
    pool, meta_set = setup.pool, setup.meta_set
    inputs, given, clean = np.array(pool.inputs), pool.labels.copy(), meta_set.labels.copy()
    inputs[fold.ids] += 100
    given[fold.ids] = (given[fold.ids] + 1) % 3
    held = np.isin(meta_set.bought, fold.bought)
    clean[held] = (clean[held] + 1) % 3
    changed = setup._replace(
        pool=replace(pool, inputs=inputs, labels=given), meta_set=meta_set._replace(labels=clean)
    )
    states = [
        train_method(
            without(with_evidence(each), METHODS[method], fold), tmp_path / name, "test", Listener()
        ).model.state_dict()
        for each, name in ((setup, "as it is"), (changed, "changed"))
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    # The test of the test: a bought label that is not held out does enter.
    clean[~held] = (clean[~held] + 1) % 3
    changed = with_evidence(changed._replace(meta_set=meta_set._replace(labels=clean)))
    entered = without(changed, METHODS[method], fold)
    other = train_method(entered, tmp_path / "entered", "test", Listener()).model.state_dict()
    assert not all(torch.equal(states[0][name], other[name]) for name in other)


@pytest.mark.parametrize("method", sorted(set(REWEIGHTERS) - {"uniform"}))
def test_the_weight_of_a_held_out_sample_is_of_its_given_label(method: str, run: Run, tmp_path: Path) -> None:
    """Or nothing at all, by the methods that say so."""
    setup = setup_of(run, method)
    fold = split(setup, 2)[0]
    given = setup.pool.labels.copy()
    given[fold.ids] = (given[fold.ids] + 1) % 3
    changed = setup._replace(pool=replace(setup.pool, labels=given))
    first, second = (
        train_method(
            without(with_evidence(each), METHODS[method], fold), tmp_path / name, "test", Listener()
        ).weights[fold.ids]
        for each, name in ((setup, "as it is"), (changed, "changed"))
    )
    assert (first != second).all() if METHODS[method].weighs_unseen else (first == second).all()


def softmax(model: torch.nn.Module, setup: ReweightSetup, index: int) -> np.ndarray:
    mean, std = np.array(setup.pool.preprocess.mean), np.array(setup.pool.preprocess.std)
    x = torch.from_numpy((setup.pool.inputs[index] - mean) / std).float()[None]
    with torch.no_grad():
        probs: np.ndarray = model(x).softmax(1)[0].numpy()
    return probs


def test_rows_hold_the_predictions_of_the_models_without_the_sample(run: Run, tmp_path: Path) -> None:
    reweight(run, options_of(name="rows"), Listener())
    rows = csv_rows(run.path("reweight/rows/cross_fit.csv"))
    setup = setup_of(run, "direct")
    classes, folds = setup.pool.classes, split(setup, 2)
    assert Counter(bool(row["clean_label"]) for row in rows) == {
        True: BOUGHT,
        False: sum(len(f.others) for f in folds),
    }
    clean = dict(zip(setup.meta_set.bought.tolist(), setup.meta_set.labels.tolist(), strict=True))
    by_id = {row["sample_id"]: row for row in rows}
    warm = pool_predictions(run)
    assert warm is not None
    assert warm.out_of_fold is not None
    for index, probs in enumerate(warm.out_of_fold):
        if row := by_id.get(setup.pool.sample_ids[index]):
            assert row["warmup_predicted"] == classes[int(probs.argmax())]
            assert float(row["warmup_given_prob"]) == float(probs[setup.pool.labels[index]])
            assert row["warmup_prob"] == (str(float(probs[clean[index]])) if index in clean else "")
    for fold in folds:
        trainings = {"baseline": METHODS["uniform"], "method": METHODS["direct"]}
        for arm, method in trainings.items():
            held_out = without(setup, method, fold)
            assert held_out.resolved.config.epochs == EPOCHS // 2
            model = train_method(held_out, tmp_path / f"{arm}-{fold.number}", "test", Listener()).model
            for index in fold.ids.tolist():
                row, probs = by_id[setup.pool.sample_ids[index]], softmax(model, setup, index)
                given = setup.pool.labels[index]
                assert int(row["fold"]) == fold.number
                assert row["given_label"] == classes[given]
                assert row[f"{arm}_predicted"] == classes[probs.argmax()]
                assert float(row[f"{arm}_given_prob"]) == pytest.approx(probs[given], rel=1e-4)
                if index in clean:
                    assert row["clean_label"] == classes[clean[index]]
                    assert float(row[f"{arm}_prob"]) == pytest.approx(probs[clean[index]], rel=1e-4)
                else:
                    assert row["clean_label"] == row[f"{arm}_prob"] == ""


def test_the_result_counts_the_rows(run: Run) -> None:
    result: Any = reweight(run, options_of(name="counted"), Listener()).result["comparison"]
    rows = [row for row in csv_rows(run.path("reweight/counted/cross_fit.csv")) if row["clean_label"]]
    assert result["bought"] == len(rows) == BOUGHT
    for arm in ARMS:
        right = sum(row[f"{arm}_predicted"] == row["clean_label"] for row in rows)
        assert (result[arm]["right"], result[arm]["accuracy"]) == (right, right / BOUGHT)
        losses = [-np.log(max(float(row[f"{arm}_prob"]), 1e-3)) for row in rows]
        assert result[arm]["log_loss"] == pytest.approx(np.mean(losses))
    for arm in ("baseline", "warmup"):
        difference = result[f"against_{arm}"]["accuracy"]["difference"]
        assert difference == pytest.approx(result["method"]["accuracy"] - result[arm]["accuracy"])


def test_of_the_baseline_one_arm_is_trained(run: Run) -> None:
    ears = Listener()
    result: Any = reweight(run, options_of("uniform"), ears).result["comparison"]
    assert [what for what, _, _ in ears.tracked] == [
        "reweight uniform",
        "comparison of uniform, baseline 1 of 2",
        "comparison of uniform, baseline 2 of 2",
    ]
    assert result["method"] == result["baseline"]
    assert result["against_baseline"] is result["verdict"] is None
    assert result["against_warmup"]["accuracy"]["low"] <= 0
    assert "2 trainings of 2 epochs of uniform follow" in " ".join(ears.notes)


def test_a_start_from_scratch_is_not_compared_with_the_warmup(run: Run) -> None:
    result: Any = reweight(run, options_of(name="scratch", init="scratch"), Listener()).result["comparison"]
    assert result["warmup"] is result["against_warmup"] is None
    assert result["against_baseline"] is not None
    assert {row["warmup_predicted"] for row in csv_rows(run.path("reweight/scratch/cross_fit.csv"))} == {""}


class Interrupting(Listener):
    """A Reporter that interrupts the work after so many samples."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    @contextmanager
    def track(self, total: int, what: str, unit: str, done: int = 0) -> Iterator[Any]:
        self.tracked.append((what, done, total))

        def advance(count: int, detail: str = "") -> None:
            self.left -= count
            if self.left < 0:
                raise KeyboardInterrupt

        yield advance


def test_an_interrupted_comparison_goes_on_to_the_same_bytes(run: Run) -> None:
    reweight(run, options_of(name="whole"), Listener())
    whole = tree(run.path("reweight/whole"), leave=("stage.json",))
    lives = []
    while True:
        ears = Interrupting(130)  # an epoch is of 36 to 55 samples
        lives.append(ears)
        try:
            reweight(run, options_of(name="killed"), ears)
            break
        except KeyboardInterrupt:
            assert not run.path("reweight/killed").exists()
    assert len(lives) > 3
    assert tree(run.path("reweight/killed"), leave=("stage.json",)) == whole
    begun = Counter(what for life in lives for what, _, _ in life.tracked if what.startswith("comparison"))
    assert len(begun) == 4
    last = [what for what, _, _ in lives[-1].tracked]
    assert "comparison of killed, baseline 1 of 2" not in last  # its predictions were kept
    assert not any(run.path(".work").rglob("*.*"))


def test_without_a_comparison_the_reason_is_said(run: Run, tmp_path: Path) -> None:
    ears = Listener()
    assert reweight(run, options_of(name="none", folds=0), ears).result["comparison"] is None
    assert any("because of --folds 0" in note for note in ears.notes)
    assert not run.path("reweight/none/cross_fit.csv").exists()
    few = setup_of(run, "direct")
    meta_set = few.meta_set._replace(bought=few.meta_set.bought[:3], labels=few.meta_set.labels[:3])
    assert "takes 4 bought labels, and there are 3" in module.reason_without(
        few._replace(meta_set=meta_set), 2
    )
    config = replace(few.resolved.config, accumulate=N - BOUGHT - 1)  # as many as the run itself trains on
    packed = few._replace(resolved=replace(few.resolved, config=config))
    left = N - 1 - BOUGHT - len(split(few, 2)[0].others)
    assert f"without a fold there are {left} samples" in module.reason_without(packed, 2)
    with pytest.raises(UsageError, match="--folds is 1"):
        ReweightOptions(folds=1)


def test_a_training_that_diverges_leaves_the_result_of_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*words: Any) -> None:
        raise ConditionUnmet("the loss is not finite.")

    monkeypatch.setattr(module, "train_method", diverge)
    ears = Listener()
    outcome = reweight(run, options_of(name="diverged"), ears)
    assert outcome.result["comparison"] is None
    assert "No comparison with plain training" in ears.warnings[-1]
    assert run.path("reweight/diverged/model.safetensors").is_file()


def test_a_dry_run_says_what_the_comparison_costs(run: Run) -> None:
    for method, epochs in (("direct", 8), ("uniform", 4)):
        words = ("reweight", "--method", method, "--name", "dry", "--epochs", EPOCHS, "--dry-run", "--json")
        done = metaselect(*words, "--device", "cpu", run=run.root)
        assert done.json["needs"]["comparison_epochs"] == epochs
        assert "For the comparison with plain training" in done.err
    done = metaselect(*words, "--folds", 0, run=run.root)
    assert done.json["needs"]["comparison_epochs"] == 0


@pytest.mark.parametrize(
    ("method", "epochs", "said"),
    [
        ("auto", 0, "4 exact solutions of uniform and 4 exact solutions of the method follow the run"),
        (
            "direct",
            4,
            "4 exact solutions of uniform and 4 trainings of 1 epoch of the method follow the 4 epochs",
        ),
    ],
)
def test_a_model_that_is_solved_takes_no_epochs(run: Run, method: str, epochs: int, said: str) -> None:
    words = ("reweight", "--method", method, "--name", "dry", "--model", "linear", "--init", "scratch")
    done = metaselect(*words, "--epochs", EPOCHS, "--dry-run", "--json", run=run.root)
    assert ("--epochs has no effect on the model linear" in done.err) == (method == "auto")
    assert done.json["needs"]["comparison_epochs"] == epochs
    assert f"For the comparison with plain training, {said}" in done.err


def test_samples_of_a_fold_come_in_order() -> None:
    fold = Fold(1, np.array([3, 5]), np.array([0, 9]))
    assert fold.ids.tolist() == [3, 5, 0, 9]
