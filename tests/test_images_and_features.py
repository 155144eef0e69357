"""Pools whose samples have images and features: people see the images, models take what --on says."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import metaselect, states
from data_makers import Listener, Picture, encode, ids_of, made, samples_table, stage_bytes, write_images

import metaselect.data.ingest as blocks
from metaselect.data.listing import made_id
from metaselect.data.originals import read_originals
from metaselect.data.store import load_pool, preprocess_of, trained_on
from metaselect.data.test_set import read_test_set
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.run.layout import Run
from metaselect.stages.annotate.new_classes import add_classes

CLASSES = ("cat", "dog")
COUNT, SIDE, WIDTH = 40, 6, 5


def samples_of(count: int = COUNT, seed: int = 5) -> tuple[list[Picture], np.ndarray]:
    """Images, and features of which the first number gives the label away."""
    noise = np.random.default_rng(seed)
    labels = [CLASSES[number % 2] for number in range(count)]
    pixels = noise.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    images = [
        Picture(f"i{number}.png", label, encode(each))
        for number, (label, each) in enumerate(zip(labels, pixels, strict=True))
    ]
    features = noise.normal(size=(count, WIDTH)).astype(np.float32)
    features[:, 0] += [4 if label == "dog" else -4 for label in labels]
    return images, features


def write_both(
    path: Path, images: Sequence[Picture], features: np.ndarray, ids: Sequence[str], *, form: str = "bytes"
) -> Path:
    """A manifest of one of four forms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = [each.label for each in images]
    rows = features.tolist()
    if form == "bytes":
        cells: list[object] = [{"bytes": each.raw, "path": None} for each in images]
    else:
        write_images(path.parent, images)
        cells = [each.path for each in images]
    if form in ("bytes", "paths"):
        columns = {"sample_id": ids, "image": cells, "features": rows, "label": labels}
        pq.write_table(pa.table(columns), path, row_group_size=7)
        return path
    names = [f"x{number}" for number in range(WIDTH)]
    records = [
        {"sample_id": name, "image": cell, "label": label, **dict(zip(names, row, strict=True))}
        for name, cell, label, row in zip(ids, cells, labels, rows, strict=True)
    ]
    if form == "jsonl":
        path.write_text("".join(f"{json.dumps(each)}\n" for each in records))
        return path
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


@pytest.fixture
def both(tmp_path: Path) -> Path:
    return write_both(tmp_path / "both/d.parquet", *samples_of(), ids_of(COUNT))


@pytest.mark.parametrize(
    ("form", "name"), [("paths", "d.parquet"), ("csv", "d.csv"), ("jsonl", "d.jsonl"), ("bytes", "e.parquet")]
)
def test_every_form_keeps_both(tmp_path: Path, both: Path, form: str, name: str) -> None:
    images, features = samples_of()
    backwards = write_both(
        tmp_path / form / name, images[::-1], features[::-1], ids_of(COUNT)[::-1], form=form
    )
    wanted = None if name.endswith("parquet") else "x*"
    run, expected = made(backwards, tmp_path / "r", feature_columns=wanted), made(both, tmp_path / "whole")
    leave = ("stage.json", "samples.parquet")  # whose column source has the path
    assert stage_bytes(run.path("data"), leave=leave) == stage_bytes(expected.path("data"), leave=leave)
    assert run.info()["fingerprint"] == expected.info()["fingerprint"]
    order = np.argsort(ids_of(COUNT))
    np.testing.assert_array_equal(load_pool(run).inputs, features[order])
    assert preprocess_of(run).kinds.keys() == {"images", "features"}


def test_each_kind_is_stored_as_it_is_alone(tmp_path: Path, both: Path) -> None:
    run = made(both, tmp_path / "r")
    for kind, column in (("images", "features"), ("features", "image")):
        table = pq.read_table(both).drop_columns([column])
        pq.write_table(table, tmp_path / f"{kind}.parquet")
        alone = made(tmp_path / f"{kind}.parquet", tmp_path / kind)
        expected, found = load_pool(alone), load_pool(run, kind)
        np.testing.assert_array_equal(found.inputs, expected.inputs)
        assert found.preprocess == expected.preprocess == preprocess_of(alone)
    hashes = [row["content_hash"] for row in samples_table(run)]
    assert hashes == [row["content_hash"] for row in samples_table(Run(tmp_path / "images"))]


def test_a_sample_of_which_one_is_bad_is_left_out_of_both(tmp_path: Path) -> None:
    images, features = samples_of()
    images[3] = Picture("i3.png", images[3].label, b"broken")
    features[8, 2] = np.nan
    data = write_both(tmp_path / "d.parquet", images, features, ids_of(COUNT))
    with pytest.raises(DataError, match=r"row 4, id i003: it is not an image"):
        made(data, tmp_path / "stopped")
    run = made(data, tmp_path / "r", on_bad_sample="skip")
    kept = [number for number in range(COUNT) if number not in (3, 8)]
    rest = write_both(
        tmp_path / "rest.parquet",
        [images[number] for number in kept],
        features[kept],
        [ids_of(COUNT)[number] for number in kept],
    )
    expected = made(rest, tmp_path / "expected")
    for kind in ("images", "features"):
        np.testing.assert_array_equal(load_pool(run, kind).inputs, load_pool(expected, kind).inputs)
    assert run.info()["fingerprint"] == expected.info()["fingerprint"]


@pytest.mark.parametrize("fatal", [2, 17, 39])
def test_a_killed_ingest_ends_in_the_same_bytes(
    tmp_path: Path, both: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    whole = made(both, tmp_path / "whole")
    monkeypatch.setattr(blocks, "BLOCK", 4)
    real, calls = blocks.prepare, iter(range(COUNT))

    def killed(content: Any, target: Any) -> Any:
        if next(calls) == fatal:
            raise KeyboardInterrupt
        return real(content, target)

    monkeypatch.setattr(blocks, "prepare", killed)
    with pytest.raises(KeyboardInterrupt):
        made(both, tmp_path / "r")
    monkeypatch.setattr(blocks, "prepare", real)
    run = made(both, tmp_path / "r")
    assert stage_bytes(run.path("data")) == stage_bytes(whole.path("data"))


def test_other_features_of_the_same_images_are_other_data(tmp_path: Path, both: Path) -> None:
    made(both, tmp_path / "r")
    images, features = samples_of()
    shutil.copy(both, tmp_path / "copy.parquet")
    metaselect("ingest", tmp_path / "copy.parquet", run=tmp_path / "r")
    features[4, 1] += 1
    other = write_both(tmp_path / "other.parquet", images, features, ids_of(COUNT))
    done = metaselect("ingest", other, run=tmp_path / "r", code=4)
    assert "holds other data" in done.err


def test_corrupt_keeps_both(tmp_path: Path, both: Path) -> None:
    metaselect("corrupt", both, "-o", tmp_path / "out", "--noise", "uniform", "--rate", 0.2)
    before, after = pq.read_table(both).sort_by("sample_id"), pq.read_table(tmp_path / "out/train.parquet")
    assert after.column_names == ["sample_id", "image", "features", "label"]
    for name in ("sample_id", "image", "features"):
        assert after[name].to_pylist() == before[name].to_pylist()
    run = made(tmp_path / "out/train.parquet", tmp_path / "r")
    assert load_pool(run, "images").inputs.shape == (COUNT, 3, SIDE, SIDE)


def test_images_can_be_left_out(tmp_path: Path, both: Path) -> None:
    run = made(both, tmp_path / "r", image_column="none")
    assert preprocess_of(run).kinds.keys() == {"features"}


def test_a_list_of_features_in_csv_is_left_out_with_a_warning(tmp_path: Path) -> None:
    images, _ = samples_of(4)
    write_images(tmp_path, images)
    rows = "".join(f"{each.path},{each.label},[1 2]\n" for each in images)
    (tmp_path / "d.csv").write_text(f"image,label,features\n{rows}")
    done = metaselect("ingest", tmp_path / "d.csv", run=tmp_path / "r")
    assert "features is left out; beside images, a table has features in numeric columns" in done.err
    assert trained_on(Run(tmp_path / "r")) == "images"


@pytest.mark.slow
def test_people_see_images_and_models_take_what_on_says(tmp_path: Path, both: Path) -> None:
    run = tmp_path / "r"
    quick = ("--epochs", 1, "--batch-size", 8)
    warmed = metaselect("warmup", both, run=run)
    assert "The samples have images and features; the models take the features" in warmed.err
    assert json.loads((run / "warmup/model.json").read_text())["preprocess"]["task"] == "features"
    metaselect("select", "--budget", 4, run=run)
    metaselect("annotate", "export", run=run)
    with (run / "export/round-1/labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(run / "export/round-1" / row["image"]).is_file() for row in rows] == [True] * 4
    # What the models take is said once, by the warm-up.
    metaselect("annotate", "import", _answered(run), run=run)
    metaselect("reweight", run=run)
    images, features = samples_of(30, seed=6)
    images[0], features[0] = (each[0] for each in samples_of())  # which the pool has
    test = write_both(tmp_path / "test.parquet", images, features, [f"t{each}" for each in range(30)])
    table = pq.read_table(test)
    pq.write_table(table.drop_columns(["image"]), tmp_path / "features.parquet")
    pq.write_table(table.drop_columns(["features"]), tmp_path / "images.parquet")
    whole = metaselect("evaluate", test, "--json", run=run).json
    alone = metaselect("evaluate", tmp_path / "features.parquet", "--json", run=run).json
    assert whole["overlap"] == alone["overlap"] == 1
    differing = ("test", "report", "seconds")
    assert {**whole, **dict.fromkeys(differing)} == {**alone, **dict.fromkeys(differing)}
    refused = metaselect("evaluate", tmp_path / "images.parquet", run=run, code=3)
    assert "holds images, and the run's models take features" in refused.err

    changed = metaselect("warmup", "--on", "images", *quick, run=run, code=4)
    assert "on" in changed.err
    metaselect("warmup", "--on", "images", "--force", *quick, run=run)
    assert trained_on(Run(run)) == "images"
    assert states(run, 1)["reweight/auto"][0] == "stale"
    metaselect("reweight", "--method", "uniform", *quick, run=run)
    judged = metaselect("evaluate", tmp_path / "images.parquet", "--name", "i", "--json", run=run)
    assert judged.json["overlap"] == 1


def _answered(run: Path) -> Path:
    """The form of round 1, answered with the given labels."""
    form = run / "export/round-1/labels.csv"
    given = {str(row["sample_id"]): str(row["given_label"]) for row in samples_table(Run(run))}
    with form.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with form.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "clean_label": given[row["sample_id"]]} for row in rows)
    return form


def test_on_names_what_the_samples_have(tmp_path: Path, both: Path) -> None:
    made(both, tmp_path / "r", image_column="none")
    refused = metaselect("warmup", "--on", "images", run=tmp_path / "r", code=2)
    assert "have features alone" in refused.err


def write_features(path: Path, ids: Sequence[str], features: np.ndarray) -> Path:
    pq.write_table(pa.table({"sample_id": list(ids), "features": features.tolist()}), path, row_group_size=9)
    return path


def test_features_of_another_file_are_joined_by_id(tmp_path: Path, both: Path) -> None:
    _, features = samples_of()
    images = tmp_path / "images.parquet"
    pq.write_table(pq.read_table(both).drop_columns(["features"]), images)
    ids = [*ids_of(COUNT)[::-1], "elsewhere"]
    file = write_features(tmp_path / "f.parquet", ids, np.concatenate([features[::-1], features[:1]]))
    run, expected = made(images, tmp_path / "r", features=file), made(both, tmp_path / "whole")
    assert stage_bytes(run.path("data")) == stage_bytes(expected.path("data"))
    assert run.info() == expected.info()
    metaselect("ingest", images, "--features", file, run=tmp_path / "r")
    metaselect("corrupt", images, "--features", file, "-o", tmp_path / "out")
    again = made(tmp_path / "out/train.parquet", tmp_path / "again")
    assert again.info() == expected.info()
    write_features(file, ids, np.concatenate([features[::-1] * 2, features[:1]]))
    done = metaselect("ingest", images, "--features", file, run=tmp_path / "r", code=4)
    assert "holds other data" in done.err


def test_a_folder_of_images_takes_features_by_its_made_ids(tmp_path: Path) -> None:
    images, features = samples_of(10)
    for each in images:
        (tmp_path / "photos" / each.label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / each.label / each.path).write_bytes(each.raw)
    first = made(tmp_path / "photos", tmp_path / "first")
    rows = samples_table(first)
    place = {f"{each.label}/{each.path}": number for number, each in enumerate(images)}
    order = [place[str(row["source"])] for row in rows]
    file = write_features(tmp_path / "f.parquet", [str(row["sample_id"]) for row in rows], features[order])
    run = made(tmp_path / "photos", tmp_path / "r", features=file)
    np.testing.assert_array_equal(load_pool(run).inputs, features[order])
    assert preprocess_of(run).kinds.keys() == {"images", "features"}


def test_ids_and_labels_alone_take_features(tmp_path: Path) -> None:
    _, features = samples_of(6)
    table = tmp_path / "d.csv"
    table.write_text("sample_id,label\n" + "".join(f"i{n},{CLASSES[n % 2]}\n" for n in range(6)))
    file = write_features(tmp_path / "f.parquet", [f"i{n}" for n in range(6)], features)
    done = metaselect("ingest", table, "--features", file, "--json", run=tmp_path / "r")
    assert done.json["task"] == "features"
    assert "ids and labels alone" not in done.err


def test_a_sample_without_features_stops_or_is_left_out(tmp_path: Path, both: Path) -> None:
    _, features = samples_of()
    images = tmp_path / "images.parquet"
    pq.write_table(pq.read_table(both).drop_columns(["features"]), images)
    file = write_features(tmp_path / "f.parquet", ids_of(COUNT)[2:], features[2:])
    with pytest.raises(DataError, match="has no features for 2 of 40 samples: i000, i001"):
        made(images, tmp_path / "stopped", features=file)
    run = made(images, tmp_path / "r", features=file, on_bad_sample="skip")
    assert [row["sample_id"] for row in samples_table(run)] == ids_of(COUNT)[2:]
    skipped = (run.path("data/skipped.csv")).read_text().splitlines()
    assert len(skipped) == 3
    assert "it has no features in" in skipped[1]


def test_features_beside_the_data_s_own_are_refused(tmp_path: Path, both: Path) -> None:
    file = write_features(tmp_path / "f.parquet", ["a"], np.zeros((1, 2)))
    with pytest.raises(DataError, match="has features itself, beside those of --features"):
        made(both, tmp_path / "r", features=file)


@pytest.mark.slow
def test_a_test_set_takes_features_of_another_file(tmp_path: Path, both: Path) -> None:
    run = tmp_path / "r"
    metaselect("warmup", both, run=run)
    images, features = samples_of(30, seed=6)
    ids = [f"t{each}" for each in range(30)]
    test = write_both(tmp_path / "test.parquet", images, features, ids)
    pq.write_table(pq.read_table(test).drop_columns(["features"]), tmp_path / "images.parquet")
    file = write_features(tmp_path / "f.parquet", ids, features)
    whole = metaselect("evaluate", test, "--name", "a", "--json", run=run).json
    joined = metaselect(
        "evaluate", tmp_path / "images.parquet", "--features", file, "--name", "b", "--json", run=run
    ).json
    assert {**whole, "test": "", "report": ""} == {**joined, "test": "", "report": ""}
    narrow = write_features(tmp_path / "n.parquet", ids, features[:, :3])
    refused = metaselect(
        "evaluate", tmp_path / "images.parquet", "--features", narrow, "--name", "c", run=run, code=3
    )
    assert "has 3 features per sample, the run has 5" in refused.err


def test_a_new_class_keeps_the_data_known(tmp_path: Path, both: Path) -> None:
    run = made(both, tmp_path / "r")
    with run.lock():
        add_classes(run, ["owl"], Listener())
    metaselect(
        "ingest", shutil.copy(both, tmp_path / "moved.parquet"), "--classes", "cat,dog,owl", run=run.root
    )


@pytest.mark.slow
def test_a_rule_is_no_setting(tmp_path: Path, both: Path) -> None:
    images = tmp_path / "images.parquet"
    pq.write_table(pq.read_table(both).drop_columns(["features"]), images)
    quick = ("--epochs", 1, "--folds", 0)
    metaselect("warmup", images, *quick, run=tmp_path / "r")
    key = json.loads((tmp_path / "r/warmup/stage.json").read_text())["options"]
    assert key["on"] is None  # as before there was a choice
    metaselect("ingest", both, "--force", run=tmp_path / "r")
    again = metaselect("warmup", *quick, run=tmp_path / "r")
    assert "changed since" in again.err
    assert trained_on(Run(tmp_path / "r")) == "features"


@pytest.mark.slow
def test_without_a_warmup_nothing_says_what_models_take(tmp_path: Path, both: Path) -> None:
    quick = ("--epochs", 1, "--batch-size", 8)
    plain = ("reweight", "--method", "uniform", "--init", "scratch")
    made(both, tmp_path / "r")
    refused = metaselect(*plain, run=tmp_path / "r", code=4)
    assert "the warm-up decides what models take" in refused.err
    metaselect("warmup", "--on", "images", *quick, "--folds", 0, run=tmp_path / "r")
    metaselect(*plain, *quick, run=tmp_path / "r")
    assert states(tmp_path / "r", 0)["reweight/uniform"][0] == "done"
    metaselect("verify", "--rerun", run=tmp_path / "r")
    metaselect("warmup", "--on", "features", "--force", run=tmp_path / "r")
    assert states(tmp_path / "r", 1)["reweight/uniform"][0] == "stale"


def test_ids_are_the_same_whatever_is_taken(tmp_path: Path) -> None:
    images, features = samples_of(10)
    table = {"image": [each.raw for each in images], "label": [each.label for each in images]}
    pq.write_table(pa.table(table), tmp_path / "images.parquet")
    pq.write_table(pa.table({**table, "features": features.tolist()}), tmp_path / "both.parquet")
    alone, both = (made(tmp_path / f"{name}.parquet", tmp_path / name) for name in ("images", "both"))
    ids = [str(row["sample_id"]) for row in samples_table(alone)]
    assert [row["sample_id"] for row in samples_table(both)] == ids
    for on in ("images", "features"):
        test, _ = read_test_set(
            tmp_path / "both.parquet", ReadOptions(), load_pool(both, on), tmp_path / on, Listener()
        )
        assert test.sample_ids == ids
    order = [ids.index(made_id(each.raw)) for each in images]
    file = write_features(tmp_path / "f.parquet", ids, features[np.argsort(order)])
    joined, _ = read_test_set(
        *(tmp_path / "images.parquet", ReadOptions(features=file), load_pool(both, "features")),
        *(tmp_path / "scratch", Listener()),
    )
    np.testing.assert_array_equal(joined.inputs, load_pool(both, "features").inputs)


def test_equal_images_are_told_apart_by_their_features(tmp_path: Path) -> None:
    images, features = samples_of(6)
    raw = [images[0].raw] * 3 + [each.raw for each in images[3:]]
    prints = []
    for number, order in enumerate(([0, 1, 2, 3, 4, 5], [2, 0, 1, 5, 4, 3])):
        table = {
            "image": [raw[place] for place in order],
            "label": ["ab"[place > 2] for place in order],
            "features": [features[place].tolist() for place in order],
        }
        pq.write_table(pa.table(table), tmp_path / f"{number}.parquet")
        prints.append(made(tmp_path / f"{number}.parquet", tmp_path / f"r{number}").info()["fingerprint"])
    assert prints[0] == prints[1]


def test_features_of_a_limited_pool_are_enough(tmp_path: Path, both: Path) -> None:
    _, features = samples_of()
    images = tmp_path / "images.parquet"
    pq.write_table(pq.read_table(both).drop_columns(["features"]), images)
    few = made(images, tmp_path / "few", limit=20)
    ids = [str(row["sample_id"]) for row in samples_table(few)]
    file = write_features(tmp_path / "f.parquet", ids, features[[ids_of(COUNT).index(name) for name in ids]])
    run = made(images, tmp_path / "r", limit=20, features=file)
    assert [row["sample_id"] for row in samples_table(run)] == ids


def test_features_that_are_text_are_left_out_beside_images(tmp_path: Path, both: Path) -> None:
    table = pq.read_table(both)
    text = pa.array(["a b"] * COUNT)
    pq.write_table(table.set_column(2, "features", text), tmp_path / "text.parquet")
    done = metaselect("ingest", tmp_path / "text.parquet", run=tmp_path / "r")
    assert "features is left out, since it is string, not numbers" in done.err
    nulls = [None, *table["features"].to_pylist()[1:]]
    pq.write_table(table.set_column(2, "features", pa.array(nulls)), tmp_path / "null.parquet")
    refused = metaselect("ingest", tmp_path / "null.parquet", run=tmp_path / "n", code=3)
    assert "--feature-columns none" in refused.err
    run = made(tmp_path / "null.parquet", tmp_path / "n", feature_columns="none")
    assert preprocess_of(run).kinds.keys() == {"images"}


def test_a_column_of_images_that_is_not_there_is_refused(tmp_path: Path, both: Path) -> None:
    with pytest.raises(DataError, match="no column imgae"):
        made(both, tmp_path / "r", image_column="imgae")
    done = metaselect("warmup", both, "--image-column", "none", "--on", "images", run=tmp_path / "r", code=2)
    assert "have features alone" in done.err
    assert not (tmp_path / "r/data").exists()


def test_images_are_shown_after_the_features_file_is_gone(tmp_path: Path, both: Path) -> None:
    _, features = samples_of()
    images = tmp_path / "images.parquet"
    pq.write_table(pq.read_table(both).drop_columns(["features"]), images)
    file = write_features(tmp_path / "f.parquet", ids_of(COUNT), features)
    run = made(images, tmp_path / "r", features=file)
    file.unlink()
    shown = list(read_originals(run, ids_of(COUNT)[:3]))
    assert [(name, raw) for name, _, raw in shown] == [
        (name, picture.raw) for name, picture in zip(ids_of(COUNT), samples_of()[0][:3], strict=False)
    ]
