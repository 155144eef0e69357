"""Test sets are read as their pool was; the signature of a data set."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_makers import CLASSES, Listener, pictures, write_images, write_rows, write_struct

from metaselect.data.signature import dataset_signature
from metaselect.data.store import Dataset
from metaselect.data.stored.preprocess import Preprocess
from metaselect.data.test_set import read_test_set
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError


def test_the_signature_sees_every_file_and_no_place(tmp_path: Path) -> None:
    samples = pictures(4)
    folder = write_images(tmp_path / "d", samples)
    manifest = write_rows(folder / "m.csv", ["image", "label"], [(s.path, s.label) for s in samples])
    before = {path: dataset_signature(path) for path in (folder, manifest)}
    folder.rename(tmp_path / "moved")
    after = {path: dataset_signature(tmp_path / "moved" / path.relative_to(folder)) for path in before}
    assert after == before
    os.utime(tmp_path / "moved" / samples[2].path, ns=(1, 1))
    for path, old in before.items():
        assert dataset_signature(tmp_path / "moved" / path.relative_to(folder)) != old


# Test sets


def pool(task: str, inputs: np.ndarray, classes: tuple[str, ...] = CLASSES) -> Dataset:
    size = inputs.shape[2:] if task == "images" else ()
    mode = {1: "L", 3: "RGB"}[inputs.shape[1]] if task == "images" else ""
    return Dataset([], np.zeros(0, np.int64), classes, inputs, Preprocess(task, size, mode, (0.0,), (1.0,)))


def test_a_test_set_takes_classes_by_name_and_the_size_of_the_pool(tmp_path: Path) -> None:
    samples = pictures(4, ("owl", "cat"), side=8)
    path = write_struct(tmp_path / "t.parquet", samples, ids=list("dbca"), names=("owl", "cat"))
    like = pool("images", np.zeros((1, 3, 4, 4), np.uint8))
    ears = Listener()
    found, hashes = read_test_set(path, ReadOptions(), like, tmp_path / "w", ears)
    assert list(found.sample_ids) == ["a", "b", "c", "d"]
    assert [CLASSES[label] for label in found.labels] == ["cat", "cat", "owl", "owl"]
    assert found.inputs.shape == (4, 3, 4, 4)
    assert isinstance(found.inputs, np.memmap)
    assert len(set(hashes)) == 4
    assert ears.notes == [f"{path} has no sample of 1 class: dog."]
    assert sorted(file.name for file in (tmp_path / "w").iterdir()) == ["pixels.npy"]


def test_a_test_set_with_a_foreign_label_names_the_closest(tmp_path: Path) -> None:
    path = write_struct(tmp_path / "t.parquet", pictures(2, ("cat", "dogs")), ids=["a", "b"])
    like = pool("images", np.zeros((1, 1, 6, 6), np.uint8))
    with pytest.raises(DataError, match=r"row 2, id b: the label 'dogs' is not .* did you mean 'dog'\?"):
        read_test_set(path, ReadOptions(), like, tmp_path / "w", Listener())
    skip = ReadOptions(on_bad_sample="skip")
    found, _ = read_test_set(path, skip, like, tmp_path / "w", Listener())
    assert list(found.sample_ids) == ["a"]
    assert "dogs" in (tmp_path / "w/skipped.csv").read_text()


def test_a_test_set_of_another_kind_or_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": ["a"], "features": [[1.0, 2.0]], "label": ["cat"]}), path)
    images, wide, fitting = (
        pool("images", np.zeros((1, 1, 6, 6), np.uint8)),
        pool("features", np.zeros((1, 3), np.float32)),
        pool("features", np.zeros((1, 2), np.float32)),
    )
    with pytest.raises(DataError, match="holds features, and the run's models take images"):
        read_test_set(path, ReadOptions(), images, tmp_path, Listener())
    with pytest.raises(DataError, match="has 2 features per sample, the run has 3"):
        read_test_set(path, ReadOptions(), wide, tmp_path, Listener())
    found, _ = read_test_set(path, ReadOptions(), fitting, tmp_path, Listener())
    np.testing.assert_array_equal(found.inputs, [[1.0, 2.0]])
