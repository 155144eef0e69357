"""`reweight --method fsr` through the command line, without and with bought labels."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from command_line import TEST, TRUTH, metaselect, tree
from safetensors.torch import load_file

FSR = ("reweight", "--method", "fsr", "--epochs", 3, "--batch-size", 16)


def history(run: Path, name: str = "fsr") -> list[dict[str, str]]:
    with (run / f"reweight/{name}/history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_fsr_needs_no_annotation(warm: Path) -> None:
    result = metaselect(*FSR, "--json", run=warm).json
    assert (result["bought"], result["bought_accuracy"], result["dead"]) == (0, None, None)
    table = pq.read_table(warm / "reweight/fsr/weights.parquet").to_pydict()
    weights = np.array(table["weight"])
    assert len(weights) == 200
    assert 0 <= weights.min() < weights.max() <= 1
    assert set(table["weight_kind"]) == {"mean of last visits"}
    assert not any(table["bought"])
    assert sorted(table["label_issue_rank"]) == list(range(1, 201))
    assert [row["bought_loss"] for row in history(warm)] == ["nan"] * 3
    options = json.loads((warm / "reweight/fsr/stage.json").read_text())["options"]
    assert options["meta_batch_size"] == 2 * 16
    assert options["option"]["pusher"] == "auto"
    before = tree(warm)
    assert "up to date" in metaselect(*FSR, run=warm).err
    assert tree(warm, leave=(".lock", "log.txt")) == {
        name: content for name, content in before.items() if name != "log.txt"
    }
    evaluated = metaselect("evaluate", TEST, "--truth", TRUTH, "--json", run=warm).json
    assert evaluated["ok"]


def test_the_others_still_need_bought_labels_and_say_who_does_not(warm: Path) -> None:
    refused = metaselect("reweight", "--method", "l2rw", run=warm, code=4)
    assert "l2rw learns from bought labels" in refused.err
    assert "--method fsr" in refused.err


def test_bought_labels_join_and_new_ones_make_it_stale(bought: Path) -> None:
    result = metaselect(*FSR, "--json", run=bought).json
    assert result["bought"] == 20
    assert 0 <= result["bought_accuracy"] <= 1
    table = pq.read_table(bought / "reweight/fsr/weights.parquet").to_pydict()
    mine = [weight for weight, mark in zip(table["weight"], table["bought"], strict=True) if mark]
    assert mine == [1.0] * 20
    assert all(row["bought_loss"] != "nan" for row in history(bought))
    first = tree(bought / "reweight/fsr", leave=("stage.json",))
    metaselect(*FSR, "--force", run=bought)
    assert tree(bought / "reweight/fsr", leave=("stage.json",)) == first
    answer = bought.parent / "answer.csv"
    with (bought / "annotate/meta_set.csv").open(newline="") as stream:
        row = next(csv.DictReader(stream))
    other = str((int(row["clean_label"]) + 1) % 10)
    answer.write_text(f"sample_id,clean_label,annotator\n{row['sample_id']},{other},simulated\n")
    metaselect("annotate", "import", answer, run=bought)
    assert "annotate/meta_set.csv changed since" in metaselect(*FSR, run=bought).err
    assert tree(bought / "reweight/fsr", leave=("stage.json",)) != first


def test_the_averaged_model_is_the_one_that_is_saved(warm: Path) -> None:
    plain, averaged = (*FSR, "--name", "plain"), (*FSR, "--name", "averaged", "--option", "ema=0.99")
    for words in (plain, averaged):
        metaselect(*words, run=warm)
    models = [load_file(warm / f"reweight/{name}/model.safetensors") for name in ("plain", "averaged")]
    assert models[0].keys() == models[1].keys()
    assert not any(bool((models[0][name] == models[1][name]).all()) for name in models[0])
    # Averaging judges the run and does not steer it.
    trained = [[row["loss"] for row in history(warm, name)] for name in ("plain", "averaged")]
    assert trained[0] == trained[1]
