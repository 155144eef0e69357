"""Images that stay encoded: the very pixels of the pixel store, from originals that are compared at every look."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import flip_byte, metaselect, tree
from data_makers import (
    Listener,
    Picture,
    encode,
    made,
    photographs,
    samples_table,
    stage_bytes,
    write_images,
    write_rows,
    write_struct,
)
from PIL import Image

from metaselect.data import ingest as ingest_module
from metaselect.data.store import load_images, load_pool
from metaselect.data.stored import images as images_module
from metaselect.data.stored import places
from metaselect.data.stored.images import EncodedImages
from metaselect.data.stored.places import StoreChoice
from metaselect.errors import ArtefactError
from metaselect.run.layout import Run

COUNT = 18
OF_STORES = ("pixels.npy", "encoded.npy", "encoded_bytes.npy")
TIMES = (".lock", "stage.json", "votes.csv", "imports.csv", "report.html", "report.json")
"""Files that hold times, or hashes of those."""
TRAINED = ("--epochs", 2, "--batch-size", 8)


def written(form: str, folder: Path, samples: list[Picture]) -> Path:
    """A data set of a form; of ``mixed`` every other image is a file beside the table."""
    ids = [f"i{number:02d}" for number in range(len(samples))]
    if form == "folder":
        return write_images(folder, samples)
    if form == "csv":
        write_images(folder, samples)
        rows = [(name, sample.path, sample.label) for name, sample in zip(ids, samples, strict=True)]
        return write_rows(folder / "data.csv", ["sample_id", "image", "label"], rows)
    if form == "parquet":
        return write_struct(folder / "data.parquet", samples, ids=ids)
    write_images(folder, samples[::2])
    cells = [
        {"bytes": sample.raw if number % 2 else None, "path": sample.path}
        for number, sample in enumerate(samples)
    ]
    labels = [sample.label for sample in samples]
    pq.write_table(pa.table({"sample_id": ids, "image": cells, "label": labels}), folder / "data.parquet")
    return folder / "data.parquet"


def encoded_images(run: Run) -> EncodedImages:
    images = load_images(run, len(load_pool(run)))
    assert isinstance(images, EncodedImages)
    return images


@pytest.mark.parametrize("form", ["folder", "csv", "parquet", "mixed"])
@pytest.mark.parametrize("deep", [False, True])
def test_its_pixels_are_those_of_the_pixel_store(tmp_path: Path, form: str, deep: bool) -> None:
    data = written(form, tmp_path / "d", photographs(COUNT, deep=deep))
    options: dict[str, Any] = {"image_size": 8, "fit": "pad"}
    pixels = np.asarray(load_pool(made(data, tmp_path / "p", store="pixels", **options)).inputs)
    run = made(data, tmp_path / "e", store="encoded", **options)
    images = encoded_images(run)
    assert (images.shape, images.dtype, images.ndim, len(images)) == (pixels.shape, pixels.dtype, 4, COUNT)
    places_of_all = np.random.default_rng(1).permutation(COUNT)
    for found, expected in (
        (images[places_of_all], pixels[places_of_all]),
        (images.decoded(places_of_all), pixels[places_of_all]),
        (images.recalled(np.array([3, 1, 3])), pixels[[3, 1, 3]]),
        (images.recalled(np.array([1, 2])), pixels[[1, 2]]),
        (images[4:9], pixels[4:9]),
        (images[-1], pixels[-1]),
        (images[:0], pixels[:0]),
    ):
        np.testing.assert_array_equal(found, expected)
    assert set(images.kept) == {1, 2, 3}
    leave = ("stage.json", *OF_STORES)
    assert stage_bytes(run.path("data"), leave=leave) == stage_bytes(tmp_path / "p/data", leave=leave)
    assert not run.path("data/pixels.npy").exists()
    assert run.path("data/encoded_bytes.npy").is_file() == (form in ("parquet", "mixed"))
    of_files = [images.is_file(row) for row in range(COUNT)]
    assert sum(of_files) == {"folder": COUNT, "csv": COUNT, "parquet": 0, "mixed": COUNT // 2}[form]


def test_what_is_recalled_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(
        written("folder", tmp_path / "d", photographs(COUNT)), tmp_path / "r", store="encoded", image_size=8
    )
    images = encoded_images(run)
    monkeypatch.setattr(images_module, "KEPT_BYTES", 5 * 3 * 8 * 8)
    for _ in range(2):
        np.testing.assert_array_equal(images.recalled(np.arange(9)), images.decoded(np.arange(9)))
    assert len(images.kept) == 5


def test_the_order_of_rows_changes_no_byte(tmp_path: Path) -> None:
    samples = photographs(COUNT)
    ids = [f"i{number:02d}" for number in range(COUNT)]
    turned = write_struct(tmp_path / "t.parquet", samples[::-1], ids=ids[::-1])
    runs = [
        made(data, tmp_path / name, store="encoded", image_size=8)
        for name, data in (("a", written("parquet", tmp_path / "d", samples)), ("b", turned))
    ]
    assert stage_bytes(runs[0].path("data")) == stage_bytes(runs[1].path("data"))


@pytest.mark.slow
def test_everything_after_it_has_the_bytes_of_the_pixel_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of processes, also with a test set that stays encoded."""
    data, test = (
        written(form, tmp_path / form, photographs(count))
        for form, count in (("folder", 40), ("parquet", 12))
    )
    monkeypatch.setattr(places, "SMALL_DECODED", 0)  # for the test set
    monkeypatch.setattr(ingest_module, "BLOCK", 5)
    runs = {store: made(data, tmp_path / store, store=store, image_size=8) for store in ("pixels", "encoded")}
    labels = [(row["sample_id"], row["given_label"]) for row in samples_table(runs["pixels"])]
    truth = write_rows(tmp_path / "truth.csv", ["sample_id", "clean_label"], labels)
    warmup = ("warmup", "--folds", 2, "--checkpoints", 2, *TRAINED)
    in_threads = Path(shutil.copytree(runs["encoded"].root, tmp_path / "threads"))
    metaselect(*warmup, "--workers", 0, run=in_threads)
    found = {}
    for store, workers in (("pixels", ()), ("encoded", ("--workers", 2))):
        run = runs[store].root
        metaselect(*warmup, *workers, run=run)
        metaselect("select", "--budget", 8, "--method", "gbc", *workers, run=run)
        metaselect("annotate", "simulate", truth, run=run)
        metaselect("reweight", "--method", "direct", "--folds", 2, *TRAINED, *workers, run=run)
        metaselect("evaluate", test, "--truth", truth, *workers, run=run)
        metaselect("verify", run=run)
        found[store] = {
            path: content
            for path, content in tree(run, leave=TIMES).items()
            if not path.startswith(("data/", "run.json"))
        }
        assert sum(path.endswith(".safetensors") for path in found[store]) == 5
    threads = tree(in_threads / "warmup", leave=TIMES)
    assert threads == {name: found["encoded"][f"warmup/{name}"] for name in threads}
    for path in [path for path in found["pixels"] if "gradients" in path]:  # with a recipe, which has hashes
        tables = [pq.read_table(pa.BufferReader(files.pop(path))) for files in found.values()]
        assert tables[0].equals(tables[1])
    assert found["encoded"] == found["pixels"]


@pytest.mark.parametrize("form", ["csv", "mixed"])
def test_an_interrupted_ingest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    samples = photographs(COUNT)
    samples[5] = replace(samples[5], raw=b"no image")
    data = written(form, tmp_path / "d", samples)
    options: dict[str, Any] = {"store": "encoded", "image_size": 8, "on_bad_sample": "skip"}
    monkeypatch.setattr(ingest_module, "BLOCK", 4)
    whole, prepare, seen = made(data, tmp_path / "whole", **options), ingest_module.prepare, []

    def killed(content: Any, target: Any) -> Any:
        seen.append(content)
        if len(seen) == 10:
            raise KeyboardInterrupt
        return prepare(content, target)

    monkeypatch.setattr(ingest_module, "prepare", killed)
    with pytest.raises(KeyboardInterrupt):
        made(data, tmp_path / "r", **options)
    ears = Listener()
    run = made(data, tmp_path / "r", ears, **options)
    assert any("Resuming at sample" in note for note in ears.notes)
    assert stage_bytes(run.path("data")) == stage_bytes(whole.path("data"))
    assert len(seen) == COUNT + 10 - 8
    images = encoded_images(run)
    kept = sorted(set(range(COUNT)) - {5})
    pixels = np.asarray(load_pool(made(data, tmp_path / "p", **{**options, "store": "pixels"})).inputs)
    assert len(images) == len(kept)
    np.testing.assert_array_equal(images[np.arange(len(kept))], pixels)


def test_the_rule_looks_at_both_sizes() -> None:
    gb = places.GB
    for decoded, encoded, stays in (
        (gb, gb // 100, False),  # small: never
        (2 * gb, gb // 4, False),  # 8 times
        (2 * gb + 8, gb // 4, True),
        (20 * gb, 20 * gb, False),
        (20 * gb + 1, 20 * gb, True),
    ):
        choice = StoreChoice(decoded, encoded)
        assert (choice.stays_encoded("auto"), choice.stays_encoded("pixels")) == (stays, False)
        assert choice.stays_encoded("encoded")


def test_auto_says_what_it_takes_and_a_flag_may_name_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, ears = written("folder", tmp_path / "d", photographs(COUNT)), Listener()
    made(data, tmp_path / "small", ears, image_size=8)
    assert not any("--store" in note for note in ears.notes)
    monkeypatch.setattr(places, "SMALL_DECODED", 1000)
    monkeypatch.setattr(places, "MOST_DECODED", 2000)
    done = metaselect("ingest", data, "--image-size", 8, "--json", run=tmp_path / "r")
    assert done.json["store"] == "encoded"
    assert "Images stay encoded, and are decoded when they are needed (--store encoded): 0.0 MB" in done.err
    metaselect("ingest", data, "--image-size", 8, "--store", "encoded", run=tmp_path / "r")
    done = metaselect("ingest", data, "--image-size", 8, "--store", "pixels", run=tmp_path / "r", code=4)
    assert 'store: "auto" -> "pixels"' in done.err
    monkeypatch.setattr(places, "MOST_DECODED", 10**6)
    done = metaselect("ingest", data, "--image-size", 8, "--json", "--force", run=tmp_path / "r")
    assert done.json["store"] == "pixels"
    assert "Images are stored decoded (--store pixels)" in done.err


@pytest.mark.parametrize("workers", [0, 1])
def test_an_original_that_is_gone_or_another_one_is_named(tmp_path: Path, workers: int) -> None:
    samples = photographs(COUNT)
    data = written("folder", tmp_path / "d", samples)
    run = made(data, tmp_path / "r", store="encoded", image_size=8)
    file = data / samples[3].path
    words = ("warmup", "--folds", 0, "--workers", workers, *TRAINED)
    file.rename(tmp_path / "aside")
    done = metaselect(*words, run=run.root, code=4)
    assert f"the file {samples[3].path} does not exist" in done.err
    assert "metaselect ingest DATA --run" in done.err
    assert samples[3].path in metaselect("verify", run=run.root, code=4).err
    file.write_bytes(encode(np.zeros((12, 10, 3), np.uint8)))
    done = metaselect(*words, run=run.root, code=4)
    assert f"{file} is no longer the image that was ingested as sample" in done.err
    assert "ingest DATA --force" in done.err
    # Other bytes of the same pixels are the same image.
    with Image.open(tmp_path / "aside") as image:
        image.save(file, "BMP")
    metaselect(*words, run=run.root)
    assert "18 images that stay encoded" in metaselect("verify", run=run.root).out


def test_the_originals_may_move_and_never_be_left(tmp_path: Path) -> None:
    samples = photographs(COUNT)
    data = written("csv", tmp_path / "d", samples)
    run = made(data, tmp_path / "r", store="encoded", image_size=8)
    pixels = encoded_images(run)[np.arange(COUNT)]
    data.parent.rename(tmp_path / "moved")
    with pytest.raises(ArtefactError, match="does not exist"):
        encoded_images(run)[0]
    metaselect("ingest", tmp_path / "moved/data.csv", "--image-size", 8, "--store", "encoded", run=run.root)
    np.testing.assert_array_equal(encoded_images(run)[np.arange(COUNT)], pixels)
    shutil.copytree(tmp_path / "moved", tmp_path / "copy", copy_function=shutil.copyfile)  # with other times
    shutil.rmtree(tmp_path / "moved")
    metaselect("warmup", tmp_path / "copy/data.csv", "--folds", 0, *TRAINED, run=run.root)
    np.testing.assert_array_equal(encoded_images(run)[np.arange(COUNT)], pixels)
    file = tmp_path / "copy" / samples[0].path
    shutil.copyfile(file, tmp_path / "outside.jpeg")
    file.unlink()
    file.symlink_to(tmp_path / "outside.jpeg")
    with pytest.raises(ArtefactError, match="is a link that leaves the folder"):
        encoded_images(run)[np.arange(COUNT)]


def test_images_beside_a_table_may_move_alone(tmp_path: Path) -> None:
    samples = photographs(COUNT)
    data = written("csv", tmp_path / "d", samples)
    shutil.move(data, tmp_path / "data.csv")
    words = ("ingest", tmp_path / "data.csv", "--image-size", 8, "--store", "encoded", "--image-folder")
    metaselect(*words, tmp_path / "d", run=tmp_path / "r")
    (tmp_path / "d").rename(tmp_path / "moved")
    metaselect(*words, tmp_path / "moved", run=tmp_path / "r")
    assert len(load_images(Run(tmp_path / "r"), COUNT)[:]) == COUNT


def test_damaged_bytes_in_the_run_are_named(tmp_path: Path) -> None:
    run = made(written("parquet", tmp_path / "d", photographs(COUNT)), tmp_path / "r", store="encoded")
    flip_byte(run.path("data/encoded_bytes.npy"), 300)
    with pytest.raises(ArtefactError, match="bytes of sample 'i00' in the run are damaged"):
        load_images(run, COUNT)[0]
    assert "encoded_bytes.npy is damaged" in metaselect("verify", run=run.root, code=4).err


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_forms_and_exports_have_the_originals(tmp_path: Path, form: str) -> None:
    samples = photographs(COUNT)
    run = made(written(form, tmp_path / "d", samples), tmp_path / "r", store="encoded", image_size=8).root
    metaselect("warmup", "--folds", 0, *TRAINED, run=run)
    metaselect("select", "--budget", 4, "--method", "random", run=run)
    metaselect("annotate", "export", run=run)
    raws = {sample.raw for sample in samples}
    shown = [path for path in (run / "export").rglob("*") if path.suffix in (".png", ".jpg")]
    assert len(shown) == 4
    assert {path.read_bytes() for path in shown} <= raws
    with next((run / "export").rglob("*.csv")).open() as stream:
        answers = [(row["sample_id"], "cat") for row in csv.DictReader(stream)]
    write_rows(tmp_path / "answers.csv", ["sample_id", "clean_label"], answers)
    metaselect("annotate", "import", tmp_path / "answers.csv", run=run)
    metaselect("reweight", "--method", "uniform", "--folds", 0, *TRAINED, run=run)
    metaselect("export", "--images", "folder", "--name", "uniform", "-o", tmp_path / "o", run=run)
    written_out = [path for path in (tmp_path / "o/images").rglob("*") if path.is_file()]
    assert len(written_out) == COUNT
    assert {path.read_bytes() for path in written_out} == raws


def test_images_beside_features_stay_encoded_too(tmp_path: Path) -> None:
    samples = photographs(COUNT)
    rows = [
        (f"i{number:02d}", sample.path, sample.label, number / 3, -number)
        for number, sample in enumerate(samples)
    ]
    write_images(tmp_path / "d", samples)
    data = write_rows(tmp_path / "d/m.csv", ["sample_id", "image", "label", "x1", "x2"], rows)
    words = ("--feature-columns", "x*", "--image-size", 8, "--on", "images", "--folds", 0, *TRAINED)
    for store in ("pixels", "encoded"):
        metaselect("warmup", data, "--store", store, *words, run=tmp_path / store)
    leave = ("stage.json",)
    assert stage_bytes(tmp_path / "encoded/warmup/checkpoints") == stage_bytes(
        tmp_path / "pixels/warmup/checkpoints", leave=leave
    )
    assert (tmp_path / "encoded/data/features.npy").is_file()
    assert not (tmp_path / "encoded/data/pixels.npy").exists()


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_a_dry_run_knows_what_stays_where_it_is(tmp_path: Path, form: str) -> None:
    data = written(form, tmp_path / "d", photographs(COUNT))
    words = ("ingest", data, "--image-size", 64, "--dry-run", "--json", "--store")
    disk = {
        store: metaselect(*words, store, run=tmp_path / "r").json["needs"]["disk_mib"] * 2**20
        for store in ("pixels", "encoded")
    }
    inside = sum(len(sample.raw) for sample in photographs(COUNT)) if form == "parquet" else 0
    assert disk["pixels"] - disk["encoded"] == pytest.approx(
        COUNT * (3 * 64 * 64 - places.PLACE.itemsize) - inside, abs=0.2 * 2**20
    )
    assert not (tmp_path / "r").exists()
