"""`split`: whole groups, a share of every class, and two files that hold the data as it was."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import metaselect
from data_makers import (
    CLASSES,
    Listener,
    Picture,
    encode,
    ids_of,
    listed,
    pictures,
    write_images,
    write_rows,
    write_struct,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metaselect.data_options import SplitOptions
from metaselect.errors import DataError, UsageError
from metaselect.stages.split import choose_test, joined_groups, split

pure = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 7)), min_size=1, max_size=40)
"""(class, size) of groups."""
shares = st.floats(0.01, 0.99)
sides = ("train", "test")


def samples_of(units: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """(labels, groups) of groups of one class each."""
    labels = np.array([label for label, size in units for _ in range(size)])
    groups = np.array([number for number, (_, size) in enumerate(units) for _ in range(size)])
    return labels, groups


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Which samples are tested


@given(pure, shares, st.integers(0, 9))
def test_every_class_is_within_a_group_of_its_share(
    units: list[tuple[int, int]], share: float, seed: int
) -> None:
    labels, groups = samples_of(units)
    chosen = choose_test(labels, groups, share, generator(seed))
    for group in np.unique(groups):
        assert len(np.unique(chosen[groups == group])) == 1
    for label in np.unique(labels):
        of_class = labels == label
        largest = max(size for other, size in units if other == label)
        assert abs(chosen[of_class].sum() - share * of_class.sum()) <= largest
        assert not chosen[of_class].all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.floats(0.01, 0.5))
def test_without_groups_the_counts_are_rounded_shares(classes: list[int], share: float) -> None:
    labels = np.array(classes)
    chosen = choose_test(labels, np.arange(len(labels)), share, generator())
    for label in set(classes):
        assert abs(chosen[labels == label].sum() - share * (labels == label).sum()) <= 0.5 + 1e-9


def test_without_groups_every_sample_is_tested_as_often() -> None:
    labels = np.repeat([0, 1], [30, 10])
    count = np.zeros(40)
    for seed in range(2000):
        count += choose_test(labels, np.arange(40), 0.3, generator(seed))
    # Of 2,000 draws with chance 0.3, the standard deviation is 20.5; beyond five of them has a chance below 1e-5.
    assert np.abs(count - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


def test_groups_of_several_classes_come_near_to_every_share() -> None:
    draw = generator(3)
    groups = np.repeat(np.arange(60), draw.integers(1, 20, 60))
    labels = draw.choice(4, len(groups), p=[0.6, 0.25, 0.1, 0.05])
    chosen = choose_test(labels, groups, 0.25, generator())
    for label in range(4):
        of_class = labels == label
        largest = np.bincount(groups[of_class]).max()
        assert abs(chosen[of_class].sum() - 0.25 * of_class.sum()) <= largest / 2


def test_what_has_no_label_is_trained_on_with_its_group() -> None:
    labels = np.array([0, 0, -1, 0, 0, 0, -1, 1, 1, 1])
    groups = np.array([0, 0, 0, 1, 2, 3, 4, 5, 6, 7])
    for seed in range(20):
        chosen = choose_test(labels, groups, 0.5, generator(seed))
        assert not chosen[[0, 1, 2, 6]].any()
        assert chosen[[3, 4, 5]].any()


@given(
    st.integers(1, 12).flatmap(
        lambda count: st.lists(
            st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=count, max_size=count), max_size=3
        ).map(lambda columns: (count, columns))
    )
)
def test_groups_are_the_components_of_what_has_a_value_in_common(
    drawn: tuple[int, list[list[int | None]]],
) -> None:
    count, columns = drawn
    linked = np.eye(count, dtype=int)
    for column in columns:
        linked |= np.array([[a is not None and a == b for b in column] for a in column], dtype=int)
    reached = np.linalg.matrix_power(linked, count) > 0
    groups = joined_groups(columns, count)
    np.testing.assert_array_equal(groups[:, None] == groups[None], reached)
    firsts = [groups.tolist().index(number) for number in range(groups.max() + 1)]
    assert firsts == sorted(firsts)


# The files


def run(data: Path, out: Path, ears: Listener | None = None, **options: Any) -> dict[str, Any]:
    """What `--json` prints."""
    return dict(split(data, out, SplitOptions(**options), ears or Listener()).result)


def rows_of(out: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Side -> sample_id -> row."""
    return {
        side: {row["sample_id"]: row for row in pq.read_table(out / f"{side}.parquet").to_pylist()}
        for side in sides
    }


def side_of(out: Path) -> dict[str, str]:
    """The side of each sample; none is on both."""
    rows = rows_of(out)
    assert not rows["train"].keys() & rows["test"].keys()
    return {name: side for side in sides for name in rows[side]}


def test_both_files_hold_the_data_as_it_was(tmp_path: Path) -> None:
    samples, ids = pictures(30), ids_of(30)
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids, names=("owl", "cat", "dog"))
    result = run(data, tmp_path / "o", test=0.2)
    written = rows_of(tmp_path / "o")
    found = {**written["train"], **written["test"]}
    assert sorted(found) == ids
    for name, sample in zip(ids, samples, strict=True):
        assert found[name]["image"] == {"bytes": sample.raw, "path": None}
    for side in sides:
        listing = listed(tmp_path / f"o/{side}.parquet")
        assert listing.classes == ("owl", "cat", "dog")
        assert listing.sample_ids == sorted(listing.sample_ids)
        for place, name in enumerate(listing.sample_ids):
            assert listing.given_label(place) == samples[ids.index(name)].label
    assert result == {
        "out": str(tmp_path / "o"),
        "train": 24,
        "test": 6,
        "unlabelled": 0,
        "groups": 0,
        "grouped_samples": 0,
        "classes": {name: {"train": 8, "test": 2} for name in ("owl", "cat", "dog")},
    }
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["test.parquet", "train.parquet"]


def test_the_order_and_form_of_the_data_do_not_matter(tmp_path: Path) -> None:
    samples, ids = pictures(30), ids_of(30)
    written = []
    for turn in range(3):
        order = np.random.default_rng(turn).permutation(30)
        mixed, names = [samples[place] for place in order], [ids[place] for place in order]
        folder = tmp_path / f"d{turn}"
        if turn:
            data = write_struct(folder / "m.parquet", mixed, ids=names, group=3 + turn)
        else:
            write_images(folder, mixed)
            rows = [(name, sample.path, sample.label) for name, sample in zip(names, mixed, strict=True)]
            data = write_rows(folder / "m.csv", ["id", "image", "label"], rows)
        run(data, tmp_path / f"o{turn}", seed=4)
        written.append([(tmp_path / f"o{turn}/{side}.parquet").read_bytes() for side in sides])
    assert written[0] == written[1] == written[2]
    run(tmp_path / "d1/m.parquet", tmp_path / "other", seed=5)
    assert side_of(tmp_path / "other") != side_of(tmp_path / "o1")


def test_equal_pictures_stay_together_whatever_their_form_and_label(tmp_path: Path) -> None:
    samples = pictures(24)
    for place in range(8):
        pixels = np.asarray(Image.open(write_images(tmp_path, samples) / samples[place].path))
        again = encode(pixels, "BMP")
        assert again != samples[place].raw
        samples.append(Picture(f"{CLASSES[1]}/again{place}.bmp", CLASSES[1], again))
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids_of(32))
    met = set()
    for seed in range(6):
        result = run(data, tmp_path / f"o{seed}", test=0.4, seed=seed)
        assert (result["groups"], result["grouped_samples"]) == (8, 16)
        side = side_of(tmp_path / f"o{seed}")
        ids = ids_of(32)
        for place in range(8):
            assert side[ids[place]] == side[ids[24 + place]]
            met.add(side[ids[place]])
    assert met == set(sides)


def test_deep_pictures_are_compared_in_all_their_bits(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8)
    kinds = [encode(grey), encode(grey + 1), encode(grey), *(encode(grey + step) for step in range(5, 12))]
    samples = [Picture(f"p{n}", CLASSES[n % 2], raw) for n, raw in enumerate(kinds)]
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids_of(10))
    assert run(data, tmp_path / "o", test=0.3)["grouped_samples"] == 2


def with_both(path: Path, samples: Sequence[Picture], features: np.ndarray, **columns: Any) -> Path:
    """A manifest of images with features beside them."""
    table = {
        "sample_id": ids_of(len(samples)),
        "image": [sample.raw for sample in samples],
        "features": list(features),
        "label": [sample.label for sample in samples],
        **columns,
    }
    pq.write_table(pa.table(table), path)
    return path


def test_of_samples_with_both_equal_images_and_equal_features_stay_together(tmp_path: Path) -> None:
    samples = pictures(12)
    samples[9] = samples[0]
    features = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    features[10], features[11] = features[9], features[3]
    data = with_both(tmp_path / "d.parquet", samples, features)
    result = run(data, tmp_path / "o", test=0.3)
    assert (result["groups"], result["grouped_samples"]) == (2, 5)
    side = side_of(tmp_path / "o")
    assert side["i000"] == side["i009"] == side["i010"]
    assert side["i003"] == side["i011"]
    written = rows_of(tmp_path / "o")
    for place, name in enumerate(ids_of(12)):
        row = written[side[name]][name]
        assert row["image"]["bytes"] == samples[place].raw
        assert row["features"] == features[place].tolist()


def test_nearly_equal_features_stay_together(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    features = draw.normal(size=(60, 24)).astype(np.float32)
    near = features[:9] + draw.normal(scale=0.01, size=(9, 24)).astype(np.float32)
    names = ids_of(69)
    table = {"sample_id": names, "features": [*features, *near], "label": [CLASSES[n % 3] for n in range(69)]}
    pq.write_table(pa.table(table), tmp_path / "d.parquet")
    met = set()
    for seed in range(4):
        result = run(tmp_path / "d.parquet", tmp_path / f"o{seed}", test=0.4, seed=seed)
        assert (result["groups"], result["grouped_samples"]) == (9, 18)
        side = side_of(tmp_path / f"o{seed}")
        for place in range(9):
            assert side[names[place]] == side[names[60 + place]]
            met.add(side[names[place]])
    assert met == set(sides)


def test_features_of_another_file_are_joined(tmp_path: Path) -> None:
    features = np.eye(10, 4, dtype=np.float32) + np.arange(10, dtype=np.float32)[:, None]
    rows = [(name, CLASSES[n % 2], f"p{n // 3}") for n, name in enumerate(ids_of(10))]
    data = write_rows(tmp_path / "d.csv", ["id", "label", "patient"], rows)
    pq.write_table(pa.table({"sample_id": ids_of(10), "features": list(features)}), tmp_path / "f.parquet")
    run(data, tmp_path / "o", test=0.3, features=tmp_path / "f.parquet", group_column="patient")
    written = rows_of(tmp_path / "o")
    found = {name: row["features"] for side in sides for name, row in written[side].items()}
    assert found == dict(zip(ids_of(10), features.tolist(), strict=True))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_group_column_keeps_samples_together(tmp_path: Path, suffix: str) -> None:
    draw = np.random.default_rng(1)
    patients = [None if n % 10 == 9 else int(draw.integers(0, 12)) for n in range(60)]
    rows = [(name, n / 7, CLASSES[n % 3], patients[n]) for n, name in enumerate(ids_of(60))]
    header = ["id", "x1", "label", "patient"]
    data = tmp_path / f"d{suffix}"
    if suffix == ".csv":
        write_rows(data, header, [["" if cell is None else cell for cell in row] for row in rows])
    else:
        pq.write_table(pa.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))), data)
    result = run(data, tmp_path / "o", feature_columns="x*", group_column="patient", test=0.3)
    side = side_of(tmp_path / "o")
    members = {
        patient: [name for name, other in zip(ids_of(60), patients, strict=True) if other == patient]
        for patient in set(patients) - {None}
    }
    assert all(len({side[name] for name in names}) == 1 for names in members.values())
    assert result["groups"] == sum(len(names) > 1 for names in members.values())
    assert result["test"] == pytest.approx(18, abs=3)
    with pytest.raises(DataError, match="no column pateint: did you mean 'patient'") as caught:
        run(data, tmp_path / "p", feature_columns="x*", group_column="pateint")
    assert "--group-column" in caught.value.hint


def test_folders_of_classes_have_no_group_column(tmp_path: Path) -> None:
    data = write_images(tmp_path / "d", pictures(9))
    with pytest.raises(UsageError, match="--group-column patient is for tables"):
        run(data, tmp_path / "o", group_column="patient")
    assert run(data, tmp_path / "o", test=0.3)["test"] == 3


def test_samples_without_a_label_are_trained_on(tmp_path: Path) -> None:
    rows = [(name, n / 7, "" if n < 6 else CLASSES[n % 3]) for n, name in enumerate(ids_of(30))]
    data = write_rows(tmp_path / "d.csv", ["id", "x1", "label"], rows)
    result = run(data, tmp_path / "o", feature_columns="x*", test=0.25)
    assert (result["train"], result["test"], result["unlabelled"]) == (24, 6, 6)
    written = rows_of(tmp_path / "o")
    assert [name for name in written["train"] if written["train"][name]["label"] is None] == ids_of(6)
    assert all(row["label"] is not None for row in written["test"].values())


def test_ids_and_labels_alone_are_no_equal_contents(tmp_path: Path) -> None:
    rows = [(name, CLASSES[n % 2]) for n, name in enumerate(ids_of(20))]
    data = write_rows(tmp_path / "d.csv", ["sample_id", "label"], rows)
    result = run(data, tmp_path / "o")
    assert (result["test"], result["groups"]) == (4, 0)
    assert rows_of(tmp_path / "o")["test"].popitem()[1].keys() == {"sample_id", "label"}


def test_a_class_with_one_sample_stays_in_train(tmp_path: Path) -> None:
    labels = ["rare"] + ["cat"] * 10 + ["dog"] * 10
    rows = [(name, n / 7, label) for n, (name, label) in enumerate(zip(ids_of(21), labels, strict=True))]
    data = write_rows(tmp_path / "d.csv", ["id", "x1", "label"], rows)
    ears = Listener()
    result = run(data, tmp_path / "o", ears, feature_columns="x*", test=0.8)
    assert result["classes"]["rare"] == {"train": 1, "test": 0}
    assert ears.warnings == [
        "1 class has no test sample, since too few samples or groups are in it: rare (1)."
    ]


def test_what_cannot_be_split(tmp_path: Path) -> None:
    same = write_rows(
        tmp_path / "same.csv", ["id", "x1", "label"], [(f"i{n}", 1, "ab"[n % 2]) for n in range(9)]
    )
    with pytest.raises(DataError, match=r"0\.2 of 9 samples in 1 group leaves nothing for the test set"):
        run(same, tmp_path / "o", feature_columns="x*")
    few = write_rows(
        tmp_path / "few.csv", ["id", "x1", "label"], [(f"i{n}", n, "ab"[n % 2]) for n in range(9)]
    )
    with pytest.raises(DataError, match=r"0\.05 of 9 samples in 9 groups leaves nothing"):
        run(few, tmp_path / "o", feature_columns="x*", test=0.05)
    for share in (0, 1, -0.2, 1.5, float("nan")):
        with pytest.raises(UsageError, match="it must be between 0 and 1"):
            SplitOptions(test=share)
    assert not list((tmp_path / "o").iterdir())


def test_an_unreadable_picture_is_named_or_left_out_of_both(tmp_path: Path) -> None:
    samples = pictures(12)
    samples[4] = Picture("x", samples[4].label, samples[4].raw[:40])
    data = write_struct(tmp_path / "d.parquet", samples, ids=ids_of(12))
    with pytest.raises(DataError, match="row 5, id i004"):
        run(data, tmp_path / "o")
    ears = Listener()
    result = run(data, tmp_path / "o", ears, on_bad_sample="skip", test=0.25)
    assert result["train"] + result["test"] == 11 == len(side_of(tmp_path / "o"))
    assert ears.warnings[0].startswith("1 bad sample was left out; the first: ")


# The command line


def test_the_command_line_and_what_reads_its_files(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    rows = [(name, *draw.normal(n % 3, 0.3, 2), CLASSES[n % 3]) for n, name in enumerate(ids_of(60))]
    rows.append(("again", *rows[0][1:3], "owl"))
    data = write_rows(tmp_path / "d.csv", ["id", "x1", "x2", "label"], rows)
    words = ("split", data, "-o", tmp_path / "o", "--feature-columns", "x*", "--test", 0.25, "--seed", 3)
    first = metaselect(*words)
    assert first.out.splitlines()[:2] == [
        f"{tmp_path / 'o'}: 46 samples to train on, 15 to test on (24.6%)",
        "Kept together: 2 samples, in 1 group",
    ]
    assert first.err.endswith(f"Next: metaselect warmup {tmp_path / 'o/train.parquet'} --run RUN\n")
    again = metaselect(*words, "--json")
    assert "is up to date" in again.err
    assert again.json["test"] == 15
    refused = metaselect(*words[:-1], 4, code=2)
    assert "--force" in refused.err
    metaselect(*words[:-1], 4, "--force")
    metaselect("warmup", tmp_path / "o/train.parquet", "--model", "linear", run=tmp_path / "run")
    judged = metaselect("evaluate", tmp_path / "o/test.parquet", "--json", run=tmp_path / "run").json
    assert (judged["test_samples"], judged["overlap"]) == (15, 0)
    assert judged["warmup"]["test_accuracy"] > 0.8
