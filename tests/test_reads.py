"""How often a command reads the files of a run: what does not change is read once and handed on."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import PIPELINE, environment

COUNT = """
import collections, json, sys
opened = collections.Counter()

def count(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and (arguments[1] or "").startswith("r"):
        opened[arguments[0]] += 1

sys.addaudithook(count)
from metaselect.cli.main import main
code = main(sys.argv[1:])
print(json.dumps([code, opened]), file=sys.stderr)
"""
ONCE = ("run.json", "data/stage.json", "warmup/stage.json", "select/round-1/stage.json", "data/preprocess.json",
        "annotate/votes.csv", "annotate/exports.csv", "select/round-1/selected.csv")  # fmt: skip


def reads(run: Path, *words: object) -> dict[str, int]:
    """How often a command opens each file of the run to read it; it runs in a process of its own."""
    time.sleep(0.2)  # a file that was just written is read again each time
    line = [sys.executable, "-c", COUNT, *map(str, words), "--run", str(run)]
    ended = subprocess.run(line, capture_output=True, text=True, env=environment(), check=True)
    code, opened = json.loads(ended.stderr.splitlines()[-1])
    assert code == 0, ended.stderr
    below = f"{run}/"
    return {name.removeprefix(below): count for name, count in opened.items() if name.startswith(below)}


@pytest.mark.parametrize("words", [("status",), ("annotate", "status"), ("select",), ("warmup",), ("reweight",)],
                         ids=" ".join)  # fmt: skip
def test_a_command_reads_a_file_once(finished: Path, words: tuple[str, ...]) -> None:
    arguments = PIPELINE.get(words[0], words)
    counts = reads(finished, *arguments)
    assert counts["run.json"] == 1
    assert {name: counts[name] for name in ONCE if counts.get(name, 0) > 1} == {}


def test_evaluate_reads_each_model_once(finished: Path) -> None:
    counts = reads(finished, *PIPELINE["evaluate"], "--name", "again")
    assert {
        name: counts[name] for name in (*ONCE, "reweight/auto/model.json") if counts.get(name, 0) > 1
    } == {}
