"""Votes cost money: what a crash, a torn write or an editor does to ``annotate/``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from annotation_run import add_round, make_run, meta_set, votes_of

from metaselect.cli.main import main
from metaselect.run.layout import Run

FIRST = "sample_id,clean_label\ns0,cat\ns1,dog\n"
SECOND = "sample_id,clean_label\ns1,owl\ns2,dog\n"
AFTER = {"s0": "cat", "s1": "owl", "s2": "dog"}


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s3", "s1", "s2", "s0"])
    return made


def give(run: Run, text: str, *words: str) -> int:
    path = run.root.parent / "answers.csv"
    path.write_text(text)
    return main(["annotate", "import", str(path), *words, "--run", str(run.root)])


def killed_import(run: Run, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """An import that dies where it would call this function of ``metaselect.annotation``."""

    def die(*_: object, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"metaselect.annotation.{place}", die)
        with pytest.raises(Killed):
            give(run, SECOND)


@pytest.mark.parametrize(
    "place", ["ledger.append_votes", "ledger_record.write_atomically", "ledger_record.write_record"]
)
@pytest.mark.parametrize("began", [False, True])
def test_the_next_import_mends_what_a_crash_left(
    run: Run, monkeypatch: pytest.MonkeyPatch, place: str, began: bool
) -> None:
    if began:
        assert give(run, FIRST) == 0
    killed_import(run, monkeypatch, place)
    assert main(["annotate", "status", "--run", str(run.root)]) == 0
    assert give(run, SECOND) == 0
    expected = {"s1": "owl", "s2": "dog"} | ({"s0": "cat"} if began else {})
    assert meta_set(run) == expected
    assert len(votes_of(run)) == len(set(votes_of(run))) == (4 if began else 2)
    run.stage("annotate").check(thorough=True)


def test_an_export_mends_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert give(run, FIRST) == 0
    killed_import(run, monkeypatch, "ledger_record.write_record")
    assert main(["annotate", "export", "--run", str(run.root)]) == 0
    run.stage("annotate").check(thorough=True)
    assert meta_set(run) == AFTER
    folder = run.path("annotate")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == set(run.stage("annotate").require().outputs) | {"stage.json"}
    assert "exports.csv" in files
    assert any(name.startswith("batches/b01-") for name in files)


def test_what_a_killed_command_was_writing_is_never_recorded(run: Run) -> None:
    assert give(run, FIRST) == 0
    stray = run.path("annotate/.stage.json.tmp")
    stray.write_text("{")
    assert give(run, SECOND) == 0
    assert not stray.exists()
    run.stage("annotate").check(thorough=True)


def test_a_torn_last_line_is_ignored_then_cut_off(run: Run) -> None:
    assert give(run, FIRST) == 0
    path = run.path("annotate/votes.csv")
    whole = path.read_bytes()
    path.write_bytes(whole + b"s2,dog,anno")
    assert main(["annotate", "status", "--run", str(run.root)]) == 0
    assert path.read_bytes() == whole + b"s2,dog,anno"
    assert give(run, FIRST) == 0  # nothing new, yet the tear must not be recorded
    assert path.read_bytes() == whole
    path.write_bytes(whole + "s2,dög".encode()[:-2])
    assert give(run, SECOND) == 0
    assert path.read_bytes().startswith(whole)
    assert meta_set(run) == AFTER
    run.stage("annotate").check(thorough=True)


def edit(old: bytes, new: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes().replace(old, new))

    return damage


@pytest.mark.parametrize(
    "damage", [edit(b"s0,cat", b"s0,dog"), edit(b"s0,cat", b"s0,horse"), lambda path: path.write_bytes(
        path.read_bytes()[:-5]), Path.unlink]
)  # fmt: skip
def test_votes_changed_by_hand_are_refused_by_every_command(
    run: Run, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    assert give(run, FIRST) == 0
    damage(run.path("annotate/votes.csv"))
    left = {path.name: path.read_bytes() for path in run.path("annotate").iterdir()}
    for words in (["import", str(run.root.parent / "answers.csv")], ["status"], ["export"]):
        capsys.readouterr()
        assert main(["annotate", *words, "--run", str(run.root)]) == 4
        assert "votes.csv" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.path("annotate").iterdir()} == left


def test_a_consensus_changed_by_hand_is_refused_and_a_deleted_one_made_again(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(run, FIRST) == 0
    path = run.path("annotate/meta_set.csv")
    whole = path.read_bytes()
    edit(b"dog", b"owl")(path)
    assert give(run, SECOND) == 4
    assert "Delete meta_set.csv" in capsys.readouterr().err
    path.unlink()
    assert give(run, FIRST) == 0
    assert path.read_bytes() == whole
    run.stage("annotate").check(thorough=True)


def test_more_answers_with_the_same_consensus_leave_the_same_meta_set(run: Run) -> None:
    assert give(run, FIRST) == 0
    before = run.stage("annotate").verified("annotate/meta_set.csv")
    touched = run.path("annotate/meta_set.csv").stat().st_mtime_ns
    assert give(run, FIRST, "--annotator", "ben") == 0
    assert len(votes_of(run)) == 4
    assert run.stage("annotate").verified("annotate/meta_set.csv") == before
    assert run.path("annotate/meta_set.csv").stat().st_mtime_ns == touched


def test_votes_for_other_data_are_not_mixed_with_new_ones(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(run, FIRST) == 0
    other = make_run(tmp_path / "other", [f"t{number}" for number in range(4)], ["cat", "dog"])
    add_round(other, 1, ["t0"])
    run.path("annotate").rename(other.path("annotate"))
    assert give(other, "sample_id,clean_label\nt0,cat\n") == 4
    assert "belongs to other data" in capsys.readouterr().err


def test_a_choice_changed_by_hand_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    edit(b"s1", b"s9")(run.path("select/round-1/selected.csv"))
    assert give(run, FIRST) == 4
    assert "selected.csv is damaged" in capsys.readouterr().err


def test_a_copy_of_the_whole_run_goes_on_by_itself(tmp_path: Path, run: Run) -> None:
    import shutil

    assert give(run, FIRST) == 0
    copy = Run(tmp_path / "copy")
    shutil.copytree(run.root, copy.root, copy_function=shutil.copyfile)  # other times, same bytes
    assert give(copy, SECOND) == 0
    assert meta_set(copy) == AFTER
    assert meta_set(run) == {"s0": "cat", "s1": "dog"}
