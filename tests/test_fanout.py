"""fanout: who is offered which label, what is accepted, and what export makes of it."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import SIMULATE, metaselect

from metaselect.stages.export.fanout import check


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


@pytest.fixture(scope="module")
def clusters_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 240 features in three overlapping clusters, a third of whose labels are wrong."""
    folder, rng = tmp_path_factory.mktemp("clusters"), np.random.default_rng(0)
    true = np.arange(240) % 3
    given = np.where(np.arange(240) % 9 < 3, (true + 1) % 3, true)
    rows = 1.5 * rng.normal(size=(3, 24))[true] + rng.normal(size=(240, 24))
    ids = [f"s{number:03d}" for number in range(240)]
    features = pa.array(list(rows.astype(np.float32)), pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"sample_id": ids, "features": features, "label": given}), folder / "pool.parquet"
    )
    answers = "".join(f"{name},{label}\n" for name, label in zip(ids, true, strict=True))
    (folder / "truth.csv").write_text(f"sample_id,clean_label\n{answers}")
    run = folder / "run"
    metaselect("warmup", folder / "pool.parquet", run=run)
    metaselect("select", "--budget", 30, run=run)
    metaselect("annotate", "simulate", folder / "truth.csv", run=run)
    metaselect("reweight", "--folds", 3, run=run)
    return run


@pytest.fixture
def clusters(clusters_once: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(clusters_once, tmp_path / "clusters"))


def row(
    clean: str, predicted: str, prob: float | str, given: str = "x", given_prob: float | str = 0.0
) -> dict[str, str]:
    """A row of cross_fit.csv."""
    return {
        "clean_label": clean,
        "given_label": given,
        "method_predicted": predicted,
        "method_prob": str(prob),
        "method_given_prob": str(given_prob),
    }


def test_suggestions_are_counted_from_the_limit_on() -> None:
    rows = [
        row("a", "a", 0.9),
        row("a", "a", 0.8),
        row("a", "a", 0.79),  # below the limit
        row("a", "b", 0.1, given="b", given_prob=0.85),  # sure of the given label, and wrong
        row("a", "b", 0.1, given="b", given_prob=0.7),  # wrong, and below
        row("a", "c", 0.1, given="b", given_prob=0.05),  # wrong, with a probability up to 0.85: it counts
        row("a", "c", 0.1, given="b", given_prob=0.2),  # wrong, with one up to 0.7
        row("a", "c", 0.15, given="a", given_prob=0.15),  # the same label twice: up to 0.85
        row("", "a", "", given="a", given_prob=0.99),  # not bought
    ]
    found = check(rows, 0.8)
    assert (found.labels, found.right, found.changed, found.changed_right) == (5, 2, 4, 2)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.5 < found.high
    assert check([], 0.8) == (0, 0, 0, 0, None, None)


def test_each_member_of_a_cluster_is_offered_the_label_of_its_pick(finished: Path) -> None:
    done = metaselect("fanout", "--json", run=finished).json
    offers = read(finished / "fanout/offers.parquet")
    clusters = {each["sample_id"]: each for each in read(finished / "select/round-1/clusters.parquet")}
    issues = {each["sample_id"]: each for each in read(finished / "reweight/auto/issues.parquet")}
    bought = {name: each["bought_label"] for name, each in issues.items() if each["bought_label"] is not None}
    picked = {clusters[name]["cluster"]: name for name in bought if clusters[name]["cluster"] >= 0}
    members = {name for name, each in clusters.items() if name not in bought and each["cluster"] in picked}
    assert [each["sample_id"] for each in offers] == sorted(members)
    for each in offers:
        place, issue = clusters[each["sample_id"]], issues[each["sample_id"]]
        assert clusters[each["pick"]]["cluster"] == place["cluster"]
        assert each["label"] == bought[each["pick"]]
        assert each["model_agrees"] == (issue["suggested_label"] == each["label"])
        expected = 1 - issue["suggested_prob"] if each["model_agrees"] else 1
        assert each["risk"] == pytest.approx(expected, abs=1e-6)
        assert not each["accepted"]
    assert done["offers"] == len(offers) > 50
    assert done["agreed"] == sum(each["model_agrees"] for each in offers) > 0
    with (finished / "fanout/review.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    agreed = {
        each["sample_id"] for each in offers if each["model_agrees"] and each["label"] == each["given_label"]
    }
    assert {each["sample_id"] for each in listed} == members - agreed
    risks = [float(each["risk"]) for each in listed]
    assert risks == sorted(risks, reverse=True)
    again = metaselect("fanout", run=finished)
    assert again.err.count("up to date")
    assert f"To review: {len(listed)}, the riskiest first" in again.out


def test_export_follows_accepted_offers_and_refuses_old_ones(clusters: Path, tmp_path: Path) -> None:
    done = metaselect("fanout", "--accept", 0.7, "--json", run=clusters).json
    assert done["checked"]["right"] >= 0.7 * done["checked"]["labels"] > 7
    offers = read(clusters / "fanout/offers.parquet")
    accepted = {each["sample_id"]: each for each in offers if each["accepted"]}
    assert {name for name, each in accepted.items()} == {
        each["sample_id"] for each in offers if each["model_agrees"] and each["risk"] <= 0.3 + 1e-6
    }
    assert len(accepted) == done["accepted"] > 50
    metaselect("export", "-o", tmp_path / "out", "--relabel-above", 1, run=clusters)
    for each in read(tmp_path / "out/labels.parquet"):
        if each["sample_id"] in accepted:
            offer = accepted[each["sample_id"]]
            assert each["final_label"] == offer["label"]
            assert each["decision"] == ("keep" if offer["label"] == offer["given_label"] else "relabel")
            assert each["weight"] == pytest.approx(1 - offer["risk"], abs=1e-5)
    metaselect("reweight", "--method", "uniform", "--folds", 0, run=clusters)
    other = metaselect("export", "-o", tmp_path / "uniform", "--name", "uniform", "--json", run=clusters).json
    assert other["accepted_offers"] == 0
    metaselect("reweight", "--seed", 1, "--folds", 0, "--force", run=clusters)
    stale = metaselect("export", "-o", tmp_path / "other", run=clusters, code=4)
    assert "fanout is stale" in stale.err
    assert not (tmp_path / "other").exists()


def test_the_list_to_review_is_the_next_round(clusters: Path, clusters_once: Path, tmp_path: Path) -> None:
    metaselect("fanout", run=clusters)
    path = clusters / "fanout/review.csv"
    with path.open(newline="") as stream:
        listed = [each["sample_id"] for each in csv.DictReader(stream)]
    words = ("select", "--round", "next", "--budget", 7, "--samples", path)
    assert metaselect(*words, "--dry-run", "--json", run=clusters).json["needs"]["seconds_choice"] is None
    done = metaselect(*words, run=clusters)
    assert f"7 samples from {path} (37 with earlier ones)" in done.out
    with (clusters / "select/round-2/selected.csv").open(newline="") as stream:
        assert [each["sample_id"] for each in csv.DictReader(stream)] == listed[:7]
    metaselect("annotate", "simulate", clusters_once.parent / "truth.csv", run=clusters)
    metaselect("reweight", "--folds", 0, "--force", run=clusters)
    before = {each["pick"] for each in read(clusters / "fanout/offers.parquet")}
    metaselect("fanout", run=clusters)
    offers = read(clusters / "fanout/offers.parquet")
    assert {each["pick"] for each in offers} <= before  # a list makes no clusters
    assert not {each["sample_id"] for each in offers} & set(listed[:7])
    assert metaselect("export", "-o", tmp_path / "out", "--json", run=clusters).json["samples"] == 240


def test_nothing_is_accepted_unchecked(finished: Path) -> None:
    sure = metaselect("fanout", "--accept", 1, run=finished, code=1)
    assert "takes 10 with such a probability" in sure.err
    assert not (finished / "fanout").exists()


def test_a_choice_without_clusters_has_nobody_to_offer_to(warm: Path) -> None:
    metaselect("select", "--budget", 10, "--method", "random", run=warm)
    metaselect(*SIMULATE, run=warm)
    metaselect("reweight", "--method", "uniform", "--folds", 0, "--epochs", 1, run=warm)
    assert "No round chose by clusters" in metaselect("fanout", run=warm, code=1).err


def test_limits_move_the_decisions(clusters: Path, tmp_path: Path) -> None:
    words = ("export", "-o", tmp_path / "out", "--json", "--force", "--keep-above", 0.99)
    sure = metaselect(*words, "--relabel-above", 1, run=clusters).json["decisions"]
    bold = metaselect(*words, "--relabel-above", 0, run=clusters).json["decisions"]
    assert sure["relabel"] <= bold["relabel"]
    assert sure["review"] > bold["review"]
    dropped = metaselect(*words, "--relabel-above", 1, "--drop-below", 0.99, run=clusters).json["decisions"]
    assert (dropped["review"], dropped["drop"]) == (0, sure["review"])


def test_what_bought_labels_contradict_is_not_accepted(finished: Path) -> None:
    """The models of this run trained for too few epochs, and are wrong where they are sure."""
    refused = metaselect("fanout", "--accept", 0.3, run=finished, code=1)
    assert "is not kept" in refused.err
    assert not (finished / "fanout").exists()
