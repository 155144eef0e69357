"""What is documented: help with examples, rows of the pages in docs/, and how fast help comes."""

import json
import re
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import command, environment, metaselect, run_process
from data_makers import pictures, write_images

import metaselect as package
from metaselect.cli.main import CLICK_USAGE_ERROR, app
from metaselect.registry import ENCODERS, MODELS, REWEIGHTERS, SELECTORS
from metaselect.run.stage_names import ARTEFACTS

DOCS = Path(__file__).resolve().parents[1] / "docs"
ROWS = {
    "selection.md": SELECTORS,
    "reweighting.md": REWEIGHTERS,
    "models.md": MODELS,
    "encoders.md": ENCODERS,
}
"""The page that has a row for each name of a registry."""
HEAVY = (
    "torch",
    "torchvision",
    "sklearn",
    "pyarrow",
    "numpy",
    "pandas",
    "PIL",
    "safetensors",
    "matplotlib",
    "jinja2",
)


def commands(group: Any, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command by its words, groups too."""
    found = {words: group}
    for name, inner in getattr(group, "commands", {}).items():
        found |= commands(inner, (*words, name))
    return found


COMMANDS = commands(typer.main.get_command(app))
LEAVES = {words: made for words, made in COMMANDS.items() if not hasattr(made, "commands")}


def test_every_command_and_option_has_help() -> None:
    generated = ("help", "install_completion", "show_completion")
    faults = [" ".join(words) for words, made in COMMANDS.items() if len(made.help.split()) < 4]
    faults += [
        f"{' '.join(words)}: {parameter.name}"
        for words, made in COMMANDS.items()
        for parameter in made.params
        if parameter.name not in generated and not parameter.help
    ]
    assert faults == []


def test_the_examples_of_help_are_command_lines_that_parse() -> None:
    faults = []
    for words, made in LEAVES.items():
        lines = [line.strip() for line in made.help.splitlines()]
        examples = [line for line in lines if line.startswith("metaselect ")]
        if not examples:
            faults.append((words, "no example"))
        for line in examples:
            given = shlex.split(line.partition(" < ")[0])[1:]
            try:
                made.make_context(" ".join(words), given[len(words) :])
            except CLICK_USAGE_ERROR as error:
                faults.append((words, f"{line}: {error}"))
            if tuple(given[: len(words)]) != words:
                faults.append((words, line))
    assert faults == []


def modules() -> list[str]:
    root = Path(package.__file__).parent
    paths = [path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py")]
    names = {".".join(part for part in path.parts if part != "__init__") for path in paths}
    return sorted(names - {"metaselect.__main__"})


def test_every_module_imports_and_says_what_it_is_for() -> None:
    assert [name for name in modules() if not import_module(name).__doc__] == []


@pytest.mark.parametrize("page", ROWS)
def test_every_method_and_model_has_a_row(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [
        name for name in ROWS[page] if not re.search(rf"^\|\s*`{re.escape(name)}[:`]", text, re.MULTILINE)
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


IMPORTED = """
import json, sys
from metaselect.cli.main import main

names, command_lines = map(json.loads, sys.argv[1:])
faults = [["the command line", name] for name in names if name in sys.modules]
for words in command_lines:
    before = set(sys.modules)
    code = main(words)
    faults += [[words, code]] if code else []
    faults += [[words, name] for name in names if name in sys.modules and name not in before]
print(json.dumps(faults), file=sys.stderr)
"""


def imported(names: Sequence[str], command_lines: Sequence[Sequence[str]]) -> list[object]:
    """Which of these modules the command lines import, in one process of their own; and which of them fail."""
    words = [json.dumps(names), json.dumps(command_lines)]
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return list(json.loads(ended.stderr.splitlines()[-1]))


def test_help_imports_nothing_heavy() -> None:
    assert imported(HEAVY, [[*words, "--help"] for words in COMMANDS]) == []


def test_status_and_import_never_import_torch(finished: Path) -> None:
    form, where = finished / "export/round-1/labels.csv", ["--run", str(finished)]
    words = (["status"], ["verify"], ["annotate", "import", str(form)], ["annotate", "status"])
    assert imported(("torch", "torchvision", "sklearn"), [[*each, *where] for each in words]) == []


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
    assert run_process("--version").out == f"metaselect {package.__version__}\n"


@pytest.mark.parametrize("words", [(), ("reweight",), ("annotate",), ("annotate", "export")])
def test_short_flags_are_the_long_ones(words: tuple[str, ...]) -> None:
    assert metaselect(*words, "-h").out == metaselect(*words, "--help").out
    assert metaselect("-V").out == metaselect("--version").out


@pytest.mark.parametrize("words", [(), *COMMANDS])
def test_help_is_readable_at_80_columns(words: tuple[str, ...]) -> None:
    """Nothing is wider, and texts have more than half of the width."""
    shown = metaselect(*words, "--help", env={"COLUMNS": "80"}).out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "<int>" not in shown
    assert "(auto" not in shown
    texts = [len(line) - len(line.lstrip()) for line in lines[3:] if line.startswith(" " * 8)]
    assert max(texts, default=0) <= 36


def test_quiet_leaves_warnings_alone(tmp_path: Path) -> None:
    data = write_images(tmp_path / "d", pictures(8, ("cat", "dog")))
    loud = metaselect("ingest", data, run=tmp_path / "loud")
    quiet = metaselect("ingest", data, "--quiet", run=tmp_path / "quiet")
    assert "Next: " in loud.err
    assert quiet.err == ""
    assert quiet.out.replace(str(tmp_path / "quiet"), str(tmp_path / "loud")) == loud.out
    (data / "cat/twin.png").write_bytes(next((data / "cat").glob("*.png")).read_bytes())
    again = metaselect("ingest", data, "-q", run=tmp_path / "twins")
    assert again.err.startswith("Warning: 2 samples share their content")
    assert len(again.err.splitlines()) == 1
