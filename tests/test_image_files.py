"""Which files are read as images: folders and suffixes that a table lacks, links to outside, formats; all classes."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import metaselect, run_process
from data_makers import pictures, write_images, write_rows
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metaselect.data.images import FORMATS, decode, formats, probe
from metaselect.data.readers.base import UnusableContent
from metaselect.data.readers.paths import ImageFiles, escapes

N = 8
LINKS: dict[str, Callable[[Path, str], Path]] = {
    # As git-annex, DVC and a hub's cache lay them out: the names are links to a store elsewhere.
    "annex": lambda store, name: Path(f"../../.annex/{name}"),
    "cache": lambda store, name: store / name,
}


def linked(root: Path, kind: str, form: str) -> Path:
    """A data set whose images are links into a store beside it: a folder, or a manifest (CSV or Parquet)."""
    data = write_images(root / "d", pictures(N, ("cat", "dog")))
    store = root / ".annex"
    store.mkdir()
    images = sorted(data.glob("*/*.png"))
    for number, image in enumerate(images):
        image.rename(store / f"k{number}")
        image.symlink_to(LINKS[kind](store, f"k{number}"))
    rows = [(f"i{n}", image.relative_to(data), image.parent.name) for n, image in enumerate(images)]
    if form == "csv":
        return write_rows(data / "m.csv", ["id", "image", "label"], rows)
    if form == "parquet":
        ids, names, labels = zip(*rows, strict=True)
        table = pa.table({"id": ids, "image": [str(name) for name in names], "label": labels})
        pq.write_table(table, data / "m.parquet")
        return data / "m.parquet"
    return data


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("form", ["folder", "csv", "parquet"])
def test_links_to_outside_follow_one_rule(tmp_path: Path, kind: str, form: str) -> None:
    data = linked(tmp_path, kind, form)
    refused = metaselect("ingest", data, run=tmp_path / "run", code=3)
    assert "is a link that leaves the folder" in refused.err
    assert "--allow-outside reads it" in refused.err
    done = metaselect("ingest", data, "--allow-outside", "--json", run=tmp_path / "run")
    assert done.json["n"] == N
    again = metaselect("ingest", data, "--allow-outside", run=tmp_path / "run")
    assert "is up to date" in again.err
    # What was allowed once is read again for people's forms: the originals, not the stored pixels.
    metaselect("select", "--method", "random", "--budget", 2, run=tmp_path / "run")
    metaselect("annotate", "export", run=tmp_path / "run")
    exported = [*(tmp_path / "run/export").rglob("*.png")]
    originals = {(tmp_path / f".annex/k{n}").read_bytes() for n in range(N)}
    assert len(exported) == 2
    assert {image.read_bytes() for image in exported} <= originals


def test_a_table_that_is_a_link_to_outside_follows_the_rule(tmp_path: Path) -> None:
    rows = [f"x{n}" for n in range(N)]
    for shard in ("a", "b"):
        table = pa.table(
            {"id": [shard + row for row in rows], "label": list("uv" * 4), "features": [[1.0]] * N}
        )
        (tmp_path / "blobs").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / f"blobs/{shard}")
        (tmp_path / "hub").mkdir(exist_ok=True)
        (tmp_path / f"hub/{shard}.parquet").symlink_to(f"../blobs/{shard}")
    refused = metaselect("ingest", tmp_path / "hub", run=tmp_path / "run", code=3)
    assert "is a link that leaves the folder" in refused.err
    done = metaselect("ingest", tmp_path / "hub", "--allow-outside", "--json", run=tmp_path / "run")
    assert done.json["n"] == 2 * N
    # A link that the user names is what he means.
    one = metaselect("ingest", tmp_path / "hub/a.parquet", "--json", run=tmp_path / "one")
    assert one.json["n"] == N


def test_paths_to_outside_are_read_where_they_are_allowed(tmp_path: Path) -> None:
    images = write_images(tmp_path / "elsewhere", pictures(N, ("cat", "dog")))
    names = sorted(images.glob("*/*.png"))
    shown = [
        str(path) if n % 2 else f"../elsewhere/{path.relative_to(images)}" for n, path in enumerate(names)
    ]
    rows = [(f"i{n}", shown[n], path.parent.name) for n, path in enumerate(names)]
    data = write_rows(tmp_path / "d/m.csv", ["id", "image", "label"], rows)
    assert "leaves the folder" in metaselect("ingest", data, run=tmp_path / "run", code=3).err
    done = metaselect("ingest", data, "--allow-outside", "--json", run=tmp_path / "run")
    assert done.json["n"] == N
    plain = metaselect("ingest", images, "--json", run=tmp_path / "plain")
    hashes = [set(pq.read_table(tmp_path / run / "data/samples.parquet")["content_hash"].to_pylist())
              for run in ("run", "plain")]  # fmt: skip
    assert hashes[0] == hashes[1]
    assert plain.json["n"] == N


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_table_of_names_finds_its_images(tmp_path: Path, form: str) -> None:
    """As competitions give their data: a table of ids and labels, and files that are named by the ids."""
    samples = pictures(N, ("cat", "dog"))
    folder = tmp_path / "train"
    folder.mkdir()
    rows = []
    for number, sample in enumerate(samples):
        (folder / f"{number:03d}.png").write_bytes(sample.raw)
        # A name that has the suffix already keeps it.
        rows.append((f"{number:03d}" + (".png" if number == 3 else ""), sample.label))
    data = tmp_path / f"tables/labels.{form}"
    write_rows(tmp_path / "tables/labels.csv", ["id", "label"], rows)
    if form == "jsonl":
        data.write_text("".join(json.dumps({"id": name, "label": label}) + "\n" for name, label in rows))
    if form == "parquet":
        pq.write_table(pa.table(dict(zip(("id", "label"), zip(*rows, strict=True), strict=True))), data)
    alone = metaselect("ingest", data, "--json", run=tmp_path / "alone")
    assert alone.json["task"] == "external"
    assert "--image-column id --image-folder DIR --image-suffix .jpg" in alone.err
    options = ("--image-column", "id", "--image-folder", folder, "--image-suffix", ".png")
    done = metaselect("ingest", data, *options, "--json", run=tmp_path / "run")
    assert (done.json["n"], done.json["task"]) == (N, "images")
    metaselect("warmup", data, *options, "--epochs", 1, "--folds", 0, run=tmp_path / "run")
    result = metaselect("evaluate", data, *options, "--json", run=tmp_path / "run")
    assert result.json["test_samples"] == N
    # The folder may move, as the data may: contents are what counts.
    moved = folder.rename(tmp_path / "moved")
    again = metaselect(
        "ingest", data, *options[:2], "--image-folder", moved, *options[4:], run=tmp_path / "run"
    )
    assert "is up to date" in again.err
    refused = metaselect("ingest", tmp_path / "moved", "--image-suffix", ".png", run=tmp_path / "x", code=3)
    assert "--image-folder and --image-suffix are for tables" in refused.err


@given(st.text(), st.sampled_from(["", ".jpg", ".PNG"]))
def test_a_clean_name_is_a_clean_name_of_itself(name: str, suffix: str) -> None:
    files = ImageFiles(Path("/data"), suffix)
    clean = files.clean(name)
    assert files.clean(clean) == clean or escapes(clean) or "\\" in clean


def test_where_every_sample_is_bad_the_first_reason_and_the_list_are_there(tmp_path: Path) -> None:
    rows = [(f"i{n}", f"{n}.png", "ab"[n % 2]) for n in range(N)]
    data = write_rows(tmp_path / "m.csv", ["id", "image", "label"], rows)
    done = metaselect("ingest", data, "--on-bad-sample", "skip", run=tmp_path / "run", code=3)
    assert f"the first of {N}: {data}, row 2, id i0: the file 0.png does not exist" in done.err
    place = Path(done.err.rsplit("All of them: ", 1)[1].strip())
    assert [line.split(",")[2] for line in place.read_text().splitlines()[1:]] == [row[0] for row in rows]
    nameless = write_rows(tmp_path / "n.csv", ["id", "image", "label"], [("", *row[1:]) for row in rows])
    done = metaselect("ingest", nameless, "--on-bad-sample", "skip", run=tmp_path / "run", code=3)
    assert f"the first of {N}: {nameless}, row 2: it has no id" in done.err


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_bad_image_is_found_before_others_are_decoded(tmp_path: Path, fault: str) -> None:
    images = write_images(tmp_path, pictures(N, ("cat", "dog")))
    rows = [
        (f"i{n}", path.relative_to(images), path.parent.name) for n, path in enumerate(images.glob("*/*.png"))
    ]
    last = images / rows[-1][1]
    last.unlink() if fault == "missing" else last.write_bytes(b"GIF89a")
    data = write_rows(images / "m.csv", ["id", "image", "label"], rows)
    done = metaselect("ingest", data, run=tmp_path / "run", code=3)
    assert f"m.csv, row {N + 1}, id i{N - 1}: " in done.err
    assert not list((tmp_path / "run").rglob("resume*"))
    # A failed attempt that did nothing is not mentioned.
    again = metaselect("ingest", data, "--on-bad-sample", "skip", "--json", run=tmp_path / "run")
    assert again.json["skipped"] == 1
    assert "unfinished" not in again.err


def test_a_table_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    assert (
        "is not a regular file" in metaselect("ingest", tmp_path / "pipe.csv", run=tmp_path / "r", code=3).err
    )


# Classes


@pytest.mark.parametrize("given", ["dog,cat, bird ", "FILE"])
def test_classes_that_no_sample_has_can_be_named(tmp_path: Path, given: str) -> None:
    data = write_images(tmp_path / "d", pictures(N, ("cat", "dog")))
    if given == "FILE":
        given = str(tmp_path / "classes.txt")
        Path(given).write_text("dog\ncat\n\nbird\n")
    done = metaselect("warmup", data, "--classes", given, "--epochs", 1, "--folds", 0, run=tmp_path / "run")
    assert json.loads((tmp_path / "run/data/classes.json").read_text()) == ["dog", "cat", "bird"]
    assert "1 of 3 classes have no sample: bird." in done.err
    fewer = metaselect("ingest", data, "--classes", "cat,bird", run=tmp_path / "other", code=3)
    assert "the label 'dog' is not among the classes" in fewer.err
    changed = metaselect("ingest", data, "--classes", "cat,dog", run=tmp_path / "run", code=4)
    assert "was ingested with other settings: classes" in changed.err


@pytest.mark.parametrize(
    ("given", "fault"), [("cat", "fewer than 2"), ("a,b, a", "'a' twice"), ("01,1", "same number")]
)
def test_a_list_of_classes_that_is_none_is_refused(tmp_path: Path, given: str, fault: str) -> None:
    data = write_images(tmp_path / "d", pictures(N, ("cat", "dog")))
    code = 3 if "number" in fault else 2
    assert fault in metaselect("ingest", data, "--classes", given, run=tmp_path / "run", code=code).err


# Formats


def test_avif_is_read() -> None:
    assert "AVIF" in formats()
    pixels = np.full((3, 8, 8), 200, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, format="AVIF", quality=100)
    image = decode(stream.getvalue())
    assert not isinstance(image, UnusableContent)
    assert np.abs(np.asarray(image).astype(int) - 200).max() <= 2


@pytest.mark.parametrize(
    ("brand", "said"), [(b"heic", "pillow-heif"), (b"mif1", "pillow-heif"), (b"oooo", "known format")]
)
def test_an_image_that_needs_a_plugin_says_so(brand: bytes, said: str) -> None:
    raw = b"\0\0\0\x18ftyp" + brand + b"\0" * 64
    for found in (decode(raw), probe(raw)):
        assert isinstance(found, UnusableContent)
        assert said in found.reason


PLUGIN = '''
from PIL import Image, PngImagePlugin
import io
def register_heif_opener():
    """Reads a PNG behind a header of HEIC."""
    def opened(stream, name):
        stream.seek(24)
        return PngImagePlugin.PngImageFile(io.BytesIO(stream.read()))
    Image.register_open("HEIF", opened, lambda prefix: prefix[4:12] == b"ftypheic")
'''


def test_heic_is_read_where_its_plugin_is_installed(tmp_path: Path) -> None:
    for number, sample in enumerate(pictures(N, ("cat", "dog"))):
        (tmp_path / "d" / sample.label).mkdir(parents=True, exist_ok=True)
        (tmp_path / f"d/{sample.label}/{number}.HEIC").write_bytes(
            b"\0\0\0\x18ftypheic" + b"\0" * 12 + sample.raw
        )
    assert "HEIF" in FORMATS
    without = metaselect("ingest", tmp_path / "d", run=tmp_path / "run", code=3)
    assert "it is a HEIC image, which needs the package pillow-heif" in without.err
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/pillow_heif.py").write_text(PLUGIN)
    path = os.pathsep.join([str(tmp_path / "plugins"), os.environ.get("PYTHONPATH", "")])
    done = run_process("ingest", tmp_path / "d", "--json", run=tmp_path / "run", env={"PYTHONPATH": path})
    assert done.json["n"] == N
