"""What stands where files of a run belong, and where they cannot be written: exit 4 or 5, and the file is named."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from annotation_run import add_round, answers, call, make_run, meta_set, votes_of
from command_line import TRAIN, metaselect, seen

from metaselect.run.files import write_text
from metaselect.run.layout import Run

NO_KEYS = {"not UTF-8": b"\xff\xfe", "a list": b"[]", "a number": b"5", "deep": b"[" * 100_000, "empty": b""}
RANDOM = ("select", "--budget", 5, "--method", "random")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s3", "s1", "s2", "s0"])
    return made


@pytest.mark.parametrize("kind", NO_KEYS)
def test_a_damaged_key_of_an_unfinished_stage_starts_it_again(warm: Path, kind: str) -> None:
    place = warm / ".work/select/round-1"
    place.mkdir(parents=True)
    (place / "key.json").write_bytes(NO_KEYS[kind])
    (place / "half.parquet").write_text("half")
    assert metaselect("status", run=warm).code == 0
    assert "starting again" in metaselect(*RANDOM, run=warm).err
    assert sorted(path.name for path in (warm / "select/round-1").iterdir()) == [
        "clusters.parquet",
        "neighbours.parquet",
        "selected.csv",
        "stage.json",
    ]


@pytest.mark.parametrize("kind", NO_KEYS)
@pytest.mark.parametrize("name", ["run.json", "annotate/stage.json", "annotate/consensus.json"])
def test_damaged_json_of_a_run_is_named(
    kind: str, name: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "import", answers(run, "sample_id,clean_label\ns1,cat\n")) == 0
    path = run.path(name)
    path.write_bytes(NO_KEYS[kind])
    capsys.readouterr()
    assert call(run, "status") == 4
    assert f"{path} is damaged" in capsys.readouterr().err


PLACES = ("select", "select/round-1", ".work", ".work/select", ".lock")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["file", "broken link", "circle", "folder"])
def test_something_else_where_a_file_or_folder_belongs_is_named(warm: Path, place: str, kind: str) -> None:
    path = warm / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "folder" and place != ".lock":
        pytest.skip("a folder belongs there")
    if kind == "file":
        path.write_text("x")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/nonexistent/x" if kind == "broken link" else path)
    if place == ".lock" and kind == "file":
        assert metaselect(*RANDOM, run=warm).code == 0  # a file belongs there
        return
    said = metaselect(*RANDOM, run=warm, code=4).err
    assert str(path) in said
    assert "stands where a file or folder of the run belongs" in said


@pytest.mark.parametrize("place", ["select", ".work"])
def test_a_part_of_a_run_on_another_file_system_is_named(warm: Path, place: str) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == warm.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=other) as elsewhere:
        (warm / place).symlink_to(elsewhere)
        done = metaselect(*RANDOM, run=warm, code=4)
        assert "are on different file systems" in done.err
        assert str(warm / "select/round-1") in done.err
        (warm / place).unlink()
        if place == "select":  # the work is kept, and the same command completes it
            assert metaselect(*RANDOM, run=warm).code == 0
            assert (warm / "select/round-1/selected.csv").is_file()


@pytest.fixture
def read_only(run: Run, tmp_path: Path) -> Iterator[Run]:
    """The run, where this process may read and not write."""
    assert call(run, "import", answers(run, "sample_id,clean_label\ns1,cat\n", "first.csv")) == 0
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        Path(place).chmod(0o755)
        closed = Run(Path(shutil.copytree(run.root, Path(place) / "run")))
        shutil.copy(answers(run, "sample_id,clean_label\ns2,dog\n"), place)
        for words in (
            ("undo",),
            ("export",),
        ):  # now every module is imported, which another user could not do
            assert call(run, *words) == 0
        paths = [closed.root, *closed.root.rglob("*")]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        root = os.geteuid() == 0
        if root:  # who may write everywhere
            os.seteuid(65534)
        try:
            yield closed
        finally:
            if root:
                os.seteuid(0)
            for path in paths:
                path.chmod(0o755)


def test_a_read_only_run_is_read_and_refuses_what_writes(
    read_only: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = seen(read_only.root)
    assert call(read_only, "status") == 0
    back = str(read_only.root.parent / "answers.csv")
    for words in (("import", back), ("undo",), ("export", "--all"), ("consensus", "--method", "dawid-skene")):
        capsys.readouterr()
        assert call(read_only, *words) == 5
        said = capsys.readouterr().err
        assert f"Permission denied: {read_only.root}/" in said
    assert seen(read_only.root) == before
    assert meta_set(read_only) == {"s1": "cat"}


def test_a_full_disk_names_the_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() raises it: without a name

    path = answers(run, "sample_id,clean_label\ns1,cat\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert call(run, "import", path) == 5
    said = capsys.readouterr().err
    assert f"The disk is full while writing {run.path('annotate')}/" in said
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left") as caught:
            write_text(run.root / "x.json", "{}")
    assert caught.value.filename == str(run.root / "x.json")
    assert call(run, "import", path) == 0
    assert votes_of(run) == [("s1", "cat", "annotator", "done")]


@pytest.mark.parametrize(
    "words",
    [
        ("corrupt", TRAIN, "--noise", "uniform", "--rate", "0.2"),
        ("split", TRAIN, "--test", "0.2"),
        ("export", "--name", "uniform", "--format", "parquet"),
    ],
    ids=lambda words: words[0],
)
def test_a_full_disk_names_the_folder_of_a_table_that_arrow_writes(
    finished: Path, tmp_path: Path, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # Arrow's error has no name either

    out, run = tmp_path / "out", finished if words[0] == "export" else None
    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        done = metaselect(*words, "-o", out, run=run, code=5)
    assert f"The disk is full while writing {out}." in done.err
    assert not out.exists() or not any(out.iterdir())
    metaselect(*words, "-o", out, run=run)
