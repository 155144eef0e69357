"""Forms of every format go out and come back: nothing is lost, nothing lands on another sample."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unicodedata import normalize

import pytest
from annotation_run import add_round, call, csv_rows, error, make_run, meta_set, result, votes_of
from data_makers import Listener
from exchange_run import CHOSEN, CLASSES, image_run
from exchange_tools import KEEPS_NO_NAMES, LOSES_SKIPS, PEOPLE
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_annotation import names, quick

from metaselect.annotation.formats.base import Answer
from metaselect.annotation.formats.csv import CsvFormat
from metaselect.annotation.formats.xml_text import NOT_XML
from metaselect.annotation.matching.labels import LabelParser
from metaselect.errors import DataError
from metaselect.options import ExportOptions, ImportOptions
from metaselect.run.files import write_json
from metaselect.run.layout import Run
from metaselect.stages.annotate import exchange as annotate

STATUSES = ("skip", "unsure", "bad_sample")
many_ids = st.lists(names, min_size=2, max_size=6, unique=True)
many_classes = st.lists(
    names.filter(lambda name: not NOT_XML.search(name)), min_size=2, max_size=6, unique=True
)


@contextmanager
def drawn() -> Iterator[None]:
    """Every sample has an image without a run that has pixels."""

    def write_originals(run: Run, ids: list[str], folder: Path, stems: dict[str, str]) -> dict[str, str]:
        folder.mkdir(parents=True, exist_ok=True)
        for each in ids:
            (folder / f"{stems[each]}.png").write_bytes(b"png")
        return {each: f"{stems[each]}.png" for each in ids}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metaselect.data.originals.write_originals", write_originals)
        patch.setattr("metaselect.data.thumbnails.thumbnails", lambda run, ids: ())
        yield


@pytest.mark.parametrize("way", PEOPLE)
@settings(quick, max_examples=12)
@given(ids=many_ids, classes=many_classes, seed=st.randoms(use_true_random=False))
@example(ids=["=x", "'=x", "''=x"], classes=["-", "'-", "''-", "skip"], seed=Random(0))
@example(
    ids=["Case", "case", "../a", "a/b", "007"], classes=['<img src="x">', "ü\n&", "  x", "x"], seed=Random(1)
)
def test_what_people_answer_is_what_the_votes_say(way: str, ids: Any, classes: Any, seed: Random) -> None:
    form, main, answer = PEOPLE[way]
    said = {each: seed.choice([*classes, *STATUSES]) for each in ids if seed.random() < 0.8}
    said[ids[0]] = classes[0]
    with drawn(), tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", ids, classes, "images")
        add_round(run, 1, seed.sample(ids, len(ids)))
        annotate.export(run, ExportOptions(format=form), Listener())
        content = answer(run.path(f"export/round-1/{main}"), said, classes, seed)
        path = Path(folder) / "back"
        path.write_bytes(content)
        outcome = annotate.import_file(run, str(path), ImportOptions(), Listener())
        expected = {
            each: (each, what, "done") if what in classes else (each, "", what)
            for each, what in sorted(said.items())
            if what in classes or what != "skip" or way not in LOSES_SKIPS
        }
        assert [(vote[0], vote[1], vote[3]) for vote in votes_of(run)] == list(expected.values())
        got = outcome.result
        assert got["missing"] == len(ids) - len(expected)
        assert [got[name] for name in ("unknown", "conflicting", "mismatched", "changed", "other_batch")] == [
            0
        ] * 5
        before = run.path("annotate/votes.csv").read_bytes()
        again = annotate.import_file(run, str(path), ImportOptions(format=form), Listener())
        assert again.result["new_votes"] == 0
        assert run.path("annotate/votes.csv").read_bytes() == before


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return image_run(tmp_path / "run")


def exported(run: Run, form: str, *, chosen: int = 1, **options: Any) -> Path:
    """The main file of a form."""
    made = annotate.export(run, ExportOptions(format=form, round=chosen, **options), Listener())
    assert made.path is not None
    return made.path


def answered(run: Run, way: str, said: dict[str, str]) -> Path:
    """A file that came back that way."""
    form, _, answer = PEOPLE[way]
    path = run.root.parent / "back"
    path.write_bytes(answer(exported(run, form), said, list(CLASSES), Random(2)))
    return path


EVERYONE = dict.fromkeys(CHOSEN, "cat")


def replaced(path: Path, **changes: str) -> None:
    """Put other texts into a file, all at once, so that two can change places."""
    content = path.read_bytes()
    for turn, old in enumerate(changes):
        content = content.replace(old.encode(), f"\0{turn}\0".encode())
    for turn, new in enumerate(changes.values()):
        content = content.replace(f"\0{turn}\0".encode(), new.encode())
    path.write_bytes(content)


@pytest.mark.parametrize("way", PEOPLE)
def test_half_a_file_is_kept_and_the_rest_is_missing(
    run: Run, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    path = str(answered(run, way, dict.fromkeys(CHOSEN[:3], "dög")))
    got = result(run, capsys, "import", path)
    assert (got["matched"], got["missing"], got["new_votes"]) == (3, 3, 3)
    assert result(run, capsys, "import", path, "--require-complete", code=1)["missing"] == 3


@pytest.mark.parametrize("way", [way for way in PEOPLE if way not in ("cvat", *KEEPS_NO_NAMES)])
def test_wrong_ids_find_their_sample_by_the_image_and_without_it_not_at_all(
    run: Run, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    path = answered(run, way, EVERYONE)
    content = path.read_text(encoding="utf-8-sig")
    for sample_id in ("s7", "s0"):
        content = content.replace(f'"{sample_id}"', f'"wrong-{sample_id}"')
    path.write_text(content)
    got = result(run, capsys, "import", str(path))
    assert (got["matched"], got["unknown"], got["matched_by"]) == (6, 0, {"image": 2, "content_hash": 0})
    (run.path("annotate/votes.csv")).unlink()
    (run.path("annotate/stage.json")).unlink()
    (run.path("annotate/meta_set.csv")).unlink()
    hashes = {
        row["sample_id"]: row["content_hash"]
        for row in csv_rows(next(run.path("annotate/batches").iterdir()))
    }
    for sample_id in ("s7", "s0"):
        content = content.replace(f"images/{sample_id}.png", f"images/wrong-{sample_id}.png")
        content = content.replace(hashes[sample_id], "0" * 64)
    path.write_text(content)
    got = result(run, capsys, "import", str(path))
    assert (got["matched"], got["unknown"], got["missing"]) == (4, 2, 2)
    assert got["unknown_ids"] == ["wrong-s0", "wrong-s7"]


def test_wrong_names_in_cvat_are_unknown(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported(run, "cvat")
    text = path.read_text().replace('s7.png" width="6" height="6">', 's7.png"><tag label="cat"/>')
    text = text.replace('s0.png" width="6" height="6">', 's00.png"><tag label="cat"/>')
    back = run.root.parent / "back.xml"
    back.write_text(text)
    got = result(run, capsys, "import", str(back))
    assert (got["matched"], got["unknown"], got["missing"]) == (1, 1, 5)
    assert got["unknown_ids"] == ["s00.png"]


@pytest.mark.parametrize("way", [way for way in PEOPLE if way not in ("cvat", *KEEPS_NO_NAMES)])
def test_two_images_that_changed_places_are_not_taken(
    run: Run, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    path = answered(run, way, EVERYONE)
    replaced(path, **{"images/s7.png": "images/s0.png", "images/s0.png": "images/s7.png"})
    if b"s7.png" not in path.read_bytes():  # JSON may write / as \/
        raise AssertionError("nothing was swapped")
    got = result(run, capsys, "import", str(path))
    assert (got["matched"], got["mismatched"], got["missing"]) == (4, 2, 2)
    assert got["mismatched_ids"] == ["s0", "s7"]
    assert {vote[0] for vote in votes_of(run)} == {*CHOSEN} - {"s0", "s7"}


@pytest.mark.parametrize("column", ["image", "file_name"])
def test_the_image_of_another_sample_is_noticed_without_the_batch(
    run: Run, capsys: pytest.CaptureFixture[str], column: str
) -> None:
    path = run.root.parent / "back.csv"
    path.write_text(
        f"sample_id,{column},clean_label\ns7,images/s0.png,cat\ns3,old/3.png,cat\ns1,images/s1.png,cat\n"
    )
    assert result(run, capsys, "import", str(path))["matched"] == 3  # nothing went out: no name is known
    assert call(run, "undo") == 0
    exported(run, "cvat")
    got = result(run, capsys, "import", str(path))
    assert (got["matched"], got["mismatched_ids"]) == (2, ["s7"])
    assert meta_set(run) == {"s1": "cat", "s3": "cat"}
    path.write_text(f"sample_id,{column},clean_label\ns7,images/s0.png,cat\n")
    assert "leave out the column of images" in error(run, capsys, "import", str(path), code=3)


def test_two_contents_that_changed_places_are_not_taken(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = answered(run, "hf", EVERYONE)
    by_id = {row["sample_id"]: row["content_hash"] for row in csv_rows(exported(run, "hf"))}
    replaced(path, **{by_id["s7"]: by_id["s1"], by_id["s1"]: by_id["s7"]})
    got = result(run, capsys, "import", str(path))
    assert (got["matched"], got["mismatched_ids"]) == (4, ["s1", "s7"])


@pytest.mark.parametrize("way", PEOPLE)
def test_an_answer_outside_the_classes_imports_nothing_and_says_what_it_could_mean(
    run: Run, way: str
) -> None:
    form, _, answer = PEOPLE[way]
    path = run.root.parent / "back"
    main = exported(run, form)
    content = answer(main, EVERYONE, list(CLASSES), Random(3))
    if content.startswith(b"PK"):
        content = answer(main, EVERYONE, list(CLASSES), Random(1))
    path.write_bytes(content.replace(b'"cat"', b'"catt"', 2) if b'"cat"' in content else content)
    with pytest.raises(DataError, match="'catt' is not a class") as caught:
        annotate.import_file(run, str(path), ImportOptions(), Listener())
    assert "mean 'cat'" in caught.value.hint
    assert not run.path("annotate/votes.csv").exists()


def test_a_class_name_whose_letters_came_apart_is_known_where_it_can_mean_one_only(tmp_path: Path) -> None:
    apart, together = (normalize(form, "Vögel") for form in ("NFD", "NFC"))
    answer = Answer(2, "s0", apart, "", "", "", "")
    assert LabelParser([together, "cat"], CsvFormat.spellings, "x").parse(answer) == ("done", together)
    assert LabelParser([together, apart], CsvFormat.spellings, "x").parse(answer) == ("done", apart)
    alike = [normalize(form, "ự") for form in ("NFC", "NFD")]
    parser = LabelParser(alike, CsvFormat.spellings, "x")
    parser.parse(answer._replace(clean_label="ư\N{COMBINING DOT BELOW}"))
    with pytest.raises(DataError, match="is not a class"):
        parser.raise_if_unknown()


def test_every_name_that_is_no_class_is_said_with_what_it_could_mean(run: Run) -> None:
    path = run.root.parent / "back.csv"
    path.write_text("sample_id,clean_label\ns7,Cat\ns0,Cat\ns3,dog\ns1,horse\n")
    with pytest.raises(DataError, match=r"back.csv:2: 'Cat'.* 3 more rows") as caught:
        annotate.import_file(run, str(path), ImportOptions(), Listener())
    assert "'cat' by 'Cat' (2 rows)" in caught.value.hint
    assert "'dög' by 'dog' (1 row)" in caught.value.hint
    assert "The classes are 'cat', 'dög'" in caught.value.hint


@pytest.mark.parametrize("words", [(), ("--add-classes",)])
def test_texts_that_stand_for_nothing_are_no_misspelt_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    run = make_run(tmp_path / "run", classes=("one", "two"))
    add_round(run, 1, ["s0", "s1", "s2"])
    back = tmp_path / "back.csv"
    for nothing in ("None", "NaN", "n/a"):
        back.write_text(
            f"sample_id,clean_label\ns0,{nothing}\ns1,onne\n"
            if not words
            else f"sample_id,clean_label\ns0,{nothing}\ns1,one\n"
        )
        said = " ".join(error(run, capsys, "import", str(back), *words, code=3).split())
        assert f"'{nothing}' is not a class" in said
        assert f"'{nothing}' stands for no answer in many programs" in said
        assert f"by '{nothing}'" not in said
        assert words or ("1 more row has such labels" in said and "'one' by 'onne' (1 row)?" in said)
    assert not run.path("annotate/votes.csv").exists()


def test_a_form_of_another_run_is_refused_and_a_mixture_counted(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = image_run(tmp_path / "other", chosen=("s4", "s5", "s7"))
    rows = exported(other, "csv").read_text().replace(",0,3,,,,", ",0,3,cat,,,").splitlines()
    path = tmp_path / "back.csv"
    path.write_text("\n".join(rows))
    with pytest.raises(DataError, match="is of another run or choice: its batch b01-"):
        annotate.import_file(run, str(path), ImportOptions(), Listener())
    own = exported(run, "csv").read_text().splitlines()[1].replace(",0,6,,,,", ",0,6,dög,,,")
    path.write_text("\n".join([*rows, own]))
    got = result(run, capsys, "import", str(path))
    assert (got["matched"], got["other_batch"]) == (1, 3)
    assert list(got["other_batches"].values()) == [3]


def test_other_classes_since_the_export_are_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from metaselect.run.key import StageKey
    from metaselect.run.record import write_record

    path = answered(run, "csv", EVERYONE)
    assert result(run, capsys, "import", str(path))["classes_changed"] == []
    write_json(run.path("data/classes.json"), [*CLASSES, "zebra"])
    write_record(run.path("data"), StageKey({}, {}), {})
    batch = votes_batch(run)
    assert result(run, capsys, "import", str(path))["classes_changed"] == [batch]


def votes_batch(run: Run) -> str:
    return csv_rows(run.path("annotate/exports.csv"))[0]["batch_id"]


def test_answers_for_content_that_is_another_by_now_are_not_taken(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from metaselect.run.key import StageKey
    from metaselect.run.record import write_record

    path = answered(run, "csv", EVERYONE)
    samples = pq.read_table(run.path("data/samples.parquet"))
    hashes = samples["content_hash"].to_pylist()
    hashes[3] = "f" * 64  # of s3
    place = samples.schema.get_field_index("content_hash")
    pq.write_table(
        samples.set_column(place, "content_hash", pa.array(hashes)), run.path("data/samples.parquet")
    )
    write_record(run.path("data"), StageKey({}, {}), {})
    got = result(run, capsys, "import", str(path))
    assert (got["matched"], got["changed_ids"], got["missing"]) == (5, ["s3"], 1)
    assert "select --discard-round 1" in error(run, capsys, "export", "--all", "--force", code=4)


def test_the_ledger_of_a_batch_is_frozen_and_says_what_went_where(run: Run) -> None:
    exported(run, "csv")
    exported(run, "csv")
    exported(run, "cvat")
    rows = csv_rows(run.path("annotate/exports.csv"))
    assert [(row["format"], row["file"], row["samples"]) for row in rows] == [
        ("csv", "export/round-1/labels.csv", "6"),
        ("cvat", "export/round-1/cvat/annotations.xml", "6"),
    ]
    assert len({row["batch_id"] for row in rows}) == 1
    listed = run.path(f"annotate/batches/{rows[0]['batch_id']}.csv")
    sent = csv_rows(listed)
    assert [(row["sample_id"], row["name"]) for row in sent] == [(each, each) for each in CHOSEN]
    assert all(len(row["content_hash"]) == 64 for row in sent)
    assert json.loads(exported(run, "hf").with_name("classes.json").read_text()) == list(CLASSES)


def test_a_batch_that_was_changed_by_hand_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(answered(run, "csv", EVERYONE))
    assert result(run, capsys, "import", path)["matched"] == 6
    (listed,) = run.path("annotate/batches").iterdir()
    replaced(listed, **{"s7,s7": "s7,s0", "s0,s0": "s0,s7"})
    assert f"{listed} is damaged" in error(run, capsys, "import", path, code=4)
