"""What a truth file tells of the labels: right ones against bought ones, rankings, which label is given for which."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import BUDGET, EVALUATE, LIMIT, SIMULATE, TEST, TRUTH, metaselect, states
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from metaselect.annotation.meta_set import MetaSet
from metaselect.stages.evaluate.truth import Truth


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def column(path: Path, name: str) -> dict[str, Any]:
    table = pq.read_table(path, columns=["sample_id", name])
    return dict(zip(table["sample_id"].to_pylist(), table[name].to_pylist(), strict=True))


def true_labels(run: Path) -> dict[str, str]:
    found = {row["sample_id"]: row["clean_label"] for row in rows_of(TRUTH)}
    return {each: found[each] for each in column(run / "data/samples.parquet", "given_label")}


def made(labels: list[int], given: list[int], bought: dict[int, int]) -> Truth:
    """A truth beside labels, of which those in ``bought`` are replaced."""
    meta_set = MetaSet(np.array([*bought]), np.array([*bought.values()]), np.empty(0, np.int64))
    current, flags = np.array(given), np.zeros(len(given), bool)
    current[meta_set.bought], flags[meta_set.bought] = meta_set.labels, True
    return Truth(np.array(labels), np.array(given), current, flags, 0, labels.count(-1))


def test_right_labels_by_hand() -> None:
    """Ten samples: the truth of the last is not known, the ninth has no given label, the first four are bought."""
    truth = made(
        [0, 0, 1, 1, 2, 2, 0, 1, 2, -1],
        [0, 1, 0, 1, 2, 0, 0, 1, -1, 2],
        {0: 0, 1: 0, 2: 2, 9: 1},  # right as given, corrected, wrong still, not known
    )
    first = np.arange(10) < 2
    found: Any = truth.correct_labels([first, np.ones(10, bool)])
    assert (found["samples"], found["given"]) == (9, 5)
    whole = {"bought": 3, "right": 6, "random": 5 + 3 * 4 / 9, "oracle": 8}
    assert {key: found[key] for key in whole} == pytest.approx(whole)
    assert found["rounds"] == [
        pytest.approx({"bought": 2, "right": 6, "random": 5 + 2 * 4 / 9, "oracle": 7}),
        pytest.approx(whole),
    ]
    noise: Any = truth.noise(3)
    assert noise["matrix"] == [[2, 1, 1], [1, 2, 0], [0, 0, 1]]  # a row is a given label
    assert (noise["samples"], noise["measured_rate"]) == (8, 3 / 8)


def test_an_oracle_never_has_more_right_labels_than_samples() -> None:
    truth = made([0, 1, 1], [0, 1, 0], {0: 0, 1: 1, 2: 1})
    found: Any = truth.correct_labels([])
    assert (found["oracle"], found["random"], found["right"]) == (3, 3, 3)


def test_the_random_line_is_the_mean_over_draws() -> None:
    draw = np.random.default_rng(0)
    labels, given = draw.integers(0, 3, (2, 60))
    right = []
    for _ in range(4000):
        chosen = draw.choice(60, 20, replace=False)
        truth = made(
            labels.tolist(), given.tolist(), dict(zip(chosen.tolist(), labels[chosen].tolist(), strict=True))
        )
        found: Any = truth.correct_labels([])
        right.append(found["right"])
    assert np.mean(right) == pytest.approx(found["random"], abs=4 * np.std(right) / np.sqrt(len(right)))
    assert max(right) <= found["oracle"]


def test_a_run_says_how_many_labels_are_right(finished: Path) -> None:
    metrics = json.loads((finished / "evaluate/test/metrics.json").read_text())
    true, given = true_labels(finished), column(finished / "data/samples.parquet", "given_label")
    bought = {row["sample_id"]: row["clean_label"] for row in rows_of(finished / "annotate/meta_set.csv")}
    assert bought == {each: true[each] for each in bought}
    wrong = [each for each in true if given[each] != true[each]]
    after = len(true) - len([each for each in wrong if each not in bought])
    expected = {
        "bought": BUDGET,
        "right": after,
        "random": LIMIT - len(wrong) * (1 - BUDGET / LIMIT),
        "oracle": LIMIT - len(wrong) + BUDGET,
    }
    found = metrics["correct_labels"]
    assert found.pop("rounds") == [pytest.approx(expected)]
    assert found == pytest.approx({"samples": LIMIT, "given": LIMIT - len(wrong), **expected})
    matrix = confusion_matrix([*given.values()], [*true.values()], labels=metrics["classes"])
    assert metrics["noise"]["matrix"] == matrix.tolist()
    for name, scores in metrics["reweight"].items():
        table = pq.read_table(finished / f"reweight/{name}/weights.parquet").to_pylist()
        ranked = sorted(
            (row for row in table if row["label_issue_rank"] is not None),
            key=lambda row: row["label_issue_rank"],
        )
        followed = ranked[: scores["k"]]
        # Without ties at the end, which would count in proportion.
        assert len(ranked) == scores["k"] or ranked[scores["k"]]["label_issue_rank"] > scores["k"]
        gained = [
            (row["predicted_label"] == true[row["sample_id"]])
            - (row["given_label"] == true[row["sample_id"]])
            for row in followed
        ]
        assert scores["correct_labels"] == pytest.approx(after + sum(gained))


def test_every_ranking_of_the_warmup_is_judged(finished: Path) -> None:
    warm = json.loads((finished / "evaluate/test/metrics.json").read_text())["warmup"]
    classes = json.loads((finished / "data/classes.json").read_text())
    true, given = true_labels(finished), column(finished / "data/samples.parquet", "given_label")
    ranks = column(finished / "reweight/auto/weights.parquet", "label_issue_rank")
    ids = [each for each in true if ranks[each] is not None]
    wrong = np.array([given[each] != true[each] for each in ids])
    path = finished / "warmup/predictions.parquet"
    suspicion = {
        name: [1 - column(path, name)[each][classes.index(given[each])] for each in ids]
        for name in ("probs", "out_of_fold", "neighbours")
    }
    suspicion["wrong_events"] = [column(path, "wrong_events")[each] for each in ids]
    assert warm["rankings"].keys() == suspicion.keys()
    for name, scores in suspicion.items():
        found = warm["rankings"][name]
        assert found["auc"] == pytest.approx(roc_auc_score(wrong, scores), abs=1e-6)
        assert found["average_precision"] == pytest.approx(average_precision_score(wrong, scores), abs=1e-6)
        assert found["k"] == wrong.sum()
    ours = {key: warm[key] for key in ("average_precision", "k", "precision_at_k")}
    assert warm["rankings"]["out_of_fold"] == {"auc": warm["rank_auc"], **ours}


def test_a_bought_label_is_not_replaced_by_the_suggestion_of_an_older_model(finished: Path) -> None:
    """And an evaluation with a truth is stale once labels are bought."""
    metaselect("evaluate", TEST, "--name", "without", run=finished)
    metaselect("select", "--round", "next", "--budget", LIMIT - BUDGET, "--method", "random", run=finished)
    assert states(finished, 0)["evaluate/test"][0] == "done"
    metaselect(*SIMULATE, run=finished)
    found = states(finished, 1)
    assert found["evaluate/test"] == ("stale", "annotate/meta_set.csv changed since")
    assert found["evaluate/without"][0] == "done"
    result = metaselect(*EVALUATE, "--json", run=finished).json
    correct = result["correct_labels"]
    assert correct["right"] == correct["oracle"] == correct["samples"] == LIMIT
    assert [each["bought"] for each in correct["rounds"]] == [BUDGET, LIMIT]
    assert result["reweight"]["auto"]["correct_labels"] == LIMIT


def test_an_evaluation_before_the_first_answer_is_stale_after_it(warm: Path) -> None:
    found = metaselect(*EVALUATE, "--json", run=warm).json["correct_labels"]
    assert (found["bought"], found["right"], found["rounds"]) == (0, found["given"], [])
    metaselect("select", "--budget", 4, run=warm)
    metaselect(*SIMULATE, run=warm)
    assert states(warm, 1)["evaluate/test"] == ("stale", "annotate/meta_set.csv changed since")
