"""`metaselect annotate import`, `simulate` and `status`: files, exit codes, messages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from annotation_run import add_round, answers, call, csv_rows, error, make_run, meta_set, result, votes_of
from filelock import FileLock

from metaselect.annotation import ledger
from metaselect.cli.main import main
from metaselect.run.layout import Run
from metaselect.stages.status import OpenWork
from metaselect.web.submitted_answer import valid_annotator


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s3", "s1", "s2", "s0"])
    return made


HAND_MADE = """sample_id,clean_label,annotator,status,note
 s0 , cat ,anna,,
s1,dog,anna,done,
s1,owl,anna,,changed my mind
s1,dog,ben,,
s2,,anna,skip,
s3,,anna,unsure,
s3,,ben,bad_sample,black
s3,,carl,,
s9,cat,anna,,
zz,cat,anna,,
yy,wrong,anna,,
"""


def test_the_reconciliation_counts_every_row_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    got = result(run, capsys, "import", answers(run, HAND_MADE))
    expected = {
        "matched": 2,  # s0 anna, s1 ben
        "skipped": 1,
        "unsure": 1,
        "unusable": 1,
        "conflicting": 1,  # s1 anna
        "not_selected": 1,
        "unknown": 2,
        "missing": 0,
        "tied": 0,
        "new_votes": 5,
        "bought": 2,
    }
    assert {name: got[name] for name in expected} == expected
    assert got["conflicts"] == [{"sample_id": "s1", "annotator": "anna"}]
    assert got["unknown_ids"] == ["yy", "zz"]
    assert got["not_selected_ids"] == ["s9"]
    assert votes_of(run) == [
        ("s0", "cat", "anna", "done"),
        ("s1", "dog", "ben", "done"),
        ("s2", "", "anna", "skip"),
        ("s3", "", "anna", "unsure"),
        ("s3", "", "ben", "bad_sample"),
    ]
    assert meta_set(run) == {"s0": "cat", "s1": "dog", "s3": ""}
    run.stage("annotate").check(thorough=True)
    assert run.stage("annotate").verified("annotate/meta_set.csv")


def test_people_read_the_reconciliation_as_a_table(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "import", answers(run, HAND_MADE)) == 0
    captured = capsys.readouterr()
    assert "ids not in the pool" in captured.out
    assert "s1 by anna" in captured.err
    assert "yy, zz" in captured.err
    assert "--outside-round" in captured.err
    assert f"Next: metaselect warmup --run {run.root}" in captured.err


def files(run: Run) -> dict[str, bytes]:
    folder = run.path("annotate")
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_the_same_file_twice_changes_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    table = answers(run, HAND_MADE)
    assert call(run, "import", table) == 0
    before = files(run)
    assert result(run, capsys, "import", table)["new_votes"] == 0
    assert files(run) == before


def test_answers_in_place_of_others_are_counted_and_two_people_without_names_are_noticed(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "import", answers(run, "sample_id,clean_label\ns0,cat\ns1,dog\ns2,owl\n", "p1.csv")) == 0
    second = answers(run, "sample_id,clean_label\ns0,dog\ns1,dog\ns3,owl\n", "p2.csv")
    capsys.readouterr()
    assert call(run, "import", second) == 0
    printed = capsys.readouterr()
    assert "does not say whose answers they are" in printed.err
    assert "new votes in place of another answer of the same annotator │     1" in printed.out
    assert result(run, capsys, "import", second)["replaced"] == 0
    assert "does not say whose" not in capsys.readouterr().err
    called = answers(run, "sample_id,clean_label,annotator\ns0,owl,annotator\n", "called.csv")
    assert result(run, capsys, "import", called)["replaced"] == 1
    assert call(run, "undo") == 0
    named = answers(run, "sample_id,clean_label,annotator\ns0,owl,anna\n", "anna.csv")
    assert result(run, capsys, "import", named)["replaced"] == 0
    corrected = answers(run, "sample_id,clean_label,annotator\ns0,cat,anna\n", "anna.csv")
    capsys.readouterr()
    assert call(run, "import", corrected) == 0
    assert "does not say whose" not in capsys.readouterr().err


def test_one_person_is_one_whatever_the_system_makes_of_the_letters(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    together, apart = (normalize(form, "Zoë") for form in ("NFC", "NFD"))
    assert together != apart
    named = "sample_id,clean_label,annotator\ns1,{},{}\n"
    assert call(run, "import", answers(run, named.format("cat", apart))) == 0
    got = result(run, capsys, "import", answers(run, named.format("owl", together)))
    assert (got["replaced"], got["tied"]) == (1, 0)
    bare = answers(run, "sample_id,clean_label\ns1,dog\n")
    assert result(run, capsys, "import", bare, "--annotator", apart)["replaced"] == 1
    assert meta_set(run) == {"s1": "dog"}
    assert {who for _, _, who, _ in votes_of(run)} == {together}
    both = "".join(f"s1,{label},{who}\n" for label, who in (("cat", apart), ("owl", together)))
    got = result(run, capsys, "import", answers(run, f"sample_id,clean_label,annotator\n{both}"))
    assert got["conflicts"] == [{"sample_id": "s1", "annotator": together}]
    assert valid_annotator(apart) == together  # as the local page takes it


def test_a_later_file_supersedes_and_only_adds_lines(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "import", answers(run, "sample_id,clean_label\ns0,cat\ns1,cat\n")) == 0
    before = run.path("annotate/votes.csv").read_bytes()
    later = result(run, capsys, "import", answers(run, "sample_id,clean_label\ns0,dog\ns1,cat\n"))
    assert later["new_votes"] == 1
    assert run.path("annotate/votes.csv").read_bytes().startswith(before)
    assert meta_set(run) == {"s0": "dog", "s1": "cat"}


def test_a_tie_is_no_meta_sample_until_somebody_decides(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    table = answers(run, "sample_id,clean_label,annotator\ns0,cat,anna\ns0,dog,ben\n")
    assert result(run, capsys, "import", table)["tied"] == 1
    assert meta_set(run) == {}
    third = answers(run, "sample_id,clean_label\ns0,dog\n")
    assert result(run, capsys, "import", third, "--annotator", "carl")["tied"] == 0
    assert meta_set(run) == {"s0": "dog"}
    assert votes_of(run)[-1] == ("s0", "dog", "carl", "done")


def test_a_part_is_fine_unless_all_was_required(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    part = answers(run, "sample_id,clean_label\ns0,cat\n")
    assert result(run, capsys, "import", part)["missing"] == 3
    assert result(run, capsys, "import", part, "--require-complete", code=1)["missing"] == 3
    rest = answers(run, "sample_id,clean_label,status\ns1,cat,\ns2,,bad_sample\ns3,,skip\n")
    assert result(run, capsys, "import", rest, "--require-complete")["missing"] == 0


def test_labels_from_outside_the_round_need_to_be_asked_for(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    table = answers(run, "sample_id,clean_label\ns9,cat\n")
    assert "--outside-round" in error(run, capsys, "import", table, code=3)
    assert files(run) == {}
    assert result(run, capsys, "import", table, "--outside-round")["bought"] == 1
    assert csv_rows(run.path("annotate/votes.csv"))[0]["round"] == "0"
    assert meta_set(run) == {"s9": "cat"}


def test_one_round_alone_can_be_meant(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    add_round(run, 2, ["s8"])
    table = answers(run, "sample_id,clean_label\ns8,cat\ns0,cat\n")
    only = result(run, capsys, "import", table, "--round", "2", "--require-complete")
    assert (only["matched"], only["not_selected"], only["missing"]) == (1, 1, 0)
    assert "no round 3" in error(run, capsys, "import", table, "--round", "3", code=2)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("sample_id,clean_label\ns0,cat\ns1,Dog\ns2,x\n", [":3", "'Dog'", "s1", "1 more", "mean 'dog'"]),
        ("sample_id,clean_label\ns0,dgo\n", [":2", "mean 'dog'"]),
        ("sample_id,clean_label\ns0,horse\n", ["The classes are 'cat', 'dog', 'owl'"]),
        ("sample_id,clean_label,status\ns0,cat,maybe\n", [":2", "'maybe'", "bad_sample"]),
        ("sample_id,clean_label,status\ns0,,done\n", [":2", "no clean_label"]),
        ("sample_id,clean_label\nzz,cat\n", ["none of its 1 ids is known", "zz", "--run"]),
        ("sample_id,clean_label\n", ["has no rows"]),
    ],
)
def test_a_bad_file_writes_nothing_and_says_where_it_is_bad(
    run: Run, capsys: pytest.CaptureFixture[str], text: str, messages: Any
) -> None:
    stderr = error(run, capsys, "import", answers(run, text), code=3)
    assert [message for message in messages if message not in stderr] == []
    assert files(run) == {}


def test_a_missing_file_and_a_run_without_rounds_are_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nowhere.csv" in error(run, capsys, "import", "nowhere.csv", code=3)
    bare = make_run(tmp_path / "bare")
    table = answers(run, "sample_id,clean_label\ns0,cat\n")
    for words in (("import", table), ("export",), ("simulate", table)):
        assert "metaselect warmup" in error(bare, capsys, *words, code=4)  # select would ask for it
    assert call(bare, "import", table, "--outside-round") == 0
    assert "metaselect ingest" in error(Run(tmp_path / "none"), capsys, "status", code=4)
    assert not (tmp_path / "none").exists()


def test_an_empty_form_is_no_error_but_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "export") == 0
    capsys.readouterr()
    assert call(run, "import", str(run.path("export/round-1/labels.csv"))) == 0
    assert "holds no answer yet" in capsys.readouterr().err
    assert not run.path("annotate/votes.csv").exists()


def test_simulation_answers_what_is_open_through_the_same_door(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "import", answers(run, "sample_id,clean_label\ns0,owl\n")) == 0
    lines = "".join(f"s{number},dog,x\n" for number in range(10))
    truth = answers(run, f"id,clean_label,given_label\n{lines}", "truth.csv")
    assert result(run, capsys, "simulate", truth)["new_votes"] == 3
    assert meta_set(run) == {"s0": "owl", "s1": "dog", "s2": "dog", "s3": "dog"}
    assert {each[2] for each in votes_of(run)} == {"annotator", "simulated"}
    before = files(run)
    assert result(run, capsys, "simulate", truth)["new_votes"] == 0
    assert files(run) == before


def test_simulation_needs_classes_and_one_label_a_sample(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = answers(run, "sample_id,clean_label\ns0,cat\ns1,cat\ns2,cat\ns3,cow\n")
    assert "'cow'" in error(run, capsys, "simulate", strange, code=3)
    twice = answers(run, "sample_id,clean_label\ns0,cat\ns0,dog\n")
    assert "two labels" in error(run, capsys, "simulate", twice, code=3)
    assert files(run) == {}


def test_status_counts_samples_by_round_and_writes_nothing(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    add_round(run, 2, ["s5", "s6"])
    table = answers(run, "sample_id,clean_label,annotator,status\ns0,cat,anna,\ns1,cat,anna,\ns1,dog,ben,\n"
                         "s2,,anna,bad_sample\ns5,,ben,unsure\ns9,owl,ben,\n")  # fmt: skip
    assert call(run, "import", table, "--outside-round") == 0
    before = files(run)
    got = result(run, capsys, "status")
    base = {"skipped": 0, "exported": False}
    first = {"round": 1, "selected": 4, "answered": 1, "unsure": 0, "unusable": 1, "conflicts": 1}
    second = {"round": 2, "selected": 2, "answered": 0, "unsure": 1, "unusable": 0, "conflicts": 0}
    assert got["rounds"] == [{**base, **first, "missing": 1}, {**base, **second, "missing": 1}]
    assert (got["bought"], got["unusable"], got["outside_round"]) == (2, 1, 1)
    assert got["annotators"] == {
        "anna": {"done": 2, "skip": 0, "unsure": 0, "bad_sample": 1},
        "ben": {"done": 2, "skip": 0, "unsure": 1, "bad_sample": 0},
    }
    assert call(run, "status") == 0
    assert "2 labels bought, 1 sample unusable." in capsys.readouterr().out
    assert files(run) == before


def test_another_command_in_the_run_keeps_writers_out_but_not_status(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    table = answers(run, "sample_id,clean_label\ns0,cat\n")
    with FileLock(run.root / ".lock"):
        for words in (("export",), ("import", table), ("simulate", table)):
            assert "Another metaselect command" in error(run, capsys, *words, code=4)
        assert call(run, "status") == 0
    assert ledger.read_ledger(run).votes == ()


@pytest.mark.parametrize("words", [["--help"], ["export", "--help"], ["import", "--help"],
                                   ["simulate", "--help"], ["status", "--help"]])  # fmt: skip
def test_help_has_two_examples(capsys: pytest.CaptureFixture[str], words: Any) -> None:
    assert main(["annotate", *words]) == 0
    shown = capsys.readouterr().out
    if len(words) == 2:
        assert shown.count(f"metaselect annotate {words[0]} ") >= 2 + 1  # the usage line is one more
    else:
        assert "simulate" in shown


def test_nothing_here_imports_torch(run: Run) -> None:
    table = answers(run, "sample_id,clean_label\ns0,cat\n")
    program = (
        "import sys; from metaselect.cli.main import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; assert 'pandas' not in sys.modules; sys.exit(code)"
    )
    for words in (["export"], ["import", table], ["status"]):
        command = [sys.executable, "-c", program, "annotate", *words, "--run", str(run.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    light = "import sys, metaselect.cli.main; assert not {'numpy', 'pyarrow', 'torch'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_pipelines_status_says_what_people_still_owe(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def line() -> str:
        capsys.readouterr()
        main(["status", "--json", "--run", str(run.root)])
        stages = json.loads(capsys.readouterr().out)["stages"]
        return {row["stage"]: row["why"] or "" for row in stages}["annotate"]

    assert (
        call(run, "import", answers(run, "sample_id,clean_label,annotator\ns0,cat,anna\ns0,dog,ben\n")) == 0
    )
    assert line() == "samples: 3 without an answer, 1 tied"
    owed = OpenWork(3, 1), OpenWork(0, 2), OpenWork(0, 0)
    assert [str(each) for each in owed] == ["samples: 3 without an answer, 1 tied", "samples: 2 tied", ""]
    assert call(run, "import", answers(run, "sample_id,clean_label\ns0,dog\ns1,dog\ns2,owl\n")) == 0
    assert line() == "samples: 1 without an answer"
    assert call(run, "import", answers(run, "sample_id,clean_label\ns3,dog\n")) == 0
    assert line() == ""
