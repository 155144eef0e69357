"""Several processes of torchrun: what they compute is what one computes, and how they end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import rank_steps
import torch
from command_line import BUDGET, EVALUATE, Done, environment, metaselect, tree
from safetensors.torch import load_file
from torch._C._distributed_c10d import TCPStore

from metaselect import ranks
from metaselect.cli.main import ENDED_TOGETHER
from metaselect.signals import TERMINATED

pytestmark = pytest.mark.slow
STEPS = "steps.safetensors"
HERE = Path(__file__).parent
SELECTORS = ("gbc", "rbc", "k-means", "k-center", "badge", "craig")
TRAINED = ("warmup", "--epochs", 2, "--checkpoints", 2, "--batch-size", 16, "--folds", 0, "--force")
REWEIGHT = ("reweight", "--epochs", 2, "--folds", 0, "--lr", 0.02, "--method")


def torchrun(count: int, *words: object) -> list[str]:
    """The words of a process that starts others."""
    engine = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    return [*engine, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *map(str, words)]


def in_ranks(count: int, *words: object, code: int = 0) -> Done:
    """Run a program, or `-m metaselect --` and its words, in so many processes."""
    ended = subprocess.run(
        torchrun(count, *words), capture_output=True, text=True, env=environment(), timeout=200, check=False
    )
    assert ended.returncode == code, ended.stderr
    return Done(ended.returncode, ended.stdout, ended.stderr)


def run_all(count: int, lines: Sequence[Sequence[object]], folder: Path) -> Done:
    """Run command lines one after another, in so many processes; several of them also write ``STEPS``."""
    if count == 1:
        done = [metaselect(*words) for words in lines]
        return Done(0, "".join(each.out for each in done), "".join(each.err for each in done))
    file = folder / "lines.json"
    file.write_text(json.dumps([[str(word) for word in words] for words in lines]))
    return in_ranks(count, HERE / "rank_commands.py", file, folder / STEPS)


def test_a_process_of_its_own_exchanges_nothing() -> None:
    values = torch.arange(5.0)
    assert ranks.all_sum(values) is values
    assert ranks.broadcast(values) is values
    assert ranks.divide(5).joined(values) is values
    assert ranks.divide(5).own == slice(0, 5)
    assert ranks.all_sums([values]) == [values]


def test_a_division_gives_each_rank_a_share_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks.World, "size", 3)
    for count in range(3, 12):
        parts = torch.arange(count).tensor_split(3)
        for rank in range(3):
            monkeypatch.setattr(ranks.World, "rank", rank)
            assert torch.equal(torch.arange(count)[ranks.divide(count).own], parts[rank])
    assert not ranks.divide(2).is_split
    chunks = torch.split(torch.arange(10), 2)
    own, division = ranks.divide_chunks(chunks)
    assert division.sizes == (4, 4, 2)
    assert torch.equal(torch.cat(list(own)), torch.arange(10)[division.own])
    with ranks.alone():
        assert ranks.is_first()
        assert ranks.divide(5).sizes == (5,)


def test_two_ranks_take_the_steps_of_one_by_every_method(by_both: dict[int, tuple[Path, Done]]) -> None:
    """In float64: parameters, running statistics, states of the methods, logs, products, features; and choices."""
    two, one = load_file(by_both[2][0] / STEPS), rank_steps.results()
    assert len(one) > 100
    for name, expected in one.items():
        # Central differences are as exact as their step allows; what a choice depends on has the same bits.
        within = 1e-7 if "central" in name else 0 if name.startswith(("choice", "gradients")) else 1e-10
        torch.testing.assert_close(two[name], expected, rtol=within, atol=within, msg=name)
        assert two[f"same {name}"] == 1, name


@pytest.fixture(scope="module")
def by_both(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, Done]]:
    """Folders of runs by one process and by two, and what they said."""
    found = {}
    for count in (1, 2):
        folder = tmp_path_factory.mktemp(f"ranks{count}")
        start = finished_once / "run"
        lines: list[list[object]] = []
        for method in SELECTORS:
            run = folder / method
            for name in ("data", "warmup"):
                shutil.copytree(start / name, run / name)
            shutil.copy2(start / "run.json", run)
            lines.append(["select", "--budget", BUDGET, "--method", method, "--run", run])
        # By the features that are there already.
        lines.append(["select", "--budget", BUDGET, "--method", "rbc-k", "--force", "--run", folder / "rbc"])
        run = folder / "trained"
        shutil.copytree(start, run)
        for name in ("select", "reweight", "evaluate", "annotate"):
            shutil.rmtree(run / name)
        lines.append([*TRAINED, "--run", run])
        for name in ("select", "annotate"):
            shutil.copytree(start / name, run / name)
        lines += [[*REWEIGHT, method, "--run", run] for method in ("direct", "uniform")]
        lines.append([*EVALUATE, "--run", run])
        found[count] = folder, run_all(count, lines, folder)
    return found


@pytest.mark.parametrize("method", SELECTORS)
def test_two_ranks_choose_what_one_chooses(method: str, by_both: dict[int, tuple[Path, Done]]) -> None:
    """The same bytes: features, clusters and choice."""
    one, two = (tree(folder / method / "select", leave=("stage.json",)) for folder, _ in by_both.values())
    assert two.keys() == one.keys()
    assert [name for name in one if one[name] != two[name]] == []
    record = json.loads((by_both[2][0] / method / "select/round-1/stage.json").read_text())
    assert record["details"]["processes"] == 2


def test_two_ranks_train_what_one_trains(by_both: dict[int, tuple[Path, Done]]) -> None:
    """To rounding in float32, through the command line; `tests/rank_steps.py` is the exact comparison."""
    one, two = (folder / "trained" for folder, _ in by_both.values())
    last = "warmup/checkpoints/epoch-0002.safetensors"
    for name in (last, "reweight/direct/model.safetensors", "reweight/uniform/model.safetensors"):
        expected, found = load_file(one / name), load_file(two / name)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4, msg=f"{name}: {key}")
    columns = (
        pq.read_table(run / "reweight/direct/weights.parquet")["weight"].to_numpy() for run in (one, two)
    )
    assert abs(next(columns) - next(columns)).max() < 1e-3
    metrics: list[Any] = [json.loads((run / "evaluate/test/metrics.json").read_text()) for run in (one, two)]
    top = [each["warmup"]["test_accuracy"] for each in metrics]
    assert top[1] == pytest.approx(top[0], abs=0.01)
    assert sorted(tree(one)) == sorted(tree(two))


def test_only_the_first_rank_speaks(by_both: dict[int, tuple[Path, Done]]) -> None:
    (folder, alone), (other, together) = by_both.values()
    for done, where in ((alone, folder), (together, other)):
        assert done.out.count(f"{where / 'gbc'}/select/round-1/selected.csv") == 1
    assert together.out.count("\n") == alone.out.count("\n")


def test_a_refused_command_says_so_once() -> None:
    """Whichever rank comes first says it, and the code of each is that of the command."""
    done = in_ranks(2, "-m", "metaselect", "--", "status", code=1)
    assert done.err.count("metaselect status runs in one process.") == 1
    assert re.findall(r"exitcode +: (-?\d+)", done.err) == ["2", "2"]


def test_a_killed_rank_ends_the_others_and_one_process_goes_on(warm: Path) -> None:
    words = ("warmup", "--epochs", 40, "--checkpoints", 2, "--batch-size", 16, "--folds", 0, "--force")
    state = warm / ".work/warmup/resume.safetensors"
    process = subprocess.Popen(
        torchrun(2, "-m", "metaselect", "--", *words, "--run", warm),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        while not state.is_file():
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        os.kill(child_of_rank(process.pid, 1), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    ours, _, engines = err.partition("closing signal SIGTERM") if "closing" in err else (err, "", err)
    assert err.count(ENDED_TOGETHER) == 1
    assert "Traceback" not in ours.partition("torch/distributed/elastic")[0]
    assert sorted(re.findall(r"exitcode +: (-?\d+)", engines)) == ["-9", "143"]
    done = metaselect(*words, run=warm)
    assert "Going on with epoch" in done.err
    assert (warm / "warmup/checkpoints/epoch-0040.safetensors").is_file()


def test_a_rank_that_is_killed_while_all_join_leaves_no_other_waiting(tmp_path: Path) -> None:
    """torch waits for the address of the killed one, and runs no handler of Python meanwhile."""
    store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    whole = environment() | place | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "test"}
    killed = (
        "import os, torch.distributed as d; d.init_process_group = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        "from metaselect import torchrun; torchrun.start()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, *words], env=whole | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank, words in enumerate((["-c", killed], ["-m", "metaselect", "warmup", "--run", str(tmp_path)]))
    ]
    try:
        assert processes[0].wait(60) == -signal.SIGKILL
        time.sleep(0.5)  # until the other one waits
        processes[1].terminate()
        _, err = processes[1].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[1].returncode == TERMINATED
    assert err.count("Terminated. Run the same command again") == 1


IMPORTING = """
import os, sys, time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "metaselect.stages.select.select":
            if os.environ["RANK"] == "0":
                os.kill(os.getpid(), 9)
            time.sleep(60)

sys.meta_path.insert(0, Finder())
from metaselect.__main__ import run
sys.exit(run())
"""


def test_a_rank_that_imports_while_another_is_killed_says_why_it_ends(tmp_path: Path) -> None:
    (tmp_path / "importing.py").write_text(IMPORTING)
    words = ("select", "--budget", 5, "--run", tmp_path / "run")
    err = in_ranks(2, tmp_path / "importing.py", "--", *words, code=1).err
    assert err.count("Terminated. Run the same command again") == 1
    assert sorted(re.findall(r"exitcode +: (-?\d+)", err)) == ["-9", "143"]


def child_of_rank(parent: int, rank: int) -> int:
    """The process that torchrun, the process ``parent``, has started as this rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = [pid for pid in children if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text()]
    return int(found[0])
