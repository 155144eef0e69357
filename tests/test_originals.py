"""Images as files for people: the bytes that came in, under names that tell nothing and harm nothing."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_makers import Picture, encode, made, pictures, write_images, write_rows, write_struct
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metaselect.data.originals import file_stem, file_stems, write_originals
from metaselect.data.store import load_pool


def test_the_bytes_are_the_originals_in_every_form(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    kinds = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "webp": "WEBP"}
    samples = [
        Picture(f"{'ab'[n % 2]}/{n}.{suffix}", "ab"[n % 2], encode(pixels[n], kind))
        for n, (suffix, kind) in enumerate(kinds.items())
    ]
    folder = write_images(tmp_path / "d", samples)
    rows = [(sample.path, sample.label) for sample in samples]
    for turn, data in enumerate((
        folder,
        write_rows(folder / "m.csv", ["image", "label"], rows),
        write_struct(tmp_path / "d.parquet", samples),
        write_struct(tmp_path / "n.parquet", samples, with_path=False),
    )):  # fmt: skip
        run = made(data, tmp_path / f"r{turn}", image_size=4)
        ids = list(load_pool(run).sample_ids)
        names = write_originals(run, ids, tmp_path / f"o{turn}")
        assert sorted(names) == ids
        assert sorted(name.rsplit(".")[-1] for name in names.values()) == sorted(kinds)
        written = {path.name: path.read_bytes() for path in (tmp_path / f"o{turn}").iterdir()}
        assert sorted(written) == sorted(names.values())
        assert sorted(written.values()) == sorted(sample.raw for sample in samples)
        for sample_id, name in names.items():
            assert name.rsplit(".")[0] == sample_id


def test_only_the_wanted_are_written_and_a_second_time_is_the_same(tmp_path: Path) -> None:
    samples = pictures(6)
    ids = [f"i{number}" for number in range(6)]
    run = made(write_struct(tmp_path / "d.parquet", samples, ids=ids), tmp_path / "r")
    for _ in range(2):
        assert write_originals(run, ["i4", "i1"], tmp_path / "o") == {"i4": "i4.png", "i1": "i1.png"}
        found = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
        assert found == {"i4.png": samples[4].raw, "i1.png": samples[1].raw}
    assert write_originals(run, [], tmp_path / "none") == {}


@pytest.mark.parametrize("fate", ["gone", "changed", "damaged"])
def test_stored_pixels_serve_where_the_source_no_longer_does(tmp_path: Path, fate: str) -> None:
    samples = pictures(4)
    data = write_images(tmp_path / "d", samples)
    run = made(data, tmp_path / "r")
    pool = load_pool(run)
    if fate == "gone":
        data.rename(tmp_path / "elsewhere")
    for sample in samples if fate != "gone" else []:
        new = encode(np.zeros((6, 6), np.uint8)) if fate == "changed" else sample.raw[:-30]
        (data / sample.path).write_bytes(new)
    names = write_originals(run, pool.sample_ids, tmp_path / "o")
    for index, sample_id in enumerate(pool.sample_ids):
        assert names[sample_id] == f"{sample_id}.png"
        found = np.asarray(Image.open(tmp_path / "o" / names[sample_id]))
        np.testing.assert_array_equal(found, pool.inputs[index][0])


def test_formats_that_few_programs_know_become_png_in_full_size(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    samples = [Picture(f"{label}/x.tif", label, encode(pixels[n], "TIFF")) for n, label in enumerate("ab")]
    run = made(write_images(tmp_path / "d", samples), tmp_path / "r", image_size=4)
    names = write_originals(run, load_pool(run).sample_ids, tmp_path / "o")
    found = [np.asarray(Image.open(tmp_path / "o" / name)) for name in names.values()]
    assert sorted(array.tobytes() for array in found) == sorted(array.tobytes() for array in pixels)
    assert all(name.endswith(".png") for name in names.values())


def test_names_never_hold_the_path_and_unsafe_ids_are_hashed(tmp_path: Path) -> None:
    ids = ["../../evil", ".hidden", "a b", "con", "NUL.x", "x" * 101, "ok-1_2.3", "Case", "case", "ü"]
    samples = [Picture("", "ab"[n % 2], picture.raw) for n, picture in enumerate(pictures(len(ids)))]
    run = made(write_struct(tmp_path / "d.parquet", samples, ids=ids), tmp_path / "r")
    names = write_originals(run, ids, tmp_path / "o")
    for sample_id, name in names.items():
        hashed = f"s{hashlib.sha256(sample_id.encode()).hexdigest()[:16]}.png"
        assert name == ("ok-1_2.3.png" if sample_id == "ok-1_2.3" else hashed)
        assert (tmp_path / "o" / name).read_bytes() == samples[ids.index(sample_id)].raw
    assert len(list((tmp_path / "o").iterdir())) == len(ids)


@given(st.lists(st.text(max_size=12), unique=True, max_size=8))
def test_stems_are_safe_and_distinct_whatever_the_ids(ids: Any) -> None:
    stems = file_stems(ids)
    assert len({stem.casefold() for stem in stems.values()}) == len(ids)
    for stem in stems.values():
        assert stem
        assert stem[0] != "."
        assert len(stem) <= 100
        assert all(character.isascii() and (character.isalnum() or character in "._-") for character in stem)


@pytest.mark.parametrize("sample_id", ["aux", "COM1", "lpt9.txt", "", "..", "a/b", "a\\b", "a:b", "a\n"])
def test_reserved_and_dangerous_ids_are_hashed(sample_id: str) -> None:
    assert file_stem(sample_id) == f"s{hashlib.sha256(sample_id.encode()).hexdigest()[:16]}"


def test_features_have_no_images(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "features": [[1.0], [2.0]], "label": ["x", "y"]})
    pq.write_table(table, tmp_path / "d.parquet")
    run = made(tmp_path / "d.parquet", tmp_path / "r")
    assert write_originals(run, ["a"], tmp_path / "o") == {}
    assert not (tmp_path / "o").exists()
