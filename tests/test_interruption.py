"""Commands that are killed, interrupted or run out of room: the same command goes on and ends in the same bytes."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import (
    LIMIT,
    PIPELINE,
    SELECT,
    TRAIN,
    UNIFORM,
    WARMUP,
    Done,
    command,
    environment,
    metaselect,
    tree,
)
from data_makers import Listener
from safetensors import safe_open

from metaselect.run.key import StageKey
from metaselect.run.stage import Stage

LONG_WARMUP = ("warmup", "--epochs", 30, "--checkpoints", 15, "--batch-size", 16)
LONG_REWEIGHT = ("reweight", "--epochs", 60, "--folds", 0, "--lr", 0.02, "--method")


def interrupt(
    words: tuple[object, ...],
    run: Path,
    ready: Callable[[], bool],
    number: int = signal.SIGKILL,
    *,
    started: list[int] | None = None,
) -> Done:
    """Start a command, send it a signal as soon as ``ready`` says so, and wait for its end.

    ``started`` takes the number of its process.
    """
    process = subprocess.Popen(
        command(*words, run=run),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # Where the tests run in the background of a shell, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    if started is not None:
        started.append(process.pid)
    try:
        while not ready():
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return Done(process.returncode, out, err)


def epochs_done(run: Path, stage: str) -> int:
    """Whole epochs that the state of an unfinished training holds."""
    path = run / ".work" / stage / "resume.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, "numpy") as file:
        return int(file.metadata()["epoch"])


def moments(run: Path, stage: str, count: int) -> Iterator[Callable[[], bool]]:
    """Drawn moments of a training, each some epochs after where it stands, and anywhere within the next ones."""
    draw = np.random.default_rng(zlib.crc32(stage.encode()))
    for _ in range(count):
        epoch = epochs_done(run, stage) + int(draw.integers(1, 8))
        delay = float(draw.uniform(0, 0.05))
        seen: list[float] = []

        def ready(epoch: int = epoch, delay: float = delay, seen: list[float] = seen) -> bool:
            if not seen and epochs_done(run, stage) >= epoch:
                seen.append(time.monotonic())
            return bool(seen) and time.monotonic() >= seen[0] + delay

        yield ready


def results(run: Path) -> dict[str, bytes]:
    """Every file but those that hold times."""
    return tree(run, leave=(".lock", "stage.json"))


METHODS = ("auto", "direct", "l2rw", "mw-net", "fsr", "elr", "uniform")
"""One for each kind of state; ``test_resume_contract.py`` kills every method, within one process."""
TRAININGS = [
    (LONG_WARMUP, "warmup", "warm"),
    *(((*LONG_REWEIGHT, name), f"reweight/{name}", "bought") for name in METHODS),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "stage", "start"), TRAININGS, ids=[stage for _, stage, _ in TRAININGS])
def test_a_killed_training_goes_on_where_it_stopped(
    request: pytest.FixtureRequest, tmp_path: Path, words: tuple[object, ...], stage: str, start: str
) -> None:
    run: Path = request.getfixturevalue(start)
    shutil.rmtree(run / stage, ignore_errors=True)
    undisturbed = Path(shutil.copytree(run, tmp_path / "undisturbed"))
    total, done = int(str(words[2])), 0
    for ready in moments(run, stage, 2):
        killed = interrupt(words, run, ready)
        assert killed.code == -signal.SIGKILL
        assert f"Going on with epoch {done + 1} of {total}." in killed.err or not done
        assert not (run / stage).exists()
        assert done < epochs_done(run, stage) < total
        done = epochs_done(run, stage)
    shown = metaselect("status", "--json", run=run).json
    assert "interrupted" in {row["state"] for row in shown["stages"]}
    assert shown["next"] == f"metaselect {' '.join(map(str, words))} --run {run}"
    said = metaselect(*shlex.split(shown["next"])[1:]).err
    assert f"Going on with epoch {done + 1} of {total}." in said
    metaselect(*words, run=undisturbed)
    assert results(run) == results(undisturbed)
    assert list((run / ".work").rglob("*.safetensors")) == []
    metaselect("verify", run=run)


@pytest.mark.slow
def test_a_warmup_killed_within_its_folds_goes_on_there(warm: Path, tmp_path: Path) -> None:
    shutil.rmtree(warm / "warmup")
    undisturbed = Path(shutil.copytree(warm, tmp_path / "undisturbed"))
    words = (*WARMUP, "--epochs", 12)
    for stage in ("warmup/fold-1", "warmup/fold-2"):
        (ready,) = moments(warm, stage, 1)
        killed = interrupt(words, warm, ready)
        assert killed.code == -signal.SIGKILL
        assert epochs_done(warm, stage) > 0
    said = metaselect(*words, run=warm).err
    assert "Going on with epoch" in said or epochs_done(warm, "warmup/fold-2")
    metaselect(*words, run=undisturbed)
    assert results(warm) == results(undisturbed)
    assert not list((warm / ".work").rglob("*.safetensors"))
    assert not list((warm / "warmup").glob("fold-*"))


@pytest.mark.slow
def test_a_killed_selection_keeps_the_features_that_are_whole(warm: Path, tmp_path: Path) -> None:
    metaselect(*LONG_WARMUP, "--force", run=warm)
    undisturbed = Path(shutil.copytree(warm, tmp_path / "undisturbed"))
    work = warm / ".work/select/round-1"
    killed = interrupt(SELECT, warm, lambda: any(work.glob("gradients-*.parquet")))
    assert killed.code == -signal.SIGKILL
    assert not (warm / "select").exists()
    kept = sorted(work.glob("gradients-*.parquet"))
    assert 1 <= len(kept) <= 15
    said = metaselect(*SELECT, run=warm).err
    found = re.findall(r"Using the features of epoch (\d+) that exist already", said)
    assert [int(epoch) for epoch in found] == [int(path.stem[-4:]) for path in kept]
    metaselect(*SELECT, run=undisturbed)
    assert results(warm) == results(undisturbed)


@pytest.mark.slow
def test_a_killed_ingest_goes_on_where_it_stopped(tmp_path: Path) -> None:
    n = 120_000
    features = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), 4)
    labels = np.where(np.arange(n) % 2, "even", "odd")
    ids = [f"s{number:06d}" for number in range(n)]
    data = tmp_path / "many.parquet"
    pq.write_table(pa.table({"sample_id": ids, "features": rows, "label": labels}), data)
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    killed = interrupt(("ingest", data), run, (run / ".work/data/resume.json").is_file)
    assert killed.code == -signal.SIGKILL
    assert not (run / "data").exists()
    assert f"of {n}." in metaselect("ingest", data, run=run).err.partition("Resuming at sample ")[2]
    metaselect("ingest", data, run=undisturbed)
    assert results(run) == results(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, "Terminated."), (signal.SIGINT, 130, "Interrupted.")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_ends_the_command_with_a_sentence(warm: Path, number: int, code: int, said: str) -> None:
    shutil.rmtree(warm / "warmup")
    ended = interrupt(LONG_WARMUP, warm, lambda: epochs_done(warm, "warmup") >= 2, number)
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.endswith(f"{said} Run the same command again: it resumes what can be resumed.\n")
    assert "Traceback" not in ended.err
    assert "Going on with epoch" in metaselect(*LONG_WARMUP, run=warm).err


def test_other_options_after_an_interruption_start_again(warm: Path) -> None:
    shutil.rmtree(warm / "warmup")
    interrupt(LONG_WARMUP, warm, lambda: epochs_done(warm, "warmup") >= 2)
    said = metaselect(*WARMUP, run=warm).err
    assert "An unfinished warmup had other options or inputs; starting again." in said
    assert "Going on" not in said


def test_a_new_result_replaces_the_old_one_only_when_it_is_whole(finished: Path) -> None:
    before = results(finished)
    interrupt((*LONG_WARMUP, "--force"), finished, lambda: epochs_done(finished, "warmup") >= 2)
    shutil.rmtree(finished / ".work")
    assert results(finished) == before
    metaselect("verify", run=finished)


def cramped(words: tuple[object, ...], run: Path, blocks: int) -> Done:
    """The command where no file may grow beyond so many kilobytes, which it learns as from a full disk."""
    limited = f"ulimit -f {blocks}; exec {shlex.join(command(*words, run=run))}"
    ended = subprocess.run(
        ["bash", "-c", limited], capture_output=True, text=True, env=environment(), check=False
    )
    return Done(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "start", "blocks"),
    [
        ("ingest", None, 8),
        ("warmup", "data", 8),
        ("select", "warmup", 8),
        ("simulate", "select", 1),
        ("reweight", "annotate", 8),
        ("uniform", "annotate", 70),
        ("evaluate", "reweight", 8),
    ],
    ids=lambda value: value if value in PIPELINE else "",
)
def test_the_same_command_goes_on_once_there_is_room(
    finished_once: Path, tmp_path: Path, name: str, start: str | None, blocks: int
) -> None:
    run = tmp_path / "run"
    stages = ["data", "warmup", "select", "annotate", "reweight", "evaluate"]
    if start is not None:
        shutil.copytree(finished_once / "run", run, ignore=shutil.ignore_patterns("export"))
        for later in stages[stages.index(start) + 1 :]:
            shutil.rmtree(run / later)
    before = results(run)
    full = cramped(PIPELINE[name], run, blocks)
    assert full.code == 5, full
    assert full.out == ""
    assert f"Error: The disk is full while writing {run}" in full.err
    assert "Traceback" not in full.err
    after = {path: content for path, content in results(run).items() if not path.startswith(".work/")}
    if name == "simulate":
        after.pop("annotate/votes.csv")  # grows by appending; a torn last line is ignored
        after.pop("annotate/imports.csv")  # a row comes before its votes; without any it means nothing
    assert after == before
    metaselect(*PIPELINE[name], run=run)
    metaselect("verify", run=run)
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp") or "resume" in path.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    run = small_disk / "run"
    metaselect(*PIPELINE["ingest"], run=run)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 50_000))
    full = metaselect(*WARMUP, run=run, code=5)
    assert f"The disk is full while writing {run}" in full.err
    assert not (run / "warmup").exists()
    ballast.unlink()
    metaselect(*WARMUP, run=run)


@pytest.mark.parametrize("place", ["file/run", "/proc/metaselect", "x" * 300], ids=["file", "proc", "long"])
def test_a_place_where_no_folder_can_be_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    refused = metaselect("ingest", TRAIN, "--limit", LIMIT, run=tmp_path / place, code=2).err
    assert place in refused
    assert "Name another folder." in refused


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(finished: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert str(closed) in metaselect("ingest", TRAIN, run=closed / "run", code=5).err
    finished.chmod(0o500)
    metaselect("status", run=finished)  # reading needs no more
    assert "No permission" in metaselect(*UNIFORM, "--name", "other", run=finished, code=5).err
    finished.chmod(0o700)


def test_a_listener_that_goes_away_does_not_stop_the_work(warm: Path) -> None:
    """`2>&1 | head -1` must neither end the command early nor call half the work done."""
    shutil.rmtree(warm / "warmup")
    both = f"{shlex.join(command(*WARMUP, run=warm))} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", both], capture_output=True, text=True, env=environment(), check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "No GPU found: running on the CPU.\n")
    assert (warm / "warmup/stage.json").is_file()


@pytest.mark.parametrize("words", [("--help",), ("status",), ("annotate", "status")])
def test_a_reader_that_goes_away_is_no_error(finished: Path, words: tuple[str, ...]) -> None:
    where = [] if words[0] == "--help" else ["--run", str(finished)]
    shown = f"{shlex.join([*command(*words), *where])} | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", shown], capture_output=True, text=True, env=environment(), check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("name", [".model.json.tmp", ".tmpHWv3xh", "checkpoints/.tmpHWv3xh"])
def test_temporary_files_of_a_killed_process_are_no_outputs(
    tmp_path: Path, name: str, reporter: Listener
) -> None:
    """Also those that safetensors writes under names of its own."""
    stage, key = Stage(tmp_path, "warmup"), StageKey({}, {})

    def killed() -> None:
        with stage.working(key, reporter) as work:
            (work.folder / "checkpoints").mkdir()
            (work.folder / name).write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        killed()
    with stage.working(key, reporter) as work:
        assert work.resumed
        (work.folder / "checkpoints/epoch-0001.safetensors").write_bytes(b"whole")
    assert list(stage.require().outputs) == ["checkpoints/epoch-0001.safetensors"]
    assert not (tmp_path / "warmup" / name).exists()
