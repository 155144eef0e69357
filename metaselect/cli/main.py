"""The program: commands, their order, and the one place where an exception becomes an exit code."""

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from metaselect import __version__
from metaselect.cli.console import Console
from metaselect.errors import MetaSelectError, ResourceError, UsageError
from metaselect.signals import INTERRUPTED, SENTENCES, TERMINATED, Terminated, unwinding
from metaselect.stages.table import STAGES

# Typer carries its own copy of Click, so this is the only name of its base of all usage errors.
USAGE_BASE: type[Exception] = typer.BadParameter.__mro__[2]

ORDER = (*(entry.command for entry in STAGES), "status", "verify", "corrupt")


class InOrder(TyperGroup):
    """Lists the commands in the order of the work."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, as ``ORDER`` has them."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="metaselect",
    cls=InOrder,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=(
        "Label-budgeted data cleaning: find the few samples worth paying for, learn a weight for all others.\n\n"
        "    metaselect warmup DATA --run RUN\n\n"
        "    metaselect select --run RUN --budget 20\n\n"
        "    metaselect annotate export --run RUN        (people fill in the CSV)\n\n"
        "    metaselect annotate import FILE --run RUN\n\n"
        "    metaselect reweight --run RUN\n\n"
        "    metaselect evaluate TEST --run RUN\n"
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"metaselect {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")
    ] = False,
) -> None:
    """Holds the options that stand before a command."""
    del version, debug


def _register() -> None:
    from metaselect.cli import corrupt, evaluate, ingest, reweight, select, status, verify, warmup
    from metaselect.cli.annotate import forms as annotate
    from metaselect.cli.annotate import serve

    for module in (ingest, warmup, select, annotate, serve, reweight, evaluate, status, verify, corrupt):
        module.register(app)


_register()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0, 1, 2, 3, 4, 5, 70, 130 or 143."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(as_json="--json" in given)
    try:
        with unwinding():
            command: Any = typer.main.get_command(app)
            code = command.main(given, prog_name="metaselect", standalone_mode=False)
            sys.stdout.flush()
        if code == INTERRUPTED:  # Typer makes this of a KeyboardInterrupt
            raise KeyboardInterrupt
        return int(code or 0)
    except MetaSelectError as error:
        return _fail(console, error)
    except USAGE_BASE as error:
        return _fail(console, _usage(error))
    except (KeyboardInterrupt, typer.Abort):
        console.note(SENTENCES[signal.SIGINT])
        return INTERRUPTED
    except Terminated:
        console.note(SENTENCES[signal.SIGTERM])
        return TERMINATED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        return 0
    except SystemExit as left:  # shell completion; or Rich, when the reader of its help has gone
        return int(left.code or 0) if "_METASELECT_COMPLETE" in os.environ else 0
    except Exception as error:
        known = _resource(error)
        if known:
            return _fail(console, known)
        if "--debug" in given:
            traceback.print_exc()
        return _fail(console, _bug(error, given))


def _fail(console: Console, error: MetaSelectError) -> int:
    console.error(error)
    return error.exit_code


def _usage(error: Any) -> UsageError:
    context = getattr(error, "ctx", None)
    hint = f"See {context.command_path} --help" if context is not None else "See metaselect --help"
    message = error.format_message().replace(
        "Value error, ", ""
    )  # the type's name, which Typer puts before a choice
    return UsageError(message or "No command was named.", hint)


def _resource(error: Exception) -> ResourceError | None:
    """The error as one of memory or disk, if that is what it is."""
    text = str(error)
    # safetensors raises an error of its own for what the system says.
    found = re.search(r"\(os error (\d+)\)", text)
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    name = getattr(error, "filename", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f" while writing {name}" if name else ""
        return ResourceError(f"The disk is full{where}.", "Make room; the same command then goes on.")
    # torch raises a RuntimeError for the CPU, a subclass of it for CUDA; neither can be imported here.
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return ResourceError(
            "Out of memory.", "Close other programs; for warmup and reweight, try a smaller --batch-size."
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResourceError(f"No permission for {name}.", "Check the folder's owner and mode.")
    return None


def _bug(error: Exception, given: Sequence[str]) -> MetaSelectError:
    from metaselect.cli.log import log_traceback

    place = log_traceback(given)
    where = (
        f" The traceback is in {place}."
        if place
        else " Add --debug (before the command) to see the traceback."
    )
    return MetaSelectError(f"This is a bug in MetaSelect: {type(error).__name__}: {error}.{where}")
