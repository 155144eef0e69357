"""The program: its commands, their order, and the conversion of exceptions to exit codes."""

import errno
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from metaselect import __version__, torchrun
from metaselect.cli.console import Console
from metaselect.errors import ArtefactError, MetaSelectError, ResourceError, UsageError
from metaselect.factories import factory_error
from metaselect.signals import AGAIN, INTERRUPTED, TERMINATED, Terminated, interruption, unwinding
from metaselect.stages.table import STAGES

DISK_FAILS = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EREMOTEIO)
IN_THE_WAY = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)
ENDED_TOGETHER = f"Ended with the other processes of this command. {AGAIN}"
# Typer contains a copy of Click and does not export the base class of its usage errors, which is this one.
CLICK_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]

METAVARS = {
    "<int>": "N",
    "<int range>": "N",
    "<float>": "X",
    "<float range>": "X",
    "<str>": "TEXT",
    "<path>": "PATH",
}
"""Typer's words for the kinds of values, and ours."""
IN_RANKS = ("warmup", "select", "reweight", "evaluate")
"""The commands that several processes of torchrun run together."""
COMMAND_ORDER = (
    *(entry.command for entry in STAGES),
    "export",
    "plan",
    "explain",
    "status",
    "compare",
    "gate",
    "verify",
    "split",
    "embed",
    "corrupt",
)


class WorkflowOrder(TyperGroup):
    """A command group that lists its commands in the order of the work."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands in the order of ``COMMAND_ORDER``."""
        return sorted(super().list_commands(ctx), key=COMMAND_ORDER.index)


class SectionedHelp(TyperCommand):
    """A command whose help lists its options by section, in two columns that a terminal of 80 columns has room for."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring: prose filled to the width, command lines as they are."""
        del ctx
        with formatter.indentation():
            after_prose = False
            for paragraph in inspect.cleandoc(self.help or "").split("\n\n"):
                prose = [line for line in paragraph.splitlines() if not line.startswith(" ")]
                if prose or after_prose:
                    formatter.write_paragraph()
                if prose:
                    formatter.write_text(" ".join(prose))
                after_prose = len(prose) == len(paragraph.splitlines())
                for line in paragraph.splitlines()[len(prose) :]:
                    formatter.write(f"    {line.strip()}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and each section of options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record is not None:
                panel = getattr(parameter, "rich_help_panel", None)
                names, text = record
                for shown, metavar in METAVARS.items():
                    names = names.replace(shown, metavar)
                # Typer puts a default that is a rule into parentheses of its own.
                text = re.sub(r"\[default: \((.*)\)(?=[];])", r"[default: \1", text)
                sections.setdefault(panel or kind, []).append((names, text))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


app = typer.Typer(
    name="metaselect",
    cls=WorkflowOrder,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help=(
        "Clean a training set on a label budget: choose the few samples to label, learn a weight for all others.\n\n"
        "    metaselect warmup DATA --run RUN\n\n"
        "    metaselect select --run RUN --budget 20\n\n"
        "    metaselect annotate export --run RUN        (people fill in the CSV)\n\n"
        "    metaselect annotate import FILE --run RUN\n\n"
        "    metaselect reweight --run RUN\n\n"
        "    metaselect evaluate TEST --run RUN\n"
    ),
)


def _version(wanted: bool) -> None:
    """Print the version and exit, if --version was given."""
    if wanted:
        print(f"metaselect {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("-V", "--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")
    ] = False,
) -> None:
    """Declare the options before the command's name, and join the other processes; ``main`` reads --debug itself."""
    del version, debug
    torchrun.start()
    if torchrun.launched() and context.invoked_subcommand not in IN_RANKS:
        raise UsageError(
            f"metaselect {context.invoked_subcommand} runs in one process.",
            f"Run it without torchrun, which is for {', '.join(IN_RANKS)}.",
        )


def _register() -> None:
    """Add all commands to ``app``."""
    from metaselect.cli import compare, explain, gate, plan, reweight, select, status, verify, warmup
    from metaselect.cli.annotate import forms, serve, votes
    from metaselect.cli.annotate.group import group
    from metaselect.cli.datasets import corrupt, embed, ingest, split
    from metaselect.cli.evaluate import command as evaluate
    from metaselect.cli.labels import export, fanout

    for module in (
        *(ingest, warmup, plan, select, forms, votes, serve),
        *(reweight, evaluate, fanout, export, explain, status, compare, gate, verify, split, embed, corrupt),
    ):
        module.register(app)
    for registered in (*app.registered_commands, *group.registered_commands):
        registered.cls = SectionedHelp


_register()


@cache
def _command() -> Any:
    """The group of all commands, which takes 10 ms to make."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, ``sys.argv`` by default; returns the exit code: 0, 1, 2, 3, 4, 5, 70, 130 or 143."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(as_json="--json" in words)
    try:
        with unwinding():
            code = _command().main(words, prog_name="metaselect", standalone_mode=False)
            sys.stdout.flush()
        if code == INTERRUPTED:  # Typer returns this code for a KeyboardInterrupt
            raise KeyboardInterrupt
        return _ended(int(code or 0), lambda: None)
    except MetaSelectError as error:
        return _fail(console, error)
    except CLICK_USAGE_ERROR as error:
        return _fail(console, _usage_error(error))
    except (KeyboardInterrupt, typer.Abort):
        return _ended(INTERRUPTED, lambda: console.note(interruption(signal.SIGINT)))
    except Terminated:
        sentence = ENDED_TOGETHER if torchrun.launched() else interruption(signal.SIGTERM)
        return _ended(TERMINATED, lambda: console.note(sentence))
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else Python fails to flush it at exit
        return 0
    except (
        SystemExit
    ) as exit_request:  # shell completion; or Rich, when the pipe that reads its help is closed
        if authors := factory_error(exit_request):
            return _fail(console, authors)
        return int(exit_request.code or 0) if "_METASELECT_COMPLETE" in os.environ else 0
    except Exception as error:
        known = _system_error(error) or factory_error(error)
        if known:
            return _fail(console, known)
        if "--debug" in words:
            traceback.print_exc()
        say = partial(_say_bug, console, error, words)
        return _ended(MetaSelectError.exit_code, say)


def _fail(console: Console, error: MetaSelectError) -> int:
    """Print the error; returns its exit code."""
    return _ended(error.exit_code, lambda: console.error(error))


def _ended(code: int, say: Callable[[], None]) -> int:
    """The exit code of the command, ``code`` in one process; of several ranks, the first that ends calls ``say``."""
    if not code:
        return code
    code, is_first = torchrun.agreed_exit(code)
    if is_first:
        torchrun.speak()
        say()
    return code


def _usage_error(error: Any) -> UsageError:
    """Typer's usage error as ours, with the command whose help explains it."""
    context = getattr(error, "ctx", None)
    hint = f"See {context.command_path} --help" if context is not None else "See metaselect --help"
    message = error.format_message().replace(
        "Value error, ", ""
    )  # the type's name, which Typer puts before a choice
    if message.startswith("Usage: "):  # without a command, the error's text is the help
        print(message)
        message = "The command is missing."
    return UsageError(message, hint)


def _system_error(error: Exception) -> MetaSelectError | None:
    """The error as one of memory, disk, permission or the layout of files; None if it is none of these."""
    text = str(error)
    # safetensors wraps an OSError in an error of its own, with the number in its text.
    match = re.search(r"\(os error (\d+)\)", text)
    number = error.errno if isinstance(error, OSError) else int(match[1]) if match else None
    name = getattr(error, "filename", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f" while writing {name}" if name else ""
        return ResourceError(f"The disk is full{where}.", "Free some space; the same command then continues.")
    # torch raises a RuntimeError for the CPU, a subclass of it for CUDA; neither can be imported here.
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return ResourceError(
            "Out of memory on the GPU." if "CUDA" in text else "Out of memory.",
            "Close other programs; for warmup, reweight and embed, try a smaller --batch-size.",
        )
    target = getattr(error, "filename2", None) or name  # of a rename: what it was to become
    if number in IN_THE_WAY:
        return ArtefactError(
            f"{target}: {os.strerror(number)}.",
            "Something else stands where a file or folder of the run belongs.",
        )
    if number == errno.EXDEV:
        return ArtefactError(
            f"{name} and {target} are on different file systems.",
            "Keep a run on one file system, without links.",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResourceError(f"{os.strerror(number)}: {target}.", "Check the folder's owner and mode.")
    if number in DISK_FAILS:
        where = f": {target}" if target else ""
        return ResourceError(
            f"{os.strerror(number)}{where}.",
            "Check the disk and its connection; the same command then continues.",
        )
    if number == errno.ENOENT and target:
        return ArtefactError(
            f"{target} is missing.",
            "If something removed it while the command ran, run the same command again.",
        )
    return None


def _say_bug(console: Console, error: Exception, words: Sequence[str]) -> None:
    from metaselect.cli.log import log_traceback

    log_path = log_traceback(words)
    where = (
        f" The traceback is in {log_path}."
        if log_path
        else " Add --debug (before the command) to see the traceback."
    )
    console.error(MetaSelectError(f"This is a bug in MetaSelect: {type(error).__name__}: {error}.{where}"))
