"""select --features: which methods such a file serves, what is refused, and when it counts as changed."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import LIMIT, metaselect, seen

WIDTH = 6
REPRESENTATION = ("rbc", "--option", "features=representation")


def ids_of(run: Path) -> list[str]:
    found: list[str] = pq.read_table(run / "data/samples.parquet")["sample_id"].to_pylist()
    return found


def write(path: Path, ids: list[str], *, probs: bool = False, seed: int = 0) -> Path:
    """Seeded features, and probabilities for 10 classes where wanted, in the order of ``ids``."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(len(ids), WIDTH)).astype(np.float32)
    columns = {"sample_id": pa.array(ids), "features": pa.array(list(rows), pa.list_(pa.float32()))}
    if probs:
        logits = np.exp(generator.normal(size=(len(ids), 10)) * 3)
        columns["probs"] = pa.array(list(logits / logits.sum(axis=1, keepdims=True)))
    pq.write_table(pa.table(columns), path)
    return path


def select(run: Path, file: Path, *words: object, budget: int = 8) -> tuple[object, ...]:
    return ("select", "--budget", budget, "--features", file, "--run", run, "--method", *words)


def chosen(run: Path) -> list[str]:
    with (run / "select/round-1/selected.csv").open(newline="") as stream:
        return [row["sample_id"] for row in csv.DictReader(stream)]


@pytest.fixture
def unwarmed(warm: Path) -> Path:
    """The shared run as it was after ingest."""
    shutil.rmtree(warm / "warmup")
    return warm


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("k-center",), ("typiclust",), ("random",), REPRESENTATION], ids=lambda words: words[0]
)
def test_features_alone_serve_methods_that_need_no_more(
    unwarmed: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = write(tmp_path / "f.parquet", ids_of(unwarmed))
    metaselect(*select(unwarmed, file, *words))
    assert len(set(chosen(unwarmed))) == 8
    assert set(chosen(unwarmed)) <= set(ids_of(unwarmed))
    assert not list((unwarmed / "select/round-1").glob("gradients-*"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rbc", "badge", "craig", "uncertain", "low-self-confidence"])
def test_features_and_probabilities_serve_the_rest(unwarmed: Path, tmp_path: Path, method: str) -> None:
    file = write(tmp_path / "f.parquet", ids_of(unwarmed), probs=True)
    metaselect(*select(unwarmed, file, method))
    assert len(set(chosen(unwarmed))) == 8


@pytest.mark.slow
def test_the_file_is_what_the_methods_look_at(warm: Path, tmp_path: Path) -> None:
    """Against the definitions, so that neither the warm-up's features nor another order of rows can slip in."""
    ids = ids_of(warm)
    shuffled = [ids[place] for place in np.random.default_rng(2).permutation(LIMIT)]
    table = pq.read_table(write(tmp_path / "f.parquet", [*shuffled, "not in the pool"], probs=True))
    probs = dict(zip(table["sample_id"].to_pylist(), table["probs"].to_pylist(), strict=True))
    done = metaselect(
        *select(warm, tmp_path / "f.parquet", "uncertain", "--option", "score=least-confidence")
    )
    assert "1 rows of samples that are not in the pool are ignored" in done.err
    assert chosen(warm) == sorted(ids, key=lambda sample_id: max(probs[sample_id]))[:8]
    rows = dict(
        zip(table["sample_id"].to_pylist(), map(np.array, table["features"].to_pylist()), strict=True)
    )
    metaselect(*select(warm, tmp_path / "f.parquet", "k-center"), "--force")
    picks = chosen(warm)
    for count in range(1, len(picks)):
        nearest = {i: min(np.linalg.norm(rows[i] - rows[pick]) for pick in picks[:count]) for i in ids}
        assert nearest[picks[count]] == pytest.approx(max(nearest.values()), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rbc",), "has no column probs, which rbc needs."),
        (("badge",), "has no column probs, which badge needs."),
        (("gbc",), "gbc needs gradients of the warm-up's model, which --features cannot supply."),
        (("gbc", "--dry-run"), "gbc needs gradients of the warm-up's model"),
        (("ta-vaal",), "ta-vaal needs images of the warm-up's model, which --features cannot supply."),
    ],
    ids=["rbc", "badge", "gbc", "dry", "ta-vaal"],
)
def test_methods_that_need_more_say_so(
    unwarmed: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    file = write(tmp_path / "f.parquet", ids_of(unwarmed))
    refused = metaselect(*select(unwarmed, file, *words), code=2)
    assert said in refused.err
    assert refused.out == ""
    assert not (unwarmed / "select").exists()


def test_files_that_cannot_be_used_are_named_with_the_row(unwarmed: Path, tmp_path: Path) -> None:
    ids = ids_of(unwarmed)
    missing = metaselect(*select(unwarmed, tmp_path / "none.parquet", "k-center"), code=3)
    assert f"{tmp_path}/none.parquet is not a file." in missing.err
    file = write(tmp_path / "f.parquet", ids)
    table = pq.read_table(file)
    rows = table["features"].to_pylist()
    rows[4][2] = float("nan")
    pq.write_table(table.set_column(1, "features", pa.array(rows)), file)
    for method in ("k-center", "random"):  # also where the method looks at nothing
        bad = metaselect(*select(unwarmed, file, method), code=3)
        assert f"{file}, row 5, id {ids[4]}: feature 3 is nan, not a finite float32." in bad.err
        assert bad.out == ""
    pq.write_table(table.slice(1), file)
    assert f"no features for 1 of 200 samples: {ids[0]}." in metaselect(
        *select(unwarmed, file, "k-center"), code=3
    ).err  # fmt: skip
    assert not (unwarmed / "select").exists()


@pytest.mark.slow
def test_the_same_file_is_up_to_date_and_a_changed_one_refused(unwarmed: Path, tmp_path: Path) -> None:
    run, ids = unwarmed, ids_of(unwarmed)
    file = write(tmp_path / "f.parquet", ids)
    words = select(run, file, "k-center", "--control", 0.25, budget=12)
    metaselect(*words)
    first = (run / "select/round-1/selected.csv").read_bytes()
    before = seen(run)
    moved = Path(shutil.copyfile(file, tmp_path / "moved.parquet"))
    for same in (words, select(run, moved, "k-center", "--control", 0.25, budget=12)):
        assert "select/round-1 is up to date" in metaselect(*same).err
    table = pq.read_table(file)
    write(file, ids, seed=1)
    refused = metaselect(*words, code=4)
    assert "features is other data" in refused.err
    without = metaselect("select", "--budget", 12, "--control", 0.25, "--method", "random", run=run, code=4)
    assert "features is other data" in without.err
    assert seen(run) == before
    order = np.random.default_rng(5).permutation(LIMIT)
    pq.write_table(table.take(order), file, row_group_size=50)
    metaselect(*words, "--force")
    assert (run / "select/round-1/selected.csv").read_bytes() == first
    write(file, ids, seed=1)
    metaselect(*words, "--force")
    assert (run / "select/round-1/selected.csv").read_bytes() != first


@pytest.mark.slow
def test_a_closed_round_refuses_other_features(unwarmed: Path, tmp_path: Path) -> None:
    ids = ids_of(unwarmed)
    metaselect(*select(unwarmed, write(tmp_path / "f.parquet", ids), "typiclust"))
    metaselect("annotate", "export", "--no-images", run=unwarmed)
    again = metaselect(*select(unwarmed, tmp_path / "f.parquet", "typiclust"))
    assert "Round 1 is closed and stays as it is." in again.err
    assert "Next" not in again.err
    write(tmp_path / "f.parquet", [*ids[1:], ids[0]])
    assert (
        "Round 1 is closed" in metaselect(*select(unwarmed, tmp_path / "f.parquet", "typiclust"), code=4).err
    )
