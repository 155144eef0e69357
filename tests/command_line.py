"""The command line, in the tests' process or one of its own, and one small finished run that tests copy."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from filelock import FileLock

from metaselect.cli.main import main

DATA = Path(__file__).resolve().parents[1] / "sample_data"
TRAIN, TEST, TRUTH = DATA / "train.parquet", DATA / "test.parquet", DATA / "truth.csv"
LIMIT = 200
BUDGET = 20
WARMUP = ("warmup", "--epochs", 6, "--checkpoints", 2, "--batch-size", 16)
SELECT = ("select", "--budget", BUDGET)
SIMULATE = ("annotate", "simulate", TRUTH)
REWEIGHT = ("reweight", "--epochs", 8, "--lr", 0.02)
UNIFORM = ("reweight", "--method", "uniform", "--epochs", 2)
EVALUATE = ("evaluate", TEST, "--truth", TRUTH)
PIPELINE = {
    "ingest": ("ingest", TRAIN, "--limit", LIMIT),
    "warmup": WARMUP,
    "select": SELECT,
    "export": ("annotate", "export"),
    "simulate": SIMULATE,
    "reweight": REWEIGHT,
    "uniform": UNIFORM,
    "evaluate": EVALUATE,
    "status": ("status",),
    "verify": ("verify",),
}
"""Every stage once, by a name."""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The object on stdout, which holds nothing else."""
        assert "\x1b" not in self.out
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """Of a command: one thread, so that bytes can be compared, and no run from outside."""
    kept = {name: value for name, value in os.environ.items() if name != "METASELECT_RUN"}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def command(*words: object, run: Path | None = None) -> list[str]:
    """The words of a process."""
    where = [] if run is None else ["--run", str(run)]
    return [sys.executable, "-m", "metaselect", *map(str, words), *where]


def metaselect(
    *words: object,
    run: Path | None = None,
    code: int = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
) -> Done:
    """Run a command in this process and insist on its exit code; a traceback is never right.

    It has arguments, an environment, a folder and streams of its own, as a process would have, but spares the seconds
    that a process takes to import torch. What only a process has is for ``run_process``: which modules are imported,
    signals, threads, memory, the streams of the system.
    """
    given = [str(word) for word in words] + ([] if run is None else ["--run", str(run)])
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        patch.object(sys, "argv", ["metaselect", *given]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")),
        patch.dict(os.environ, environment(**(env or {})), clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
        chdir(cwd or Path.cwd()),
    ):
        ended = main()
    written = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return checked(words, Done(ended, *written), code)


def run_process(
    *words: object,
    run: Path | None = None,
    code: int = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
) -> Done:
    """As ``metaselect``, in a process of its own."""
    ended = subprocess.run(
        command(*words, run=run),
        capture_output=True,
        text=True,
        input=stdin,
        cwd=cwd,
        env=environment(**(env or {})),
        check=False,
    )
    return checked(words, Done(ended.returncode, ended.stdout, ended.stderr), code)


def checked(words: tuple[object, ...], done: Done, code: int) -> Done:
    """What a command did, if it ended as it must."""
    shown = f"{words}: exit {done.code}\n{done.out}\n{done.err}"
    assert done.code == code, shown
    assert "Traceback" not in done.err, shown
    return done


def states(run: Path, code: int) -> dict[str, tuple[str, str]]:
    """(state, why) by stage, as `status` says."""
    result = metaselect("status", "--json", run=run, code=code).json
    assert result["ok"] is (code == 0)
    return {row["stage"]: (row["state"], row["why"] or "") for row in result["stages"]}


def tree(root: Path, *, leave: tuple[str, ...] = (".lock",)) -> dict[str, bytes]:
    """Bytes of every file below ``root``, by relative path; files of the named names are left out."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in leave
    }


def seen(root: Path) -> dict[str, tuple[int, bytes]]:
    """As ``tree``, with modification times: equal before and after a command that writes nothing."""
    return {name: ((root / name).stat().st_mtime_ns, content) for name, content in tree(root).items()}


def flip_byte(path: Path, position: int | None = None) -> None:
    """Change one byte, by default in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``run``, after all of ``PIPELINE``, and ``said.json``; shared by all workers, read only."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "said.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            said = {
                name: metaselect(*words, "--json", run=folder / "run").out for name, words in PIPELINE.items()
            }
            (folder / "said.json").write_text(json.dumps(said))
    return folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished_once / "run", tmp_path / "run"))


@pytest.fixture
def warm(finished_once: Path, tmp_path: Path) -> Path:
    """A copy of the finished run as it was after warm-up."""
    for name in ("data", "warmup"):
        shutil.copytree(finished_once / "run" / name, tmp_path / "warm" / name)
    shutil.copy2(finished_once / "run/run.json", tmp_path / "warm")
    return tmp_path / "warm"


@pytest.fixture
def bought(finished: Path) -> Path:
    """A copy of the finished run as it was before its first re-weighting."""
    for name in ("reweight", "evaluate"):
        shutil.rmtree(finished / name)
    return finished
