"""What is documented: help with examples, rows of the pages in docs/, and how fast help comes."""

import json
import re
import resource
import shlex
import statistics
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import command, environment, metaselect

import metaselect as package
from metaselect.cli.main import app
from metaselect.registry import MODELS, REWEIGHTERS, SELECTORS
from metaselect.run.artefacts import ARTEFACTS

DOCS = Path(__file__).resolve().parents[1] / "docs"
ROWS = {"selection.md": SELECTORS, "reweighting.md": REWEIGHTERS, "models.md": MODELS}
"""The page that has a row for each name of a registry."""
HEAVY = ("torch", "torchvision", "sklearn", "pyarrow", "numpy", "pandas", "PIL", "safetensors")


def commands(group: Any, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command by its words, groups too."""
    found = {words: group}
    for name, inner in getattr(group, "commands", {}).items():
        found |= commands(inner, (*words, name))
    return found


COMMANDS = commands(typer.main.get_command(app))
LEAVES = {words: made for words, made in COMMANDS.items() if not hasattr(made, "commands")}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    assert len(COMMANDS[words].help.split()) >= 4
    for parameter in COMMANDS[words].params:
        assert parameter.name in ("help", "install_completion", "show_completion") or parameter.help


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_the_examples_of_help_are_command_lines_that_parse(words: tuple[str, ...]) -> None:
    lines = [line.strip() for line in LEAVES[words].help.splitlines()]
    examples = [line for line in lines if line.startswith("metaselect ")]
    assert examples
    for line in examples:
        given = shlex.split(line.partition(" < ")[0])[1:]
        assert tuple(given[: len(words)]) == words
        LEAVES[words].make_context(" ".join(words), given[len(words) :])


def modules() -> list[str]:
    root = Path(package.__file__).parent
    paths = [path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py")]
    names = {".".join(part for part in path.parts if part != "__init__") for path in paths}
    return sorted(names - {"metaselect.__main__"})


@pytest.mark.parametrize("name", modules())
def test_every_module_imports_and_says_what_it_is_for(name: str) -> None:
    assert import_module(name).__doc__


@pytest.mark.parametrize("page", ROWS)
def test_every_method_and_model_has_a_row(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [
        name for name in ROWS[page] if not re.search(rf"^\|\s*`{re.escape(name)}`", text, re.MULTILINE)
    ] == []


def test_every_artefact_has_a_row() -> None:
    text = (DOCS / "run-directory.md").read_text(encoding="utf-8")
    rows = [f"| `{entry.template}` | {entry.content} |" for entry in ARTEFACTS]
    assert [row for row in rows if row not in text] == []


def test_every_package_has_a_line_in_contributing() -> None:
    root = Path(package.__file__).parent
    packages = {path.parent.relative_to(root.parent).as_posix() for path in root.rglob("*/__init__.py")}
    rows = re.findall(
        r"^\| `(metaselect/[^`]*)` \|", (DOCS.parent / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    assert sorted(rows) == sorted(packages)


def imported(words: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    """Which of these modules a command line imports, in a process of its own."""
    program = (
        "import json, sys; from metaselect.cli.main import main; code = main(sys.argv[1:]);"
        f"found = [name for name in {names} if name in sys.modules];"
        "print(json.dumps([code, found]), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=environment(), check=True
    )
    code, found = json.loads(ended.stderr.splitlines()[-1])
    assert code == 0, ended.stderr
    return list(found)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    assert imported((*words, "--help"), HEAVY) == []


def test_status_and_import_never_import_torch(finished: Path, tmp_path: Path) -> None:
    form = finished / "export/round-1/labels.csv"
    where = ("--run", str(finished))
    for words in (("status",), ("verify",), ("annotate", "import", str(form)), ("annotate", "status")):
        assert imported((*words, *where), ("torch", "torchvision", "sklearn")) == []


@pytest.mark.slow
def test_help_comes_within_half_a_second() -> None:
    """Seconds of the processor, which is all that help needs: those of the clock would judge its other work too."""
    seconds = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command("--help"), capture_output=True, env=environment(), check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(seconds) < 0.5


def test_the_version_is_the_packages() -> None:
    assert metaselect("--version").out == f"metaselect {package.__version__}\n"
