"""`ingest`: the same bytes from every form and order, going on after a kill, and when it refuses."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_makers import (
    CLASSES,
    Listener,
    Picture,
    encode,
    ids_of,
    json_of,
    made,
    metaselect,
    pictures,
    samples_table,
    stage_bytes,
    stream_of,
    write_images,
    write_rows,
    write_struct,
)
from PIL import Image

from metaselect.data.images import content_hash, decode
from metaselect.data.store import load_pool
from metaselect.data.summary import duplicates, fingerprint, statistics
from metaselect.errors import DataError
from metaselect.run.layout import Run

NOISE = np.random.default_rng(11)


# One content, one result


def test_every_form_gives_the_same_run(tmp_path: Path) -> None:
    samples = pictures(12)
    folder = write_images(tmp_path / "folder", samples)
    rows = [(sample.path, sample.label) for sample in samples]
    forms = {
        "folder": folder,
        "csv": write_rows(folder / "m.csv", ["image", "label"], rows),
        "struct": write_struct(tmp_path / "one.parquet", samples),
        "named": write_struct(tmp_path / "named.parquet", samples, names=CLASSES),
    }
    for start in range(0, 12, 4):
        write_struct(tmp_path / f"shards/{start:02d}.parquet", samples[start : start + 4])
    forms["shards"] = tmp_path / "shards"
    found = {}
    for name, path in forms.items():
        run = made(path, tmp_path / f"run-{name}")
        found[name] = (stage_bytes(run.path("data")), run.path("run.json").read_bytes())
    for name in forms:
        assert found[name] == found["folder"], name


def test_the_order_of_rows_and_shards_never_changes_a_byte(tmp_path: Path) -> None:
    samples, ids = pictures(20), ids_of(20)
    found = []
    for turn in range(3):
        order = np.random.default_rng(turn).permutation(20)
        for shard, part in enumerate(np.split(order, [3, 11][: turn + 1])):
            path = tmp_path / f"d{turn}/{shard}.parquet"
            write_struct(path, [samples[p] for p in part], ids=[ids[p] for p in part], group=2 + turn)
        run = made(tmp_path / f"d{turn}", tmp_path / f"r{turn}", limit=15, seed=3)
        found.append((stage_bytes(run.path("data")), run.info()))
    assert found[0] == found[1] == found[2]
    assert len(samples_table(Run(tmp_path / "r0"))) == 15


def test_what_is_stored_against_a_loop(tmp_path: Path) -> None:
    samples, ids = pictures(10), ids_of(10)[::-1]
    run = made(write_struct(tmp_path / "d.parquet", samples, ids=ids), tmp_path / "r")
    pool = load_pool(run)
    expected = sorted(zip(ids, samples, strict=True), key=lambda pair: pair[0])
    assert list(pool.sample_ids) == [name for name, _ in expected]
    arrays = [np.asarray(Image.open(stream_of(sample.raw))) for _, sample in expected]
    np.testing.assert_array_equal(pool.inputs, np.stack(arrays)[:, None])
    assert [pool.classes[label] for label in pool.labels] == [sample.label for _, sample in expected]
    scaled = np.stack(arrays) / 255
    np.testing.assert_allclose(pool.preprocess.mean, [scaled.mean()], rtol=1e-12)
    np.testing.assert_allclose(pool.preprocess.std, [scaled.std()], rtol=1e-12)
    table = samples_table(run)
    assert list(table[0]) == ["sample_id", "given_label", "content_hash", "source"]
    assert [row["sample_id"] for row in table] == [name for name, _ in expected]
    hashes = [hashlib.sha256(b"L 6 6 " + array.tobytes()).hexdigest() for array in arrays]
    assert [row["content_hash"] for row in table] == hashes
    assert [row["source"] for row in table] == [sample.path for _, sample in expected]
    lines = zip((name for name, _ in expected), (s.label for _, s in expected), hashes, strict=True)
    assert run.info()["fingerprint"] == fingerprint(CLASSES, lines)


def test_features_are_stored_as_float32_with_their_statistics(tmp_path: Path) -> None:
    numbers = NOISE.normal(3, 2, (40, 3))
    numbers[:, 1] = 0.1
    table = pa.table({"id": ids_of(40), "features": numbers.tolist(), "label": [n % 4 for n in range(40)]})
    pq.write_table(table, tmp_path / "d.parquet")
    pool = load_pool(made(tmp_path / "d.parquet", tmp_path / "r"))
    narrow = numbers.astype(np.float32)
    np.testing.assert_array_equal(pool.inputs, narrow)
    wide = narrow.astype(np.float64)
    np.testing.assert_allclose(pool.preprocess.mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.array(pool.preprocess.std)[[0, 2]], wide.std(axis=0)[[0, 2]], rtol=1e-12)
    assert pool.preprocess.std[1] == 1.0
    assert pool.preprocess.task == "features"
    assert pool.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize("count", [1, 2047, 2048, 5000])
def test_pixel_statistics_against_numpy(count: int) -> None:
    pixels = NOISE.integers(0, 256, (count, 3, 2, 2), dtype=np.uint8)
    pixels[:, 2] = 77
    mean, std = statistics(pixels)
    flat = pixels.transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(mean, flat.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(std[:2], flat[:2].std(axis=1), rtol=1e-9)
    assert std[2] == 1.0


def test_duplicates_lists_every_bearer() -> None:
    assert duplicates(["a", "b", "c", "d"], ["y", "x", "y", "z"]) == [("y", "a"), ("y", "c")]


# Warnings and refusals


def test_duplicates_and_empty_classes_are_warned_of(tmp_path: Path) -> None:
    samples = pictures(6)
    samples[4] = Picture("dog/again.bmp", "dog", encode(np.asarray(decode(samples[1].raw)), "BMP"))
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids_of(6), names=(*CLASSES, "pig"))
    ears = Listener()
    run = made(data, tmp_path / "r", ears)
    content = content_hash(decode(samples[1].raw))
    text = f"content_hash,sample_id\n{content},i001\n{content},i004\n"
    assert run.path("data/duplicates.csv").read_text() == text
    assert ears.warnings == [
        f"2 samples share their content with another: {run.path('data/duplicates.csv')}",
        "1 of 4 classes have no sample: pig.",
    ]


def test_one_bad_sample_is_spoken_of_as_one(tmp_path: Path) -> None:
    samples = pictures(7)
    write_images(tmp_path / "d", [*samples, Picture("cat/same.png", "cat", samples[0].raw)])
    (tmp_path / "d/dog/broken.png").write_bytes(b"no image")
    ears = Listener()
    run = made(tmp_path / "d", tmp_path / "r", ears, on_bad_sample="skip")
    assert ears.warnings == [
        f"1 bad sample was left out: {run.path('data/skipped.csv')}",
        f"2 samples share their content with another: {run.path('data/duplicates.csv')}",
    ]


def test_bad_samples_stop_with_their_name_or_are_listed(tmp_path: Path) -> None:
    samples = pictures(7)
    samples[3] = Picture(samples[3].path, samples[3].label, samples[3].raw[:-30])
    write_images(tmp_path, samples)
    rows: list[tuple[str, str, str]] = [
        (name, sample.path, sample.label) for name, sample in zip(ids_of(7), samples, strict=True)
    ]
    rows[5] = ("i005", "cat/gone.png", "cat")
    rows[6] = ("", rows[6][1], "cat")
    data = write_rows(tmp_path / "m.csv", ["id", "image", "label"], rows)
    with pytest.raises(DataError, match=r"m\.csv, row 8: it has no id\."):
        made(data, tmp_path / "r")
    ears = Listener()
    run = made(data, tmp_path / "r", ears, on_bad_sample="skip")
    assert [row["sample_id"] for row in samples_table(run)] == ["i000", "i001", "i002", "i004"]
    np.testing.assert_array_equal(load_pool(run).inputs[3, 0], np.asarray(decode(samples[4].raw)))
    lines = run.path("data/skipped.csv").read_text().splitlines()
    assert lines[0] == "source,row,sample_id,reason"
    assert [line.split(",")[1:3] for line in lines[1:]] == [["8", ""], ["5", "i003"], ["7", "i005"]]
    assert ears.warnings == [f"3 bad samples were left out: {run.path('data/skipped.csv')}"]
    rows[6] = ("i006", rows[6][1], "cat")
    write_rows(data, ["id", "image", "label"], rows)
    # A look at each file finds what is missing; that an image is cut off shows when it is decoded.
    with pytest.raises(DataError, match=r"row 7, id i005: the file cat/gone\.png does not exist"):
        made(data, tmp_path / "s")
    rows[5] = ("i005", rows[4][1], "cat")
    write_rows(data, ["id", "image", "label"], rows)
    with pytest.raises(DataError, match=r"row 5, id i003: the image cannot be decoded"):
        made(data, tmp_path / "s")


def test_one_class_or_nothing_usable_is_refused(tmp_path: Path) -> None:
    one = write_struct(tmp_path / "one.parquet", pictures(3, ("cat",)), ids=ids_of(3))
    with pytest.raises(DataError, match="only the class 'cat'"):
        made(one, tmp_path / "r")
    broken = [Picture("", CLASSES[n % 2], b"x") for n in range(3)]
    data = write_struct(tmp_path / "b.parquet", broken, ids=ids_of(3))
    with pytest.raises(DataError, match="holds no sample that can be used: the first of 3: "):
        made(data, tmp_path / "r", on_bad_sample="skip")
    assert not Run(tmp_path / "r").exists


# The command line


def test_the_command_line(tmp_path: Path) -> None:
    data = write_struct(tmp_path / "d.parquet", pictures(6), ids=ids_of(6), names=CLASSES)
    done = metaselect("ingest", data, "--run", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'r/data'}: 6 samples, 3 classes, images of 6 x 6 pixels\n"
    assert f"Next: metaselect warmup --run {tmp_path / 'r'}" in done.stderr
    found = json_of(metaselect("ingest", data, "--run", tmp_path / "r", "--json"))
    assert found == {
        "ok": True,
        "schema_version": 1,
        "n": 6,
        "classes": list(CLASSES),
        "task": "images",
        "image_size": [6, 6],
        "pixel_range": None,
        "store": "pixels",
        "fingerprint": Run(tmp_path / "r").info()["fingerprint"],
        "unlabelled": 0,
        "skipped": 0,
        "duplicates": 0,
    }
    other = write_struct(tmp_path / "e.parquet", pictures(6)[::-1], ids=ids_of(6), names=CLASSES)
    refused = metaselect("ingest", other, "--run", tmp_path / "r", "--json")
    assert refused.returncode == 4
    assert "holds other data" in json_of(refused)["error"]["message"]


def test_exit_codes_and_names_that_drive_a_terminal(tmp_path: Path) -> None:
    header = ["id", "image", "label"]
    data = write_rows(tmp_path / "d.csv", header, [("a\x07b", "../x", "cat"), ("c", "c.png", "dog")])
    done = metaselect("ingest", data, "--run", tmp_path / "r")
    assert done.returncode == 3
    assert "row 2, id a\\x07b: the path ../x leaves the folder" in done.stderr
    assert done.stdout == ""
    assert metaselect("ingest", data).returncode == 2
    assert metaselect("ingest", data, "--run", tmp_path / "r", "--limit", "0").returncode == 2
