"""A test set whose columns have other names than the defaults: read as the run's data were."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Done, metaselect

from metaselect.data.classes import class_metadata

HEADER = "code,x1,x2,weight,kind"


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 2) of two clusters, and their classes."""
    draw = np.random.default_rng(seed)
    kinds = draw.integers(0, 2, count)
    return np.round(draw.normal(size=(count, 2)) + 3 * kinds[:, None], 4), kinds


def manifest(path: Path, count: int, seed: int, header: str = HEADER) -> Path:
    """A CSV with ids, two features, a number that is none, and labels."""
    features, kinds = rows(count, seed)
    lines = [
        f"{path.stem}-{at},{x1},{x2},{at},{'ab'[kind]}"
        for at, ((x1, x2), kind) in enumerate(zip(features, kinds, strict=True))
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of such a manifest, after its warm-up."""
    folder = tmp_path_factory.mktemp("columns")
    columns = ("--id-column", "code", "--label-column", "kind", "--feature-columns", "x*")
    train = manifest(folder / "train.csv", 60, 0)
    metaselect("warmup", train, *columns, "--model", "linear", "--folds", 0, run=folder / "run")
    return folder


def evaluated(folder: Path, test: Path, *words: object, code: int = 0) -> Done:
    """`evaluate` on the test set, a folder for each."""
    return metaselect("evaluate", test, *words, "--json", run=folder / "run", code=code)


def test_the_columns_of_the_runs_data_are_taken(warmed: Path) -> None:
    test = manifest(warmed / "test.csv", 40, 1)
    done = evaluated(warmed, test)
    note = "is read as the run's data were: --id-column code --label-column kind --feature-columns 'x*'"
    assert note in done.err
    assert json.loads(done.out)["test_samples"] == 40
    words = ("--id-column", "code", "--label-column", "kind", "--feature-columns", "x*")
    again = evaluated(warmed, test, *words)
    assert "up to date" in again.err
    assert "is read as" not in again.err


def test_a_test_set_that_the_defaults_fit_is_read_by_them(warmed: Path) -> None:
    features, kinds = rows(30, 2)
    table = pa.table({"features": pa.array(list(features.astype(np.float32))), "label": pa.array(kinds)})
    table = table.replace_schema_metadata(class_metadata("label", ("a", "b"), {}))
    pq.write_table(table, warmed / "plain.parquet")
    done = evaluated(warmed, warmed / "plain.parquet")
    assert "is read as" not in done.err
    assert json.loads(done.out)["test_samples"] == 30


def test_what_is_given_stays_and_what_fits_neither_is_refused(warmed: Path) -> None:
    test = manifest(warmed / "renamed.csv", 20, 3, "code,y1,y2,weight,kind")
    refused = evaluated(warmed, test, "--label-column", "kind", code=3).err
    assert "is read as" not in refused
    assert "there is code, y1, y2, weight, kind" in refused
    done = evaluated(warmed, test, "--feature-columns", "y*")
    assert "--feature-columns" not in done.err.partition("is read as")[2]
    assert json.loads(done.out)["test_samples"] == 20
