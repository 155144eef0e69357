"""Code of the user's own that the command line names as ``package.module:factory``, and the errors that it raises."""

import traceback
from importlib import import_module
from typing import Any, NamedTuple

from metaselect.errors import UsageError

AUTHORS_ERRORS = (Exception, SystemExit)
"""What code that is not ours may raise; an interruption by the user is not among it."""


class Called(NamedTuple):
    """A factory that this process has called: the flag that named it, and its name."""

    flag: str
    name: str


FACTORIES: list[Called] = []
"""The latest last; an error in their code is theirs."""


def call_factory(flag: str, name: str, *arguments: object) -> Any:
    """What ``package.module:factory`` returns.

    Args:
        flag: of the command line, such as "--model".
        name: its value.
        arguments: of the call.

    Raises:
        UsageError: it cannot be imported, or it fails.
    """
    module, _, attribute = name.partition(":")
    try:
        factory: Any = getattr(import_module(module), attribute)
    except AUTHORS_ERRORS as error:
        raise UsageError(
            f"{flag} {name} cannot be imported: {described(error)}.", "Check its name and PYTHONPATH."
        ) from error
    FACTORIES.append(Called(flag, name))
    try:
        return factory(*arguments)
    except AUTHORS_ERRORS as error:
        raise UsageError(
            f"{flag} {name}: the factory failed with {described(error)}.",
            f"It is called as {attribute}({', '.join(map(str, arguments))}).",
        ) from error


def factory_error(error: BaseException) -> UsageError | None:
    """The error as one of a factory's code, where it was raised there or in what it made; else None."""
    for flag, name in reversed(FACTORIES):
        package = name.partition(":")[0].partition(".")[0]
        for frame, line in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__name__", "").partition(".")[0] == package:
                place = f"{frame.f_code.co_filename}, line {line}"
                return UsageError(
                    f"{flag} {name} failed with {described(error)}.", f"In {place}; correct it there."
                )
    return None


def described(error: BaseException) -> str:
    """The type and the last line of an error of code that is not ours."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1].strip()}".rstrip(":. ")
