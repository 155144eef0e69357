"""What several commands print of their result, and how a command ends."""

from textwrap import wrap
from typing import Any

import typer

from metaselect.cli.console import Console
from metaselect.records import Outcome
from metaselect.registry import describe


def show_plan(console: Console, outcome: Outcome) -> None:
    """What --dry-run found, for people, and the end of the command."""
    for part in ("options", "needs"):
        found = outcome.result[part]
        assert isinstance(found, dict)
        console.table((part, "value"), [(name, str(value)) for name, value in found.items()])
    finish(console, outcome)


def show_options(console: Console, method: str, path: str) -> None:
    """What `--option help` prints: the fields of a method, their defaults and meanings."""
    found = describe(path)
    for name, default, meaning in found:
        console.line(f"{name}={default}")
        for line in wrap(meaning, 100):
            console.line(f"    {line}")
    if not found:
        console.line(f"{method} has no options.")
    console.result(
        {"options": {name: {"default": default, "meaning": meaning} for name, default, meaning in found}}
    )


def show_noise(console: Console, found: Any) -> None:
    """A line with what the control samples say, where there are any.

    Args:
        console: prints it.
        found: the fields of a ``NoiseEstimate`` as ``--json`` has them, or None.
    """
    if found:
        from metaselect.annotation.quality.noise_estimate import NoiseEstimate

        console.line(NoiseEstimate(**found).sentence())


def finish(console: Console, outcome: Outcome) -> None:
    """Print the JSON result and leave with the right code."""
    console.result(outcome.result, ok=not outcome.unmet)
    if outcome.unmet:
        console.warn(outcome.unmet)
        raise typer.Exit(1)
