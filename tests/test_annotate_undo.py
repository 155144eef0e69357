"""`metaselect annotate undo`: imports by number, and that what counted before counts again."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from annotation_run import add_round, answers, call, csv_rows, error, make_run, meta_set, result, votes_of
from command_line import environment, metaselect, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaselect.annotation import ledger
from metaselect.annotation.imports import Import, Source, vote_positions, votes_to_record
from metaselect.annotation.undo import votes_that_undo, without_round
from metaselect.annotation.votes import Vote, append_votes, read_votes
from metaselect.run.layout import Run

CAT_DOG = "sample_id,clean_label\ns0,cat\ns1,dog\n"
OWLS = "sample_id,clean_label\ns1,owl\ns2,owl\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s3", "s1", "s2", "s0"])
    return made


def give(run: Run, text: str, name: str = "answers.csv", *words: str) -> None:
    assert call(run, "import", answers(run, text, name), *words) == 0


def test_an_undo_brings_back_what_counted_before_and_only_adds_rows(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    give(run, CAT_DOG, "first.csv")
    give(run, OWLS, "second.csv")
    before = run.path("annotate/votes.csv").read_bytes()
    got = result(run, capsys, "undo")
    expected = {"number": 2, "file": "second.csv", "votes": 2, "withdrawn": 1, "restored": 1, "superseded": 0}
    assert {name: got[name] for name in expected} == expected
    assert got["bought"] == 2
    assert meta_set(run) == {"s0": "cat", "s1": "dog"}
    assert run.path("annotate/votes.csv").read_bytes().startswith(before)
    assert votes_of(run)[-2:] == [("s1", "dog", "annotator", "done"), ("s2", "", "annotator", "withdrawn")]
    run.stage("annotate").check(thorough=True)
    assert result(run, capsys, "undo", "--import", "1")["number"] == 1
    assert meta_set(run) == {}


def test_without_an_import_there_is_none_to_undo(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no import to undo" in error(run, capsys, "undo", code=2)


def test_only_who_imported_a_file_is_told_to_import_it_again(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = answers(run, "sample_id,clean_label\n" + "".join(f"s{number},cat\n" for number in range(10)))
    for words, told in ((("import", truth), True), (("simulate", truth), False)):
        assert call(run, *words) == 0
        capsys.readouterr()
        assert call(run, "undo") == 0
        assert ("importing the file again" in capsys.readouterr().err) is told


def test_the_record_names_the_file_without_its_folder_and_its_bytes(run: Run) -> None:
    import hashlib

    give(run, CAT_DOG, "first.csv")
    assert call(run, "undo") == 0
    first, second = csv_rows(run.path("annotate/imports.csv"))
    time = csv_rows(run.path("annotate/votes.csv"))[0]["time"]
    digest = hashlib.sha256(CAT_DOG.encode()).hexdigest()
    assert list(first.values()) == ["1", time, "first.csv", digest, "csv", "0", ""]
    assert [second[name] for name in ("import", "file", "format", "first_vote", "undoes")] == [
        "2", "", "undo", "2", "1",
    ]  # fmt: skip


def test_the_same_file_can_be_imported_again_after_an_undo(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    give(run, CAT_DOG)
    assert call(run, "undo") == 0
    assert result(run, capsys, "import", answers(run, CAT_DOG))["new_votes"] == 2
    assert meta_set(run) == {"s0": "cat", "s1": "dog"}
    assert result(run, capsys, "undo")["number"] == 3


def test_samples_of_an_undone_import_are_open_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    give(run, CAT_DOG)
    assert result(run, capsys, "status")["rounds"][0]["missing"] == 2
    assert call(run, "undo") == 0
    found = result(run, capsys, "status")
    assert (found["rounds"][0]["missing"], found["annotators"]) == (4, {})
    assert call(run, "export") == 0
    assert len(csv_rows(run.path("export/round-1/labels.csv"))) == 4


def test_an_earlier_import_can_be_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    give(run, CAT_DOG)
    give(run, OWLS)
    got = result(run, capsys, "undo", "--import", "1")
    assert (got["withdrawn"], got["restored"], got["superseded"]) == (1, 0, 1)
    assert meta_set(run) == {"s1": "owl", "s2": "owl"}
    assert result(run, capsys, "undo", "--import", "1") == got
    assert "is the undo of import 1" in error(run, capsys, "undo", "--import", "3", code=2)
    assert "The latest is 3" in error(run, capsys, "undo", "--import", "4", code=2)
    assert call(run, "undo") == 0  # of import 2: what import 1 said of s1 does not come back
    assert meta_set(run) == {}


def test_what_a_later_file_says_too_still_counts(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    part = "sample_id,clean_label\ns0,cat\ns1,dog\n"
    whole = f"{part}s2,owl\n"
    give(run, part, "part.csv")
    got = result(run, capsys, "import", answers(run, whole, "whole.csv"))
    assert (got["matched"], got["new_votes"], got["replaced"], got["bought"]) == (3, 1, 0, 3)
    before = tree(run.root)
    for name in ("part.csv", "whole.csv"):  # what stands already is no import
        assert result(run, capsys, "import", str(run.root.parent / name))["new_votes"] == 0
        assert tree(run.root) == before
    got = result(run, capsys, "undo", "--import", "1")
    assert (got["votes"], got["withdrawn"], got["restored"], got["superseded"]) == (2, 0, 0, 2)
    assert meta_set(run) == {"s0": "cat", "s1": "dog", "s2": "owl"}
    assert result(run, capsys, "undo", "--import", "2")["withdrawn"] == 3
    assert meta_set(run) == {}
    assert result(run, capsys, "import", str(run.root.parent / "part.csv"))["new_votes"] == 2
    run.stage("annotate").check(thorough=True)


def test_what_an_earlier_file_says_too_still_counts(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    give(run, "sample_id,clean_label\ns0,cat\n", "part.csv")
    give(run, CAT_DOG, "whole.csv")
    got = result(run, capsys, "undo")
    assert (got["number"], got["withdrawn"], got["superseded"]) == (2, 1, 1)
    assert meta_set(run) == {"s0": "cat"}
    assert result(run, capsys, "import", str(run.root.parent / "whole.csv"))["new_votes"] == 1
    assert call(run, "undo", "--import", "1") == 0
    assert meta_set(run) == {"s0": "cat", "s1": "dog"}


def test_people_read_what_an_undo_did(run: Run) -> None:
    give(run, CAT_DOG, "first.csv")
    done = metaselect("annotate", "undo", run=run.root)
    assert "Undid import 1 (first.csv): 2 votes." in done.out
    assert "2 withdrawn" in done.out
    again = metaselect("annotate", "undo", run=run.root)
    assert again.out == done.out
    assert "Import 1 was undone already." in again.err
    assert "undo --import" not in again.err  # there is no other


def test_no_form_may_say_withdrawn(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    table = answers(run, "sample_id,clean_label,status\ns0,,withdrawn\n")
    assert "no status 'withdrawn'" in error(run, capsys, "import", table, code=3)


SAMPLES, PEOPLE, LABELS = ("s0", "s1", "s2"), ("anna", "ben"), ("cat", "dog", "owl")
answers_of_one_file = st.dictionaries(
    st.tuples(st.sampled_from(SAMPLES), st.sampled_from(PEOPLE)), st.sampled_from(LABELS), min_size=1
)
steps = st.lists(st.one_of(answers_of_one_file, st.integers(0, 9)), max_size=8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps)
def test_what_counts_is_the_latest_of_the_imports_that_stand(steps: Any) -> None:
    """The vote file alone gives what a list of files, of which some are taken out again, gives."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run")
        files: dict[int, dict[tuple[str, str], str]] = {}  # what those that stand say, by number
        rows = latest = 0
        for step, each in enumerate(steps):
            time = f"2026-01-01T00:00:{step:02d}Z"
            book = ledger.open_ledger(run)
            if isinstance(each, dict):
                votes = [Vote(key[0], label, key[1], "done", "", 0, time) for key, label in each.items()]
                digest = repr(sorted(each.items()))
                record = votes_to_record(book.votes, book.imports, votes, digest)
                ledger.add_votes(run, book, record, Source(time, "x.csv", digest, "csv"))
                same = max((number for number, said in files.items() if said == each), default=rows + 1)
                later = [said for number, said in files.items() if number > same]
                # The same file says nothing new, unless another one has said something else since.
                if same > rows or any(
                    said.get(key, each[key]) != each[key] for said in later for key in each
                ):
                    rows = latest = rows + 1
                    files[rows] = each
            elif files:
                number = sorted(files)[each % len(files)] if each else None
                ledger.undo_import(run, number, time)
                # Without a number the latest import is meant, also where it is undone already.
                rows += files.pop(number or latest, None) is not None
            expected = {key: label for number in sorted(files) for key, label in files[number].items()}
            book = ledger.read_ledger(run)
            assert {key: vote.clean_label for key, vote in book.latest.items()} == expected
        if rows:
            run.stage("annotate").check(thorough=True)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    "place",
    [
        "ledger._add_import",
        "ledger.append_votes",
        "ledger_record.write_atomically",
        "ledger_record.write_record",
        "torn",
    ],
)
@pytest.mark.parametrize("then", ["undo", "import"])
def test_an_undo_that_was_cut_short_is_completed(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str, then: str
) -> None:
    give(run, CAT_DOG)
    give(run, OWLS)

    def die(*_: object, **__: Any) -> None:
        raise Killed

    def tear(path: Path, votes: list[Vote], end: int) -> None:
        append_votes(path, votes, end)
        path.write_bytes(path.read_bytes()[:-30])
        assert len(read_votes(path)[0]) == 5  # the first of two votes; half of the other reached the disk
        raise Killed

    with monkeypatch.context() as patch:
        if place == "torn":
            patch.setattr(ledger, "append_votes", tear)
        else:
            patch.setattr(f"metaselect.annotation.{place}", die)
        with pytest.raises(Killed):
            call(run, "undo")
    assert call(run, "status") == 0
    if then == "undo":
        assert result(run, capsys, "undo")["number"] == 2
        assert meta_set(run) == {"s0": "cat", "s1": "dog"}
    else:
        give(run, OWLS)
        assert meta_set(run) == {"s0": "cat", "s1": "owl", "s2": "owl"}
    run.stage("annotate").check(thorough=True)


def test_an_import_that_died_before_its_votes_leaves_nothing_to_undo(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(run, CAT_DOG, "first.csv")

    def die(*_: object, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "append_votes", die)
        with pytest.raises(Killed):
            call(run, "import", answers(run, OWLS, "second.csv"))
    assert result(run, capsys, "undo")["file"] == "first.csv"


def test_imports_changed_by_hand_are_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    give(run, CAT_DOG)
    path = run.path("annotate/imports.csv")
    path.write_text(path.read_text().replace("answers", "others"))
    assert "imports.csv is damaged" in error(run, capsys, "undo", code=4)


@given(
    rounds=st.lists(
        st.tuples(st.sampled_from(SAMPLES), st.sampled_from(LABELS), st.integers(1, 3)), max_size=9
    ),
    cuts=st.lists(st.integers(0, 9), max_size=3),
    undone=st.integers(0, 3),
    gone=st.integers(1, 3),
)
def test_forgetting_a_round_keeps_imports_and_their_votes_together(
    rounds: Any, cuts: Any, undone: Any, gone: Any
) -> None:
    votes = [Vote(name, label, "anna", "done", str(at), number, "t")
             for at, (name, label, number) in enumerate(rounds)]  # fmt: skip
    starts = [0, *sorted(min(cut, len(votes)) for cut in cuts)]
    imports = [Import(at, "t", "f", "", "csv", first, 0) for at, first in enumerate(starts, start=1)]
    if 0 < undone <= len(imports):
        imports.append(Import(len(imports) + 1, "t", "", "", "undo", len(votes), undone))
        votes += votes_that_undo(votes, imports)
    kept, rows = without_round(votes, imports, gone)
    assert votes_that_undo(kept, rows) == []
    assert not any(vote.round == gone for vote in kept)
    for row in imports:
        before = [votes[at] for at in vote_positions(imports, row, len(votes))]
        after = [kept[at] for at in vote_positions(rows, rows[row.number - 1], len(kept))]
        assert after == [vote for vote in before if vote.round != gone]


def test_an_undo_is_safe_to_repeat(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, label in enumerate(("cat", "dog")):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"sample_id,clean_label\ns1,{label}\n")
        assert call(run, "import", str(path)) == 0
    first = result(run, capsys, "undo")
    before = tree(run.root)
    for words in ((), ("--import", "2")):
        assert result(run, capsys, "undo", *words) == first
        assert call(run, "undo", *words) == 0
        said = capsys.readouterr().err
        assert "Import 2 was undone already. Another: metaselect annotate undo --import 1" in said
        assert tree(run.root) == before
    assert meta_set(run) == {"s1": "cat"}


KILLED = """
import shutil, sys
from pathlib import Path

from fault_injection import Fault, import_everything, run_forked

original, *words = sys.argv[1:]


def copy(number):
    folder = Path(f"killed-{number}").resolve()
    shutil.copytree(original, folder / "run")
    return folder


import_everything()
every = run_forked(words, copy("never")).operations
for number in range(len(every)):
    assert run_forked(words, copy(number), Fault("SIGKILL", number)).code == -9
"""
"""Runs a command as often as it has operations on files, and is killed at each of them once."""


def killed_copies(run: Run, folder: Path, *words: str) -> list[Run]:
    """Copies of a run on which a command was killed, each at another operation on files, and one where it was not."""
    program = [sys.executable, "-c", KILLED, str(run.root), *words, "--run", "run"]
    env = environment(PYTHONPATH=str(Path(__file__).parent))
    subprocess.run(program, check=True, cwd=folder, env=env)
    copies = [Run(path) for path in sorted(folder.glob("killed-*/run"))]
    assert len(copies) > 6
    return copies


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--import", "2")])
def test_an_undo_that_is_killed_at_any_operation_and_run_again_undoes_one_import(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    give(run, CAT_DOG, "first.csv")
    give(run, OWLS, "second.csv")
    whole = Run(Path(shutil.copytree(run.root, tmp_path / "whole")))
    assert call(whole, "undo", *words) == 0
    assert len(votes_of(whole)) == 6
    for one in killed_copies(run, tmp_path, "annotate", "undo", *words):
        assert call(one, "undo", *words) == 0
        assert votes_of(one) == votes_of(whole)
        assert meta_set(one) == meta_set(whole) == {"s0": "cat", "s1": "dog"}
        assert len(csv_rows(one.path("annotate/imports.csv"))) == 3
        one.stage("annotate").check(thorough=True)
