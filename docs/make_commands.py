"""Write commands.md, the reference of the command line, from the commands themselves.

python docs/make_commands.py
"""

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from typer.models import ArgumentInfo

from metaselect.cli.main import COMMAND_ORDER, app
from metaselect.options import key_options
from metaselect.registry import load
from metaselect.stages.table import STAGES, StageEntry

PAGE = Path(__file__).with_name("commands.md")
METAVARS = {Path: "PATH", int: "N", float: "X", str: "TEXT"}
INTRODUCTION = """\
# Commands

This page is made from the commands by `python docs/make_commands.py`. `metaselect COMMAND --help` prints the same.

`metaselect --version` prints the version. `metaselect --debug COMMAND` shows the traceback of an unexpected error.
`metaselect --install-completion` lets the shell complete commands and options.
"""

STAGES_HEAD = """\
## Stages

A stage is a command that fills a folder of the run. Its result depends on the files that it reads, on the options in
the last column, and on the content of files that other options name. [Rules](rules.md#when-a-stage-is-up-to-date) says
what happens when one of them changes. `status` shows the stages in this order.

| folder | command | what it does | reads | options that its result depends on |
|---|---|---|---|---|"""

STAGES_FOOT = """\
Some options are not in the last column because they set the value of another one. `--profile` (of `select` and
`reweight`) and `--gradient` (of `select`) set options of the method, and are recorded as `option` in `stage.json`.
`--replace-unusable` adds to the `budget` that is recorded; the number that it added is recorded as `replaces`.
"""


def page() -> str:
    """The whole page."""
    sections = [_section(words, command) for words, command in commands(app)]
    return "\n".join([INTRODUCTION, _stages(), *sections])


def _stages() -> str:
    """The table of stages."""
    rows = [
        f"| `{entry.folder.template}` | `{entry.folder.command}` | {entry.summary} "
        f"| {_listed(_shortened(read.template) for read in entry.inputs)} "
        f"| {_listed(_flags(entry))} |"
        for entry in STAGES
    ]
    return "\n".join([STAGES_HEAD, *rows, "", STAGES_FOOT])


def _flags(entry: StageEntry) -> list[str]:
    """The options of a stage that are part of its key, as they are written; of annotate, which has no key, none."""
    if entry.by_people:
        return []
    names = key_options(load(entry.options)())
    return [f"--{name.replace('_', '-')}" for name in names]


def _shortened(template: str) -> str:
    """The path of an artefact; what a stage reads is told apart well enough by a star for each name."""
    return re.sub("<[^>]+>", "*", template)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names))


def commands(group: typer.Typer, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command by its words, in the order in which ``--help`` lists them."""
    found: dict[str, Any] = {}
    for command in group.registered_commands:
        assert command.callback is not None
        found[command.name or command.callback.__name__] = command.callback
    found |= {str(inner.name): inner.typer_instance for inner in group.registered_groups}
    for name in sorted(found, key=COMMAND_ORDER.index) if not words else found:
        here = (*words, name)
        if isinstance(found[name], typer.Typer):
            yield from commands(found[name], here)
        else:
            yield here, found[name]


def _section(words: tuple[str, ...], command: Callable[..., None]) -> str:
    hints = typing.get_type_hints(command, include_extras=True)
    parameters = [
        (parameter, *_taken_apart(hints[name]))
        for name, parameter in inspect.signature(command).parameters.items()
    ]
    text, examples = _help(command)
    arguments = [
        _argument(parameter, info) for parameter, _, info in parameters if isinstance(info, ArgumentInfo)
    ]
    lines = [f"## `metaselect {' '.join([*words, *arguments])}`", "", text, ""]
    if examples:
        lines += ["```text", *examples, "```", ""]
    lines += ["| | meaning | default |", "|---|---|---|"]
    lines += [_row(parameter, kind, info) for parameter, kind, info in parameters]
    return "\n".join([*lines, ""])


def _taken_apart(hint: Any) -> tuple[Any, Any]:
    """The type of a parameter without ``| None``, and what Typer is told of it."""
    kind, info = typing.get_args(hint)
    alternatives = [each for each in typing.get_args(kind) if each is not type(None)]
    optional = type(None) in typing.get_args(kind)
    return (alternatives[0] if optional else kind), info


def _help(command: Callable[..., None]) -> tuple[str, list[str]]:
    """The docstring's prose and its examples."""
    lines = inspect.cleandoc(command.__doc__ or "").splitlines()
    examples = [line.strip() for line in lines if line.strip().startswith("metaselect ")]
    prose = "\n".join(line for line in lines if not line.strip().startswith("metaselect ")).strip()
    for label in ("Examples:", "Example:"):
        prose = prose.removesuffix(label).strip()
    return _escaped(prose), examples


def _argument(parameter: inspect.Parameter, info: Any) -> str:
    name = str(info.metavar or parameter.name.upper())
    return name if parameter.default is inspect.Parameter.empty else f"[{name}]"


def _row(parameter: inspect.Parameter, kind: Any, info: Any) -> str:
    meaning = _escaped(str(info.help))
    if isinstance(info, ArgumentInfo):
        name = info.metavar or parameter.name.upper()
    else:
        name, choices = _option(parameter, kind, info)
        meaning += f" One of {', '.join(f'`{each}`' for each in choices)}." if choices else ""
        meaning += f" Environment variable: `{info.envvar}`." if info.envvar else ""
    return f"| `{name}` | {meaning} | {_default(parameter, info)} |"


def _option(parameter: inspect.Parameter, kind: Any, info: Any) -> tuple[str, list[str]]:
    """How an option is written, with its short form first, and the values that it may have."""
    flag = f"--{parameter.name.replace('_', '-')}"
    given = (
        info.default,
        *(info.param_decls or ()),
    )  # within Annotated, Typer calls the first name the default
    names = ", ".join(each for each in given if isinstance(each, str))
    names = names or (f"{flag}/--no-{flag[2:]}" if kind is bool else flag)
    if kind is bool:
        return names, []
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return f"{names} {info.metavar or 'NAME'}", [str(each.value) for each in kind]
    if typing.get_origin(kind) is typing.Literal:
        return f"{names} {info.metavar or 'NAME'}", list(typing.get_args(kind))
    (inner,) = typing.get_args(kind) or (kind,)
    return f"{names} {info.metavar or METAVARS[inner]}", []


def _default(parameter: inspect.Parameter, info: Any) -> str:
    if isinstance(info.show_default, str):
        return _escaped(info.show_default)
    if any(parameter.default is none for none in (inspect.Parameter.empty, None, False, "")):
        return ""
    return "on" if parameter.default is True else f"`{parameter.default}`"


def _escaped(text: str) -> str:
    for mark in "|*<":
        text = text.replace(mark, f"\\{mark}")
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
