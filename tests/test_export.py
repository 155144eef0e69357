"""export: the rules, that no row is lost, what the files hold, and that others load them."""

import csv
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import metaselect, tree
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metaselect.data.images import decode
from metaselect.stages.export.decisions import DECISIONS, Decision, Evidence, Thresholds, decide
from metaselect.text import unescape_formula

DOCS = Path(__file__).resolve().parents[1] / "docs"
LIMITS = Thresholds(0.5, 0.9, 0.1)


@pytest.mark.parametrize(
    ("sample", "decision", "final", "weight"),
    [
        (Evidence("a", None, True, 0.0, None, None), "drop", None, 0.0),
        (Evidence("a", "a", False, 1.0, "a", 1.0), "keep", "a", 1.0),
        (Evidence("a", "b", False, 1.0, "b", 1.0), "relabel", "b", 1.0),
        (Evidence(None, "b", False, 1.0, "b", 1.0), "relabel", "b", 1.0),
        (Evidence("a", None, False, 0.5, "b", 0.99), "keep", "a", 0.5),
        (Evidence("a", None, False, 0.4, "b", 0.9), "relabel", "b", 0.9),
        (Evidence("a", None, False, 0.4, "b", 0.89), "review", "a", 0.4),
        (Evidence("a", None, False, 0.4, "a", 0.99), "review", "a", 0.4),
        (Evidence("a", None, False, 0.1, "b", 0.5), "review", "a", 0.1),
        (Evidence("a", None, False, 0.09, "b", 0.5), "drop", None, 0.0),
        (Evidence("a", None, False, 0.09, "b", 0.95), "relabel", "b", 0.95),
        (Evidence(None, None, False, 0.0, "b", 0.95), "relabel", "b", 0.95),
        (Evidence(None, None, False, 0.0, "b", 0.5), "review", None, 0.0),
    ],
)
def test_each_rule(sample: Evidence, decision: str, final: str | None, weight: float) -> None:
    assert decide(sample, LIMITS)[:3] == (decision, final, weight)


unit = st.floats(0, 1)
name = st.sampled_from(["a", "b", "c"])


@given(
    st.builds(
        Evidence, st.none() | name, st.none() | name, st.booleans(), unit, name, unit, st.none() | name, unit
    ),
    st.builds(Thresholds, unit, unit, unit),
)
def test_no_label_is_changed_without_evidence(sample: Evidence, limits: Thresholds) -> None:
    """Whatever the limits are."""
    found: Decision = decide(sample, limits)
    assert found.decision in DECISIONS
    assert 0 <= found.weight <= 1
    assert (found.final is None) == (
        found.decision == "drop" or (found.decision == "review" and not sample.given)
    )
    if found.decision == "relabel":
        assert found.final != sample.given
        sure = (sample.suggested_prob or 0) >= limits.relabel_above
        assert found.final in (sample.bought, sample.accepted) or (found.final == sample.suggested and sure)
    elif found.final is not None:
        assert found.final == sample.given
    if sample.bought is not None and not sample.unusable:
        assert (found.final, found.weight) == (sample.bought, 1.0)


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_the_table_has_every_sample_and_follows_the_rules(finished: Path, tmp_path: Path) -> None:
    done = metaselect("export", "-o", tmp_path / "out", "--json", run=finished).json
    rows = read(tmp_path / "out/labels.parquet")
    weights = {row["sample_id"]: row for row in read(finished / "reweight/auto/weights.parquet")}
    assert [row["sample_id"] for row in rows] == sorted(weights)
    issues = {row["sample_id"]: row for row in read(finished / "reweight/auto/issues.parquet")}
    limits = Thresholds(**done["thresholds"])
    for row in rows:
        known, issue = weights[row["sample_id"]], issues[row["sample_id"]]
        evidence = Evidence(
            *(
                known["given_label"],
                issue["bought_label"],
                known["weight_kind"] == "unusable",
                known["weight"],
            ),
            *(issue["suggested_label"], issue["suggested_prob"]),
        )
        expected = decide(evidence, limits)
        assert (row["decision"], row["final_label"]) == expected[:2]
        assert row["weight"] == pytest.approx(expected.weight, abs=1e-6)
        assert row["given_label"] == known["given_label"]
    assert Counter(row["decision"] for row in rows) == Counter(done["decisions"])
    changed = {row["sample_id"] for row in rows if row["final_label"] != row["given_label"]}
    with (tmp_path / "out/diff.csv").open(newline="") as stream:
        diff = list(csv.DictReader(stream))
    assert {row["sample_id"] for row in diff} == changed
    assert len(changed) == done["changed"] > 5
    assert json.loads((tmp_path / "out/export.json").read_text())["decisions"] == done["decisions"]


def test_the_same_run_gives_the_same_bytes_and_the_run_stays_as_it_is(finished: Path, tmp_path: Path) -> None:
    before = tree(finished)
    for form in ("one", "two"):
        metaselect("export", "-o", tmp_path / form, "--format", "csv", "--images", "hf", run=finished)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert tree(finished) == before
    metaselect("verify", run=finished)


@pytest.fixture
def folder_run(tmp_path: Path) -> Path:
    """A finished run of a folder of images."""
    data, rng = tmp_path / "photos", np.random.default_rng(0)
    for place in range(36):
        file = data / ("cat", "dog", "owl")[place % 3] / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 80, (8, 8, 3), dtype=np.uint8) + np.uint8(80 * (place % 3))
        Image.fromarray(pixels).save(file)
    run = tmp_path / "folder-run"
    metaselect("warmup", data, "--epochs", 2, "--folds", 2, "--batch-size", 8, run=run)
    metaselect("select", "--budget", 6, "--method", "random", run=run)
    ids = pq.read_table(run / "data/samples.parquet")
    answers = tmp_path / "answers.csv"
    answers.write_text(
        "sample_id,clean_label\n"
        + "".join(
            f"{name},{label}\n"
            for name, label in zip(ids["sample_id"].to_pylist(), ids["given_label"].to_pylist(), strict=True)
        )
    )
    metaselect("annotate", "simulate", answers, run=run)
    metaselect("reweight", "--method", "uniform", "--folds", 0, "--epochs", 1, run=run)
    return run


def test_images_are_the_original_files_under_their_final_labels(folder_run: Path, tmp_path: Path) -> None:
    for extra in ((), ("--link",)):
        metaselect("export", "-o", tmp_path / "out", "--images", "folder", *extra, "--force", run=folder_run)
        rows = {row["sample_id"]: row for row in read(tmp_path / "out/labels.parquet")}
        sources = {row["sample_id"]: row["source"] for row in read(folder_run / "data/samples.parquet")}
        files = list((tmp_path / "out/images").rglob("*.*"))
        assert len(files) == sum(row["final_label"] is not None for row in rows.values())
        for file in files:
            assert file.is_symlink() == bool(extra)
            assert rows[file.stem]["final_label"] == file.parent.name
            assert file.read_bytes() == (tmp_path / "photos" / sources[file.stem]).read_bytes()
        flags = ("--allow-outside",) if extra else ()
        again = metaselect(
            "ingest", tmp_path / "out/images", "--json", *flags, run=tmp_path / f"again{len(extra)}"
        )
        assert again.json["n"] == len(files)


def test_images_of_a_data_set_that_is_gone_are_the_stored_pixels(finished: Path, tmp_path: Path) -> None:
    record = finished / "data/stage.json"
    record.write_text(record.read_text().replace("sample_data", "gone"))
    done = metaselect("export", "-o", tmp_path / "out", "--images", "folder", run=finished)
    assert "no longer where the data set was" in done.err
    pixels = np.load(finished / "data/pixels.npy")
    ids = [row["sample_id"] for row in read(finished / "data/samples.parquet")]
    files = list((tmp_path / "out/images").rglob("*.png"))
    assert len(files) == len(ids)
    for file in files[:20]:
        assert np.array_equal(np.asarray(decode(file.read_bytes())), pixels[ids.index(file.stem)][0])


def test_refusals_name_the_remedy(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("mine")
    for place, words in (
        (finished / "inside", "within the run"),
        (finished.parent, "around it"),
        (tmp_path / "other", "holds something else"),
    ):
        assert words in metaselect("export", "-o", place, run=finished, code=2).err
    metaselect("export", "-o", tmp_path / "out", run=finished)
    again = metaselect("export", "-o", tmp_path / "out", run=finished, code=2).err
    assert "--force" in again
    assert (
        "no re-weighting of the run"
        in metaselect("export", "-o", tmp_path / "x", "--name", "no", run=finished, code=2).err
    )
    bad = ("export", "-o", tmp_path / "x")
    assert (
        "--keep-above" in metaselect(*bad, "--keep-above", 0.2, "--drop-below", 0.3, run=finished, code=2).err
    )
    assert "--images" in metaselect(*bad, "--link", run=finished, code=2).err
    assert (tmp_path / "other/letter.txt").read_text() == "mine"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Ids and classes that are formulas, paths, or names that Windows keeps."""
    run, folder = tmp_path / "run", tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    classes, ids = ("=1+1", "../up", "con"), [f"../{i}" if i % 2 else f"=cmd|{i}" for i in range(36)]
    lines = ["sample_id,image,label"]
    for i, sample_id in enumerate(ids):
        pixels = rng.integers(0, 80, (8, 8), dtype=np.uint8) + np.uint8(80 * (i % 3))
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(f"{sample_id},{i}.png,{classes[i % 3]}")
    (folder / "pool.csv").write_text("\n".join(lines) + "\n")
    metaselect("warmup", folder / "pool.csv", "--epochs", 2, "--folds", 0, "--batch-size", 8, run=run)
    metaselect("reweight", "--method", "uniform", "--folds", 0, "--epochs", 1, run=run)
    done = metaselect(
        *("export", "-o", tmp_path / "out/here", "--images", "folder", "--format", "csv"), run=run
    )
    assert "no folder's name" in done.err
    with (tmp_path / "out/here/labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(unescape_formula(row["sample_id"]) for row in rows) == sorted(ids)
    assert all(
        not row[column].startswith(("=", "+", "-", "@"))
        for row in rows
        for column in ("sample_id", "given_label")
    )
    inside = (tmp_path / "out/here").resolve()
    files = list((inside / "images").rglob("*.png"))
    assert len(files) == len(ids)
    assert len({file.parent.name for file in files}) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["here"]


@pytest.fixture(scope="module")
def exported(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the export of the finished run, once with --images folder, once with hf."""
    folder = tmp_path_factory.mktemp("exported")
    for layout in ("folder", "hf"):
        run = finished_once / "run"
        metaselect("export", "-o", folder / layout / "cleaned", "--images", layout, run=run)
    return folder


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / "export.md").read_text(encoding="utf-8"), re.DOTALL)


def run_block(word: str, where: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (block,) = (each for each in blocks() if word in each)
    monkeypatch.chdir(where)
    found: dict[str, Any] = {}
    exec(block, found)
    return found


def test_pandas_loads_it(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_block("pandas", exported / "hf", monkeypatch)
    rows = read(exported / "hf/cleaned/labels.parquet")
    assert len(found["table"]) == len(rows) == 200
    assert list(found["train"].index) == [row["sample_id"] for row in rows if row["final_label"] is not None]


def test_torchvision_loads_it(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_block("torchvision", exported / "folder", monkeypatch)["train"]
    rows = {row["sample_id"]: row["final_label"] for row in read(exported / "folder/cleaned/labels.parquet")}
    assert len(found) == sum(label is not None for label in rows.values())
    assert all(rows[Path(path).stem] == found.classes[label] for path, label in found.samples)


@pytest.mark.slow
def test_hugging_face_loads_it(exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = run_block("load_dataset", exported / "hf", monkeypatch)["labelled"]
    rows = {row["sample_id"]: row for row in read(exported / "hf/cleaned/labels.parquet")}
    names = found.features["label"].names
    assert len(found) == sum(row["final_label"] is not None for row in rows.values())
    for row in found:
        expected = rows[row["sample_id"]]
        assert (names[row["label"]], row["decision"]) == (expected["final_label"], expected["decision"])
        assert row["image"].size == (8, 8)


def test_the_description_is_of_the_table(exported: Path) -> None:
    """Its columns and its hash; that the whole follows the specification was checked with the authors' own reader."""
    out = exported / "hf/cleaned"
    described = json.loads((out / "croissant.json").read_text())
    table = pq.read_table(out / "labels.parquet")
    fields = [field["source"]["extract"]["column"] for field in described["recordSet"][0]["field"]]
    assert fields == table.column_names
    (file,) = (each for each in described["distribution"] if each["@type"] == "cr:FileObject")
    assert file["sha256"] == hashlib.sha256((out / file["contentUrl"]).read_bytes()).hexdigest()
    (images,) = (each for each in described["distribution"] if each["@type"] == "cr:FileSet")
    assert {path for glob in images["includes"] for path in out.glob(glob)} == set(out.glob("images/*/*.png"))
