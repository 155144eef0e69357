"""``select`` and ``find_label_issues`` on arrays: what the command line gives for the same numbers, and refusals."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import metaselect
from noisy_clusters import pool as noisy_pool
from sklearn.metrics import roc_auc_score

import metaselect as ms
from metaselect.run.tables import fixed_lists

NAMES = np.array(["ant", "bee", "cat", "dog"])


class Samples(NamedTuple):
    """n samples of four clusters, two of them near duplicates, a third of the labels wrong."""

    ids: list[str]
    features: np.ndarray
    probs: np.ndarray
    given: np.ndarray
    true: np.ndarray

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.features, index=pd.Index(self.ids))

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The manifest of ids, labels and features, and the file for --features, in another order."""
        data, outside = folder / "data.parquet", folder / "outside.parquet"
        order = np.random.default_rng(1).permutation(len(self.ids))
        ids = pa.array(np.array(self.ids)[order])
        features, probs = fixed_lists(self.features[order]), fixed_lists(self.probs[order])
        labels = pa.array(self.given[order].tolist())
        pq.write_table(pa.table({"sample_id": ids, "label": labels, "features": features}), data)
        pq.write_table(pa.table({"sample_id": ids, "features": features, "probs": probs}), outside)
        return data, outside


def samples(n: int = 120, d: int = 20) -> Samples:
    draw = np.random.default_rng(3)
    true = np.arange(n) % 4
    features = (3 * np.eye(4, d)[true] + draw.normal(size=(n, d))).astype(np.float32)
    features[5] = features[1]
    logits = features[:, :4] + draw.normal(size=(n, 4))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = np.where(draw.random(n) < 0.3, (true + 1) % 4, true)
    ids = [f"{number:03d}" for number in range(n)]
    return Samples(ids, features, probs.astype(np.float32), NAMES[given], NAMES[true])


def chosen(run: Path, number: int = 1) -> list[str]:
    with (run / f"select/round-{number}/selected.csv").open(newline="") as stream:
        return [row["sample_id"] for row in csv.DictReader(stream)]


@pytest.mark.parametrize("method", ["auto", "rbc", "badge", "random", "craig", "low-self-confidence"])
def test_select_picks_what_the_command_picks(method: str, tmp_path: Path) -> None:
    data = samples()
    manifest, outside = data.write(tmp_path)
    run = tmp_path / "run"
    metaselect("ingest", manifest, run=run)
    words = ("select", "--budget", 12, "--method", method, "--seed", 7, "--features", outside)
    metaselect(*words, run=run)
    options: Any = {"budget": 12, "method": method, "seed": 7}
    picks = ms.select(data.features, data.probs, labels=data.given, **options)
    assert picks.dtype == np.int64
    assert [data.ids[pick] for pick in picks] == chosen(run)
    # The same by name, whatever the order of the rows, and of tensors.
    order = np.random.default_rng(2).permutation(len(data.ids))
    labels = pd.Series(data.given, index=data.ids)
    probs = pd.DataFrame(data.probs, index=data.ids, columns=NAMES)
    assert ms.select(data.frame.iloc[order], probs, labels=labels, **options).tolist() == chosen(run)
    again = ms.select(
        torch.from_numpy(data.features), torch.from_numpy(data.probs), labels=data.given, **options
    )
    assert again.tolist() == picks.tolist()


def test_a_later_purchase_is_that_of_the_next_round(tmp_path: Path) -> None:
    data = samples()
    manifest, outside = data.write(tmp_path)
    run = tmp_path / "run"
    metaselect("ingest", manifest, run=run)
    metaselect("select", "--budget", 8, "--features", outside, run=run)
    truth = dict(zip(data.ids, data.true, strict=True))
    answers = {name: truth[name] for name in chosen(run)[:-1]}
    lines = [f"{name},{label}" for name, label in answers.items()]
    (tmp_path / "answers.csv").write_text("\n".join(["sample_id,clean_label", *lines]) + "\n")
    metaselect("annotate", "import", tmp_path / "answers.csv", run=run)
    metaselect("select", "--budget", 5, "--features", outside, "--round", "next", run=run)
    bought = {**answers, chosen(run)[-1]: None}
    labels = pd.Series(data.given, index=data.ids)
    second = ms.select(data.frame, data.probs, labels=labels, budget=5, bought=bought, round=2)
    assert second.tolist() == chosen(run, 2)
    positions = {data.ids.index(name): label for name, label in bought.items()}
    by_position = ms.select(data.features, data.probs, labels=data.given, budget=5, bought=positions, round=2)
    assert [data.ids[pick] for pick in by_position] == chosen(run, 2)


def test_no_two_near_duplicates_are_chosen() -> None:
    data = samples()
    everything = ms.select(data.features, budget=119, method="random")
    assert len({1, 5} & set(everything.tolist())) == 1
    with pytest.raises(ValueError, match="A budget of 120 is not possible: 1 samples are near duplicates"):
        ms.select(data.features, budget=120, method="random")
    assert 1 not in ms.select(data.features, budget=118, method="random", bought={5: "ant"})


def features_with(place: tuple[int, int], value: float) -> np.ndarray:
    found = samples().features.copy()
    found[place] = value
    return found


DATA = samples()
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "NaN": (lambda: ms.select(features_with((4, 2), np.nan), budget=3), "Row 4 of features has NaN"),
    "huge": (lambda: ms.select(features_with((4, 2), 1e30), budget=3), "Row 4 of features"),
    "one dimension": (lambda: ms.select(DATA.features[0], budget=3), r"shape \(20,\)"),
    "text": (lambda: ms.select(DATA.given[:, None], budget=3), "no array of numbers"),
    "budget": (lambda: ms.select(DATA.features, budget=0), "budget is 0; 120 samples can be chosen"),
    "budget left": (lambda: ms.select(DATA.features, budget=120, bought={3: "ant"}), "119 samples"),
    "method": (lambda: ms.select(DATA.features, budget=3, method="best"), "'best' is not known. One of: auto, rbc"),
    "needs probs": (lambda: ms.select(DATA.features, budget=3, method="rbc"), r"rbc needs probs\. Give probs"),
    "needs images": (lambda: ms.select(DATA.features, DATA.probs, budget=3, method="ta-vaal"), "ta-vaal needs images"),
    "probs rows": (lambda: ms.select(DATA.features, DATA.probs[1:], budget=3), "119 rows for 120 samples"),
    "probs sums": (lambda: ms.select(DATA.features, DATA.probs / 2, budget=3), "Row 0 of probs is no distribution"),
    "index": (lambda: ms.select(DATA.frame, pd.DataFrame(DATA.probs), budget=3), "index of probs"),
    "twice": (lambda: ms.select(DATA.frame.set_axis(["x"] * 120), budget=3), "names a sample twice"),
    "no mapping": (lambda: ms.select(DATA.features, budget=3, bought=[3]), "no mapping"),
    "no sample": (lambda: ms.select(DATA.features, budget=3, bought={120: "ant"}), "120, which is no sample"),
    "mixed labels": (lambda: ms.find_label_issues(["a", 1], [[0.5, 0.5]] * 2), "integers or texts"),
    "half labels": (lambda: ms.find_label_issues([0.5, 1], [[0.5, 0.5]] * 2), "integers or texts"),
    "no column": (lambda: ms.find_label_issues([0, 2], [[0.5, 0.5]] * 2), "label 2 is none of the 2 columns"),
    "columns": (lambda: ms.find_label_issues(["a", "a"], [[0.5, 0.5]] * 2), "2 columns, and 1 classes"),
    "no labels": (lambda: ms.find_label_issues([None, None], [[0.5, 0.5]] * 2), "No sample has a given label"),
    "one column": (lambda: ms.find_label_issues([0, 0], [[1.0], [1.0]]), r"shape \(2, 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_a_value_error(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_half_a_label_cannot_be_bought() -> None:
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        ms.select(DATA.features, budget=2.5)  # type: ignore[arg-type]
    picks = ms.select(DATA.features, budget=np.int64(2), method="random")  # type: ignore[arg-type]
    assert len(picks) == 2


@pytest.mark.parametrize("method", ["auto", "uniform"])
def test_label_issues_are_those_of_the_command(tmp_path: Path, method: str) -> None:
    """With bought labels those of auto; without, the ranks of uniform. For the same out-of-fold probabilities."""
    data = samples()
    manifest, _ = data.write(tmp_path)
    path = tmp_path / "run"
    metaselect("warmup", manifest, "--model", "linear", run=path)
    buys = method == "auto"
    if buys:
        metaselect("select", "--budget", 16, "--method", "random", run=path)
        truth = dict(zip(data.ids, data.true, strict=True))
        lines = [f"{name},{truth[name]},done" for name in chosen(path)[1:]] + [
            f"{chosen(path)[0]},,bad_sample"
        ]
        (tmp_path / "answers.csv").write_text("\n".join(["sample_id,clean_label,status", *lines]) + "\n")
        metaselect("annotate", "import", tmp_path / "answers.csv", run=path)
    metaselect("reweight", "--method", method, "--folds", 0, run=path)
    run = ms.open_run(path)
    weights, bought, probs = run.weights(method), run.meta_set()["clean_label"], run.probs()
    issues = ms.find_label_issues(run.samples()["given_label"], probs, data.frame, bought=bought)
    assert issues.index.tolist() == weights.index.tolist()
    assert issues["given_label"].tolist() == weights["given_label"].tolist()
    assert issues["rank"].equals(weights["label_issue_rank"].set_axis(issues.index))
    if buys:
        assert issues["weight"].tolist() == weights["weight"].tolist()
    else:
        assert issues["suggested_label"].tolist() == probs.idxmax(axis=1).tolist()
        assert issues["weight"].tolist() == [
            probs.loc[name, label] for name, label in issues["given_label"].items()
        ]
    answered = bought.dropna()
    assert issues.loc[answered.index, "suggested_label"].tolist() == answered.tolist()
    assert issues["suggested_label"].isna().sum() == (1 if buys else 0)
    # By position, with classes as integers.
    number_of = {name: number for number, name in enumerate(NAMES)}
    given = np.array([number_of[name] for name in data.given])
    positions = {data.ids.index(name): number_of.get(label) for name, label in bought.items()}
    plain = ms.find_label_issues(given, probs.to_numpy(), data.features, bought=positions)
    assert plain["weight"].tolist() == issues["weight"].tolist()
    suggested = issues["suggested_label"].dropna()
    assert plain["suggested_label"].dropna().tolist() == [number_of[name] for name in suggested]


def test_label_issues_follow_their_samples() -> None:
    data = samples()
    labels = pd.Series(data.given, index=data.ids)
    probs = pd.DataFrame(data.probs, index=data.ids, columns=NAMES)
    bought = dict(zip(data.ids[:20], data.true, strict=False))
    issues = ms.find_label_issues(labels, probs, bought=bought)
    order = np.random.default_rng(4).permutation(len(labels))
    shuffled = ms.find_label_issues(labels.iloc[order], probs, bought=bought)
    assert shuffled.index.tolist() == labels.index[order].tolist()
    pd.testing.assert_frame_equal(shuffled.loc[issues.index], issues, check_names=False)
    assert issues["rank"].dropna().sort_values().tolist() == list(range(1, 101))
    assert issues["weight"].between(0, 1).all()


@pytest.mark.parametrize(("noise", "bought"), [("uniform 40", 0), ("uniform 40", 20), ("derangement 60", 20)])
def test_probabilities_alone_find_wrong_labels(noise: str, bought: int) -> None:
    """Where the wrong label is the majority, bought labels turn the ranking round."""
    found = noisy_pool(noise, n=200)
    given, probs = found.evidence.given.numpy(), found.evidence.probs.numpy()
    answers = {int(row): int(found.true[row]) for row in found.bought[:bought]}
    issues = ms.find_label_issues(given, probs, bought=answers)
    rest = issues["rank"].notna().to_numpy()
    wrong = (given != found.true.numpy())[rest]
    weights = issues["weight"].to_numpy()[rest]
    own = probs[np.arange(200), given][rest]
    assert roc_auc_score(~wrong, weights) > max(0.9, roc_auc_score(~wrong, own) - 0.01)
