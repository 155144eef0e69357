"""Wrong labels: exact counts, the right targets, from the original labels; and what `corrupt` writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_makers import (
    CLASSES,
    Listener,
    json_of,
    metaselect,
    pictures,
    write_images,
    write_rows,
    write_struct,
)
from hypothesis import strategies as st

from metaselect.data import corruption
from metaselect.data.classes import declared_classes
from metaselect.data_options import CorruptOptions
from metaselect.errors import DataError, UsageError
from metaselect.records import Outcome
from metaselect.stages.corrupt import corrupt

CIFAR10 = tuple(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])

labelled = st.integers(3, 6).flatmap(
    lambda count: st.tuples(st.just(count), st.lists(st.integers(0, count - 1), min_size=1, max_size=60))
)
rates = st.floats(0, 1)
seeds = st.integers(0, 2**32)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# The stage


def run(data: Path, out: Path, **options: Any) -> Outcome:
    return corrupt(data, out, CorruptOptions(**options), Listener())


def labels_of(out: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Given and clean labels by sample_id."""
    table = pq.read_table(out / "train.parquet")
    names = declared_classes(table.schema.metadata, "label")
    given = {
        row["sample_id"]: names[row["label"]] for row in table.select(["sample_id", "label"]).to_pylist()
    }
    lines = (out / "truth.csv").read_text().splitlines()
    assert lines[0] == "sample_id,clean_label"
    return given, dict(line.split(",") for line in lines[1:])


def many(tmp_path: Path, classes: tuple[str, ...] = CLASSES, each: int = 20) -> Path:
    samples = pictures(each * len(classes), classes, side=2)
    ids = [f"i{number:03d}" for number in range(len(samples))]
    return write_struct(tmp_path / "clean.parquet", samples, ids=ids, names=classes, group=7)


def test_what_is_written_holds_the_bytes_as_they_were(tmp_path: Path) -> None:
    samples = pictures(9)
    ids = [f"i{number}" for number in (5, 3, 8, 1, 0, 2, 4, 7, 6)]
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids, names=("owl", "cat", "dog"))
    outcome = run(data, tmp_path / "o", noise="adversarial", rate=0.5)
    table = pq.read_table(tmp_path / "o/train.parquet")
    assert table["sample_id"].to_pylist() == sorted(ids)
    held = dict(zip(ids, (sample.raw for sample in samples), strict=True))
    assert table["image"].to_pylist() == [{"bytes": held[name], "path": None} for name in sorted(ids)]
    given, clean = labels_of(tmp_path / "o")
    assert clean == dict(zip(ids, (sample.label for sample in samples), strict=True))
    after = {"owl": "cat", "cat": "dog", "dog": "owl"}
    changed = {name for name in ids if given[name] != clean[name]}
    assert len(changed) == round(0.5 * 9) == outcome.result["flipped"]
    assert all(given[name] == after[clean[name]] for name in changed)
    assert outcome.result["measured_rate"] == len(changed) / 9
    assert outcome.result["classes"] == ["owl", "cat", "dog"]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["train.parquet", "truth.csv"]


def test_the_order_and_form_of_the_data_do_not_matter(tmp_path: Path) -> None:
    samples = pictures(12)
    ids = [f"i{number:02d}" for number in range(12)]
    written = []
    for turn in range(3):
        order = np.random.default_rng(turn).permutation(12)
        folder = tmp_path / f"d{turn}"
        mixed, names = [samples[p] for p in order], [ids[p] for p in order]
        if turn == 2:
            write_images(folder, mixed)
            rows = [(name, sample.path, sample.label) for name, sample in zip(names, mixed, strict=True)]
            data = write_rows(folder / "m.csv", ["id", "image", "label"], rows)
        else:
            data = write_struct(folder / "m.parquet", mixed, ids=names, group=3 + turn)
        run(data, tmp_path / f"o{turn}", noise="uniform", rate=0.4, imbalance=2.0, seed=5)
        written.append(
            [(tmp_path / f"o{turn}" / name).read_bytes() for name in ("train.parquet", "truth.csv")]
        )
    assert written[0] == written[1] == written[2]
    run(tmp_path / "d0/m.parquet", tmp_path / "other", noise="uniform", rate=0.4, imbalance=2.0, seed=6)
    assert (tmp_path / "other/truth.csv").read_bytes() != written[0][1]


def test_the_tail_is_cut_before_the_noise(tmp_path: Path) -> None:
    outcome = run(many(tmp_path), tmp_path / "o", noise="uniform", rate=0.5, imbalance=4.0)
    given, clean = labels_of(tmp_path / "o")
    counts = [list(clean.values()).count(name) for name in CLASSES]
    assert counts == [20, 10, 5]
    assert np.sum(outcome.result["transition"], axis=1).tolist() == counts
    assert sum(given[name] != clean[name] for name in clean) == round(0.5 * 35)


def test_asymmetric_uses_the_pairs_of_cifar10(tmp_path: Path) -> None:
    data = many(tmp_path, CIFAR10, each=5)
    outcome = run(data, tmp_path / "o", noise="asymmetric", rate=0.4)
    expected = np.diag([5] * 10)
    for old, new in corruption.CIFAR10_PAIRS.items():
        expected[CIFAR10.index(old), CIFAR10.index(old)] -= 2
        expected[CIFAR10.index(old), CIFAR10.index(new)] += 2
    assert outcome.result["transition"] == expected.tolist()


def test_maps_from_a_file(tmp_path: Path) -> None:
    data = many(tmp_path)
    pairs = write_rows(tmp_path / "map.csv", ["from", "to"], [("cat", "owl"), ("owl", "dog"), ("dog", "cat")])
    outcome = run(data, tmp_path / "o", noise="adversarial", rate=1.0, mapping=str(pairs))
    assert outcome.result["transition"] == [[0, 0, 20], [20, 0, 0], [0, 20, 0]]
    few = write_rows(tmp_path / "few.csv", ["from", "to"], [("cat", "dog")])
    outcome = run(data, tmp_path / "p", noise="asymmetric", rate=0.25, mapping=str(few))
    assert outcome.result["transition"] == [[15, 5, 0], [0, 20, 0], [0, 0, 20]]
    for rows, words in (
        ([("cat", "dog")], "maps no class from dog"),
        ([("cat", "cat")], "map.csv:2 maps cat to itself"),
        ([("cat", "dog"), ("cat", "owl")], "map.csv:3 maps cat twice"),
        ([("cat", "dgo")], "map.csv:2: 'dgo' is not a class; did you mean 'dog'"),
    ):
        write_rows(pairs, ["from", "to"], rows)
        with pytest.raises(DataError, match=words):
            run(data, tmp_path / "q", noise="adversarial", rate=0.5, mapping=str(pairs))
    derangement = run(data, tmp_path / "r", noise="adversarial", rate=1.0, mapping="random")
    transition = np.array(derangement.result["transition"])
    assert sorted(transition.reshape(-1).tolist()) == [0] * 6 + [20] * 3
    assert np.trace(transition) == 0


def test_labels_of_people_join_by_id_as_names_or_positions(tmp_path: Path) -> None:
    data = many(tmp_path, each=2)
    ids = [f"i{number:03d}" for number in range(6)]
    names = ["dog", "dog", "owl", "cat", "owl", "owl"]
    rows = [(name, label, CLASSES.index(label)) for name, label in zip(ids, names, strict=True)]
    labels = write_rows(tmp_path / "l.csv", ["id", "label", "worst"], [*rows[::-1], ("other", "cat", "1")])
    for turn, column in enumerate((None, "worst")):
        outcome = run(data, tmp_path / f"o{turn}", noise="human", labels=labels, labels_column=column)
        given, _ = labels_of(tmp_path / f"o{turn}")
        assert given == dict(zip(ids, names, strict=True))
        assert outcome.result["flipped"] == 2
    for changed, words in (
        ([*rows[:2], *rows[3:]], "has no label for 1 of 6 samples, the first is i002"),
        ([*rows[:5], ("i005", "cow", "1")], r"l.csv:7 has the name 'cow', which no class has"),
    ):
        write_rows(labels, ["id", "label", "worst"], changed)
        with pytest.raises(DataError, match=words):
            run(data, tmp_path / "bad", noise="human", labels=labels)


def test_features_come_out_as_they_went_in(tmp_path: Path) -> None:
    rows = [(f"i{number}", number / 3, -number, "ab"[number % 2]) for number in range(6)]
    data = write_rows(tmp_path / "d.csv", ["id", "x1", "x2", "label"], rows)
    run(data, tmp_path / "o", noise="none", feature_columns="x*")
    table = pq.read_table(tmp_path / "o/train.parquet")
    expected = np.array([row[1:3] for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), dtype=np.float32), expected)
    given, clean = labels_of(tmp_path / "o")
    assert given == clean


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": "uniforme"}, "did you mean 'uniform'"),
        ({"noise": "background", "rate": 0.5}, "--background CLASS is for"),
        ({"noise": "uniform", "rate": 0.5, "background": "cat"}, "--background CLASS is for"),
        ({"noise": "human"}, "--labels FILE is for"),
        ({"noise": "uniform", "rate": 0.5, "mapping": "random"}, "--map has no meaning"),
        ({"noise": "none", "rate": 0.5}, "--rate has no meaning"),
        ({"noise": "asymmetric", "rate": 0.5}, "only for CIFAR-10"),
        ({"noise": "asymmetric", "rate": 0.5, "mapping": "random"}, "--map random is for"),
    ],
)
def test_options_that_do_not_fit_together(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(many(tmp_path, each=2), tmp_path / "o", **options)
    assert not (tmp_path / "o/train.parquet").exists()


def test_background_must_be_a_class(tmp_path: Path) -> None:
    data = many(tmp_path, each=2)
    with pytest.raises(DataError, match="--background: 'dgo' is not a class; did you mean 'dog'"):
        run(data, tmp_path / "o", noise="background", rate=0.5, background="dgo")
    outcome = run(data, tmp_path / "o", noise="background", rate=0.5, background="dog")
    assert outcome.result["flipped"] == 2


def test_an_output_that_exists_is_kept_unless_it_is_the_same(tmp_path: Path) -> None:
    data, out = many(tmp_path, each=4), tmp_path / "o"
    run(data, out, noise="uniform", rate=0.5)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    ears = Listener()
    corrupt(data, out, CorruptOptions(noise="uniform", rate=0.5), ears)
    assert ears.notes == [f"{out} is up to date."]
    with pytest.raises(UsageError, match="exists and is other data"):
        run(data, out, noise="uniform", rate=0.25)
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert run(data, out, noise="uniform", rate=0.25, force=True).result["flipped"] == 3
    for place in (out, out / "train.parquet"):
        with pytest.raises(UsageError, match="where the data itself lies"):
            run(place, out, noise="uniform", rate=0.25, force=True)


def test_a_missing_image_is_named_or_skipped(tmp_path: Path) -> None:
    samples = pictures(6)
    write_images(tmp_path, samples)
    rows = [(f"i{n}", sample.path, sample.label) for n, sample in enumerate(samples)]
    data = write_rows(tmp_path / "m.csv", ["id", "image", "label"], rows)
    (tmp_path / samples[2].path).unlink()
    with pytest.raises(DataError, match=r"row 4, id i2: the file .* does not exist"):
        run(data, tmp_path / "o", noise="uniform", rate=0.2)
    outcome = run(data, tmp_path / "o", noise="uniform", rate=0.2, on_bad_sample="skip")
    assert outcome.result["n"] == 5
    assert not (tmp_path / "o/.work").exists()


def test_columns_that_are_not_known_as_features_are_named(tmp_path: Path) -> None:
    data = write_rows(
        tmp_path / "m.csv", ["id", "height", "label"], [(n, n / 2, "ab"[n % 2]) for n in range(8)]
    )
    ears = Listener()
    corrupt(data, tmp_path / "o", CorruptOptions(noise="uniform", rate=0.5), ears)
    assert len(ears.warnings) == 1
    assert "no images or features that are known as such" in ears.warnings[0]
    assert "height" in ears.warnings[0]
    assert pq.read_table(tmp_path / "o/train.parquet").column_names == ["sample_id", "label"]


# The command line


def test_the_command_line(tmp_path: Path) -> None:
    data = many(tmp_path)
    command = ("corrupt", data, "-o", tmp_path / "o", "--noise", "uniform", "--rate", "0.3", "--seed", "4")
    first = metaselect(*command)
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{tmp_path / 'o'}: 60 samples, 18 labels changed (measured rate 0.3000)\n"
    again = metaselect(*command, "--json")
    found = json_of(again)
    assert (found["ok"], found["n"], found["flipped"], found["measured_rate"]) == (True, 60, 18, 0.3)
    assert "is up to date" in again.stderr
    refused = metaselect(*command[:-1], "5")
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    no_rate = metaselect("corrupt", data, "-o", tmp_path / "p", "--noise", "uniform", "--json")
    assert no_rate.returncode == 2
    assert json_of(no_rate)["error"]["message"] == "--noise uniform needs --rate."


def test_the_committed_sample_data_is_what_its_readme_says() -> None:
    folder = Path(__file__).parent.parent / "sample_data"
    given_labels, clean = labels_of(folder)
    assert len(clean) == 1437
    wrong = [name for name in clean if given_labels[name] != clean[name]]
    assert len(wrong) == round(0.6 * 1437) == 862
    assert all(int(given_labels[name]) == (int(clean[name]) + 1) % 10 for name in wrong)
    assert pq.read_metadata(folder / "test.parquet").num_rows == 360
    held_out = set(pq.read_table(folder / "test.parquet")["sample_id"].to_pylist())
    assert not held_out & set(clean)
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 3_000_000
