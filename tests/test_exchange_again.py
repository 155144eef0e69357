"""What is asked again, in every format: blind repeats, tied samples, and forms whose import was undone."""

import json
import shutil
from pathlib import Path
from random import Random
from socket import socket

import pyarrow.parquet as pq
import pytest
from annotation_run import (
    RecordedSession,
    add_round,
    answers,
    call,
    csv_rows,
    error,
    meta_set,
    result,
    votes_of,
)
from exchange_run import CHOSEN, CLASSES, image_run
from exchange_tools import PEOPLE

from metaselect.annotation import ledger
from metaselect.annotation.rounds import find_round
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record
from metaselect.web.labeling_session import LabelingSession
from metaselect.web.submitted_answer import SubmittedAnswer

TIED = "sample_id,clean_label,annotator\n" + "".join(
    f"{each},cat,anna\n{each},{'dög' if each in ('s0', 's8') else 'cat'},ben\n" for each in CHOSEN
)
NOTHING_WRONG = dict.fromkeys(
    ("unknown", "mismatched", "changed", "other_batch", "not_selected", "conflicting"), 0
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return image_run(tmp_path / "run")


def repeats_of(run: Run) -> dict[str, str]:
    """The sample of each repeat."""
    return {row["repeat_id"]: row["sample_id"] for row in csv_rows(run.path("annotate/repeats.csv"))}


def back(run: Run, way: str, said: dict[str, str], folder: str = "export/round-1", name: str = "back") -> str:
    """A form, answered that way."""
    _, main, answer = PEOPLE[way]
    path = run.root.parent / name
    path.write_bytes(answer(run.path(f"{folder}/{main}"), said, list(CLASSES), Random(4)))
    return str(path)


def import_warnings(got: dict[str, object]) -> dict[str, object]:
    return {name: got[name] for name in NOTHING_WRONG}


@pytest.mark.parametrize("way", PEOPLE)
def test_repeats_come_back_to_the_sample_that_they_stand_for(
    run: Run, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    form = PEOPLE[way][0]
    assert result(run, capsys, "export", "--format", form, "--repeats", "0.5")["samples"] == 9
    again = repeats_of(run)
    assert len(again) == 3
    path = back(run, way, dict.fromkeys(CHOSEN, "cat") | dict.fromkeys(again, "dög"))
    got = result(run, capsys, "import", path, "--require-complete")
    assert (got["matched"], got["repeated"], got["new_votes"], got["missing"]) == (6, 3, 9, 0)
    assert import_warnings(got) == NOTHING_WRONG
    assert {each: label for each, label, _, _ in votes_of(run)} == dict.fromkeys(
        CHOSEN, "cat"
    ) | dict.fromkeys(again, "dög")
    assert meta_set(run) == dict.fromkeys(CHOSEN, "cat")
    (skill,) = result(run, capsys, "status")["agreement"]["annotators"].values()
    assert (skill["repeated"], skill["repeated_same"]) == (3, 0)
    assert result(run, capsys, "import", path)["new_votes"] == 0
    run.stage("annotate").check(thorough=True)


@pytest.mark.parametrize("form", ["csv", "label-studio", "cvat", "hf", "html"])
def test_no_form_tells_a_repeat_from_its_sample(run: Run, form: str) -> None:
    assert call(run, "export", "--format", form, "--repeats", "0.5") == 0
    again = repeats_of(run)
    path = run.path(f"export/round-1/{next(main for name, main, _ in PEOPLE.values() if name == form)}")
    if form == "html":
        text = path.read_text()
        items = json.loads(text.partition('id="data">')[2].partition("</script>")[0])["items"]
        images = {item["id"]: item["image"] for item in items}
        assert all(images[each] == images[sample_id] for each, sample_id in again.items())
        assert all(image.startswith("data:image/png") for image in images.values())
        return
    files = {file.stem: file.read_bytes() for file in (path.parent / "images").iterdir()}
    assert files.keys() == {*CHOSEN, *again}
    assert all(files[each] == files[sample_id] for each, sample_id in again.items())
    assert len({*files.values()}) == len(CHOSEN)
    if form == "hf":
        hashes = [row["content_hash"] for row in csv_rows(path)]
        assert len({*hashes}) == 9
        assert {len(digest) for digest in hashes} == {64}


def test_a_repeat_is_found_by_its_name_and_by_its_content(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "export", "--format", "hf", "--repeats", "0.5") == 0
    again = repeats_of(run)
    rows = csv_rows(run.path("export/round-1/hf/train/metadata.csv"))
    hashes = "".join(f"{row['content_hash']},dög\n" for row in rows)
    got = result(run, capsys, "import", answers(run, f"content_hash,clean_label\n{hashes}"))
    assert (got["matched"], got["repeated"]) == (6, 3)
    assert got["matched_by"] == {"image": 0, "content_hash": 9}
    images = "".join(f"{row['file_name']},cat\n" for row in rows)
    got = result(run, capsys, "import", answers(run, f"image,clean_label\n{images}"))
    assert (got["matched"], got["repeated"], got["new_votes"]) == (6, 3, 9)
    first, *_ = again
    its_own = f"images/{again[first]}.png"  # that of the sample, not of the repeat
    swapped = f"{rows[0]['batch_id']},{first},{its_own},cat\n,s3,,cat\n"
    path = answers(run, f"batch_id,sample_id,image,clean_label\n{swapped}")
    assert result(run, capsys, "import", path)["mismatched_ids"] == [first]


@pytest.mark.parametrize("way", ["csv", "cvat", "hf"])
def test_answers_for_repeats_of_a_changed_sample_are_not_taken(
    run: Run, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    assert call(run, "export", "--format", PEOPLE[way][0], "--repeats", "0.5") == 0
    again = repeats_of(run)
    first, sample_id = next(iter(again.items()))
    path = back(run, way, dict.fromkeys((*CHOSEN, *again), "cat"))
    place = run.path("data/samples.parquet")
    table = pq.read_table(place)
    ids, hashes = table["sample_id"].to_pylist(), table["content_hash"].to_pylist()
    hashes[ids.index(sample_id)] = "0" * 64
    pq.write_table(
        table.set_column(table.column_names.index("content_hash"), "content_hash", [hashes]), place
    )
    write_record(run.path("data"), StageKey({}, {}), {})
    got = result(run, capsys, "import", path)
    assert got["changed_ids"] == sorted([first, sample_id])
    assert (got["matched"], got["repeated"]) == (5, 2)


@pytest.mark.parametrize("way", PEOPLE)
def test_tied_samples_go_out_alone_and_come_back(
    run: Run, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    assert result(run, capsys, "import", answers(run, TIED))["tied"] == 2
    got = result(run, capsys, "export", "--format", PEOPLE[way][0], "--conflicts", "--repeats", "0.5")
    assert (got["samples"], str(got["batch_id"]).startswith(find_round(run, 1).batch_id)) == (3, True)
    listed = csv_rows(run.path(f"annotate/batches/{got['batch_id']}.csv"))
    assert [(row["sample_id"], row["name"]) for row in listed] == [("s0", "s0"), ("s8", "s8")]
    ((again, _),) = repeats_of(run).items()
    path = back(run, way, {"s0": "cat", "s8": "dög", again: "cat"}, "export/round-1/conflicts")
    done = result(run, capsys, "import", path, "--annotator", "carl")
    assert (done["tied"], done["matched"], done["repeated"], done["new_votes"]) == (0, 2, 1, 3)
    assert import_warnings(done) == NOTHING_WRONG
    assert meta_set(run) == dict.fromkeys(CHOSEN, "cat") | {"s8": "dög"}
    assert {vote.round for vote in ledger.read_ledger(run).votes} == {1}
    assert ledger.remove_round(run, 1) == 15
    assert list(run.path("annotate/batches").iterdir()) == []


def test_a_tied_sample_has_the_name_that_it_had_in_its_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case and case cannot both be file names everywhere, so neither is, in a form with only one of them too."""
    run = image_run(tmp_path / "run", ("Case", "case", "other"), ("Case", "case", "other"))
    assert call(run, "export", "--format", "cvat") == 0
    whole = {row["sample_id"]: row["image"] for row in csv_rows(run.path("export/round-1/cvat/id_map.csv"))}
    tie = "sample_id,clean_label,annotator\nCase,cat,anna\nCase,dög,ben\n"
    assert call(run, "import", answers(run, tie)) == 0
    assert call(run, "export", "--format", "cvat", "--conflicts") == 0
    (row,) = csv_rows(run.path("export/round-1/conflicts/cvat/id_map.csv"))
    assert (row["sample_id"], row["image"]) == ("Case", whole["Case"])
    assert row["image"] != "Case.png"
    path = back(run, "cvat", {"Case": "cat"}, "export/round-1/conflicts")
    assert result(run, capsys, "import", path, "--annotator", "carl")["matched"] == 1
    assert meta_set(run)["Case"] == "cat"


@pytest.mark.parametrize("way", PEOPLE)
def test_an_import_of_every_format_can_be_undone_and_made_again(
    run: Run, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    form = PEOPLE[way][0]
    assert call(run, "export", "--format", form, "--repeats", "0.5") == 0
    again = repeats_of(run)
    first = back(run, way, dict.fromkeys((*CHOSEN, *again), "cat"))
    assert result(run, capsys, "import", first, "--annotator", "anna")["bought"] == 6
    other = back(run, way, dict.fromkeys(CHOSEN[:2], "dög"), name="other")
    assert result(run, capsys, "import", other, "--annotator", "anna")["new_votes"] == 2
    read_as = "csv" if form == "html" else form
    rows = csv_rows(run.path("annotate/imports.csv"))
    assert [(row["file"], row["format"]) for row in rows] == [("back", read_as), ("other", read_as)]
    undone = result(run, capsys, "undo")
    assert (undone["number"], undone["restored"], undone["withdrawn"], undone["bought"]) == (2, 2, 0, 6)
    assert meta_set(run) == dict.fromkeys(CHOSEN, "cat")
    undone = result(run, capsys, "undo", "--import", "1")
    assert (undone["number"], undone["withdrawn"], undone["bought"]) == (1, 9, 0)
    assert result(run, capsys, "import", first, "--annotator", "anna")["new_votes"] == 9
    assert meta_set(run) == dict.fromkeys(CHOSEN, "cat")
    run.stage("annotate").check(thorough=True)


@pytest.mark.parametrize("form", ["cvat", "csv"])
def test_answers_by_the_names_of_images_are_found_as_the_remedy_for_damage_says(
    run: Run, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    assert call(run, "export", "--format", "cvat", "--repeats", "0.5") == 0
    shown = dict.fromkeys((*CHOSEN, *repeats_of(run)), "cat")
    cvat = back(run, "cvat", shown, name="back.xml")
    doccano = "".join(
        json.dumps({"id": n, "filename": f"{each}.png", "label": ["cat"]}) + "\n"
        for n, each in enumerate(shown)
    )
    fiftyone = json.dumps({"classes": ["cat"], "labels": dict.fromkeys(shown, 0)})
    files = [cvat, answers(run, doccano, "back.jsonl"), answers(run, fiftyone, "labels.json")]
    assert call(run, "import", cvat) == 0
    votes = run.path("annotate/votes.csv")
    votes.write_bytes(votes.read_bytes().replace(b"cat", b"cow"))
    said = error(run, capsys, "import", cvat, code=4)
    assert "votes.csv is damaged" in said
    assert "metaselect annotate export --round K -o NEW, and --repeats as before" in " ".join(said.split())
    for file in files:
        shutil.rmtree(run.path("annotate"))
        new = str(run.root.parent / f"{Path(file).name}-{form}")
        assert call(run, "export", "--round", "1", "-o", new, "--repeats", "0.5", "--format", form) == 0
        got = result(run, capsys, "import", file)
        assert (got["matched"], got["repeated"], got["missing"]) == (6, 3, 0)
        assert meta_set(run) == dict.fromkeys(CHOSEN, "cat")


def session_of(run: Run) -> LabelingSession:
    return RecordedSession(run, find_round(run, 1), CLASSES)


def test_what_is_answered_on_the_page_is_an_import_of_its_own(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Undo takes back what stands between two other imports, and leaves them alone."""
    assert call(run, "import", answers(run, "sample_id,clean_label,annotator\ns7,cat,olga\n")) == 0
    session = session_of(run)
    for key in (1, 2):
        session.answer("a", "anna", SubmittedAnswer(key, "done", 0))
    assert call(run, "import", answers(run, "sample_id,clean_label,annotator\ns1,cat,olga\n")) == 0
    session.answer("a", "anna", SubmittedAnswer(4, "done", 1))
    rows = csv_rows(run.path("annotate/imports.csv"))
    assert [(row["format"], row["first_vote"]) for row in rows] == [
        ("csv", "0"), ("serve", "1"), ("csv", "3"), ("serve", "4"),
    ]  # fmt: skip
    assert meta_set(run) == dict.fromkeys(("s0", "s1", "s3", "s7"), "cat") | {"s8": "dög"}
    assert result(run, capsys, "undo")["withdrawn"] == 1
    assert meta_set(run) == dict.fromkeys(("s0", "s1", "s3", "s7"), "cat")
    assert result(run, capsys, "undo", "--import", "2")["withdrawn"] == 2
    assert meta_set(run) == dict.fromkeys(("s1", "s7"), "cat")
    session.answer(
        "a", "anna", SubmittedAnswer(4, "done", 1)
    )  # the page goes on, as an import after the undo
    assert csv_rows(run.path("annotate/imports.csv"))[-1]["format"] == "serve"
    assert meta_set(run) == dict.fromkeys(("s1", "s7"), "cat") | {"s8": "dög"}
    run.stage("annotate").check(thorough=True)


def test_an_answer_that_the_page_took_back_counts_again_when_that_is_undone(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "import", answers(run, "sample_id,clean_label,annotator\ns7,cat,anna\n")) == 0
    session = session_of(run)
    assert session.undo("a", "anna")["item"] == {"key": 0, "id": "s7"}
    assert meta_set(run) == {}
    undone = result(run, capsys, "undo")
    assert (undone["file"], undone["restored"], undone["bought"]) == ("serve", 1, 1)
    assert meta_set(run) == {"s7": "cat"}


def test_the_page_is_served_for_the_round_while_its_ties_are_with_somebody(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn")
    tied = TIED.replace("s2,cat,anna\ns2,cat,ben\n", "")
    assert call(run, "import", answers(run, tied)) == 0
    assert call(run, "export", "--format", "label-studio", "--conflicts", "--repeats", "0.5") == 0

    def interrupt(app: object, listener: socket) -> None:
        listener.close()
        raise KeyboardInterrupt

    monkeypatch.setattr("metaselect.web.server.serve", interrupt)
    assert result(run, capsys, "serve")["missing"] == 1
    exports = csv_rows(run.path("annotate/exports.csv"))
    batch = find_round(run, 1).batch_id
    assert [(row["format"], row["samples"], row["batch_id"] == batch) for row in exports] == [
        ("label-studio", "3", False),
        ("serve", "6", True),
    ]
    session = session_of(run)
    state = session.next("a")
    assert state["item"] == {"key": 5, "id": "s2"}  # neither a tie nor a repeat
    session.answer("a", "carl", SubmittedAnswer(5, "done", 0))
    path = back(run, "label-studio JSON", {"s0": "cat", "s8": "dög"}, "export/round-1/conflicts")
    done = result(run, capsys, "import", path)
    assert (done["matched"], done["tied"], done["missing"]) == (2, 0, 0)
    assert import_warnings(done) == NOTHING_WRONG
    assert meta_set(run) == dict.fromkeys(CHOSEN, "cat") | {"s8": "dög"}


def test_a_form_of_a_second_round_takes_no_answers_of_the_first(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A repeat belongs to its round also where the import is about another one."""
    assert call(run, "export", "--format", "cvat", "--repeats", "0.5") == 0
    path = back(run, "cvat", dict.fromkeys((*CHOSEN, *repeats_of(run)), "cat"))
    add_round(run, 2, ["s4", "s5"])
    got = result(run, capsys, "import", path, "--round", "1")
    assert (got["matched"], got["repeated"], got["missing"]) == (6, 3, 0)
    assert {vote.round for vote in ledger.read_ledger(run).votes} == {1}
