"""`select --method auto`: the method of its rule, which is said and recorded, and gives what that method gives."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import metaselect, tree

from metaselect.options import SelectOptions


def record_of(run: Path, number: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"select/round-{number}/stage.json").read_text())
    return found


def table_of_features(path: Path, ids: list[str], labels: list[str] | None = None) -> Path:
    """Seeded features of 6 numbers; with ``labels``, a data set."""
    draw = np.random.default_rng(0)
    columns = {"sample_id": pa.array(ids), "features": pa.array(list(draw.normal(size=(len(ids), 6))))}
    pq.write_table(pa.table(columns | ({"label": pa.array(labels)} if labels else {})), path)
    return path


@pytest.mark.slow
def test_a_network_of_its_own_means_rbc(warm: Path, tmp_path: Path) -> None:
    assert SelectOptions().method == "auto"
    copied = Path(shutil.copytree(warm, tmp_path / "copied"))
    done = metaselect("select", "--budget", 7, "--json", run=warm)
    assert "Method auto: rbc, since the features are those of a network" in done.err
    assert done.json["method"] == "rbc"
    key = record_of(warm)
    assert key["options"]["method"] == "rbc"
    assert key["options"]["option"]["features"] == "product"
    assert set(key["auto"]) == {"method", "option"}
    metaselect("select", "--budget", 7, "--method", "rbc", run=copied)
    assert record_of(copied)["auto"] == []
    assert tree(warm, leave=("stage.json", ".lock")) == tree(copied, leave=("stage.json", ".lock"))
    # Naming what the rule chose is no other setting; another method is.
    assert "is up to date" in metaselect("select", "--budget", 7, "--method", "rbc", run=warm).err
    assert 'method: "rbc" -> "random"' in metaselect("select", "--method", "random", run=warm, code=4).err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--gradient", "full"), ("--profile", "long-tail")])
def test_gradient_and_profile_mean_rbc_also_for_frozen_features(
    warm: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    ids = pq.read_table(warm / "data/samples.parquet")["sample_id"].to_pylist()
    file = table_of_features(tmp_path / "f.parquet", ids)
    refused = metaselect("select", "--budget", 5, "--features", file, *flags, run=warm, code=2)
    assert f"Method auto: rbc, which has {flags[0]}." in refused.err
    assert "has no column probs, which rbc needs" in refused.err
    assert metaselect("select", "--budget", 5, *flags, "--json", run=warm).json["method"] == "rbc"
    assert record_of(warm)["options"]["option"]["gradient"] == "full"


@pytest.mark.slow
def test_a_file_of_features_means_k_means(warm: Path, tmp_path: Path) -> None:
    ids = pq.read_table(warm / "data/samples.parquet")["sample_id"].to_pylist()
    file = table_of_features(tmp_path / "f.parquet", ids)
    done = metaselect("select", "--budget", 5, "--features", file, "--json", run=warm)
    assert "Method auto: k-means, since the features are frozen." in done.err
    assert done.json["method"] == record_of(warm)["options"]["method"] == "k-means"


def test_a_pool_of_features_means_k_means(tmp_path: Path) -> None:
    run = tmp_path / "run"
    labels = [("cat", "dog", "owl")[index % 3] for index in range(45)]
    data = table_of_features(tmp_path / "d.parquet", [f"s{index:02d}" for index in range(45)], labels)
    metaselect("warmup", data, "--epochs", 2, "--checkpoints", 1, run=run)
    done = metaselect("select", "--budget", 6, run=run)
    assert done.out.splitlines()[-1].endswith("selected.csv: 6 samples chosen by k-means")
    explained = metaselect("explain", "s00", "--json", run=run).json["selection"]
    assert explained["method"] == "k-means"
    assert explained["cluster"]["pivot"]["rank"] in range(1, 7)


def test_a_later_round_on_features_means_disagreement_once_there_are_answers(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ids = [f"s{index:02d}" for index in range(45)]
    labels = [("cat", "dog", "owl")[index % 3] for index in range(45)]
    data = table_of_features(tmp_path / "d.parquet", ids, labels)
    (tmp_path / "truth.csv").write_text(
        "\n".join(["sample_id,clean_label", *map(",".join, zip(ids, labels, strict=True))]) + "\n"
    )
    metaselect("warmup", data, "--epochs", 2, "--checkpoints", 1, run=run)
    first, second = ("select", "--budget", 6), ("select", "--round", "next", "--budget", 5)
    metaselect(*first, run=run)
    metaselect("annotate", "export", run=run)
    assert "Method auto: k-means, " in metaselect(*second, run=run).err  # exported, without an answer yet
    shutil.rmtree(run / "select/round-2")
    metaselect("annotate", "simulate", tmp_path / "truth.csv", run=run)
    done = metaselect(*second, "--json", run=run)
    assert (
        "Method auto: disagreement, since the features are frozen and labels were bought before." in done.err
    )
    assert done.json["method"] == "disagreement"
    record = record_of(run, 2)
    assert record["details"]["choice"] == {
        "clustered": 20,
        "labels_of_the_head": 6,
    }  # half of 39 samples, rounded
    explained = metaselect("explain", ids[0], "--json", run=run).json["selection"]
    assert (explained["method"], explained["cluster"]) == ("disagreement", None)
    assert explained["score"]["pool"] == 45
    # The answers of a closed round are no labels that were bought before it, also when it is checked again.
    metaselect("annotate", "simulate", tmp_path / "truth.csv", run=run)
    assert "Round 2 is closed and stays as it is." in metaselect("select", "--budget", 5, run=run).err


def test_a_closed_round_stays_where_the_rule_knows_more_labels_by_now(tmp_path: Path) -> None:
    """Round 2 was chosen and exported before the answers of round 1 came."""
    run = tmp_path / "run"
    ids = [f"s{index:02d}" for index in range(30)]
    data = table_of_features(tmp_path / "d.parquet", ids, ["cat", "dog"] * 15)
    (tmp_path / "truth.csv").write_text(
        "\n".join(["sample_id,clean_label", *(f"{i},cat" for i in ids)]) + "\n"
    )
    metaselect("warmup", data, "--epochs", 2, "--checkpoints", 1, run=run)
    metaselect("select", "--budget", 4, run=run)
    metaselect("annotate", "export", run=run)
    metaselect("select", "--budget", 4, "--round", "next", run=run)
    metaselect("annotate", "export", run=run)
    metaselect("annotate", "simulate", tmp_path / "truth.csv", "--round", 1, run=run)
    done = metaselect("select", "--budget", 4, run=run)
    assert "Round 2 is closed and stays as it is." in done.err
    assert "Round 2 is closed: it was exported" in metaselect("select", "--budget", 5, run=run, code=4).err
    refused = metaselect("select", "--budget", 4, "--method", "random", run=run, code=4)
    assert "Round 2 is closed: it was exported" in refused.err


def test_a_rule_has_no_options_to_explain(tmp_path: Path) -> None:
    refused = metaselect("select", "--option", "help", run=tmp_path, code=2)
    assert "--option help explains the options of one method." in refused.err
    assert "starts" in metaselect("select", "--method", "k-means", "--option", "help", run=tmp_path).out
