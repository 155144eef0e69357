"""Printing that several commands share, and the end of a command."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import typer

from metaselect.cli.console import Console
from metaselect.errors import UsageError
from metaselect.records import Outcome
from metaselect.registry import describe


def print_dry_run(console: Console, outcome: Outcome) -> None:
    """Print the resolved options and the sizes of --dry-run as tables, and end the command."""
    for part in ("options", "needs"):
        values = outcome.result[part]
        assert isinstance(values, dict)
        console.table((part, "value"), [(name, str(value)) for name, value in values.items()])
    finish(console, outcome)


def print_method_options(console: Console, method: str, path: str) -> None:
    """Print what `--option help` asks for: the options of a method with their defaults and meanings."""
    described = describe(path)
    for name, default, meaning in described:
        console.line(f"{name}={default}")
        for line in wrap(meaning, 100):
            console.line(f"    {line}")
    if not described:
        console.line(f"{method} has no options.")
    console.result(
        {"options": {name: {"default": default, "meaning": meaning} for name, default, meaning in described}}
    )


def print_noise_estimate(console: Console, estimate: Any) -> None:
    """Print the noise rate that the control samples estimate, if there are any.

    Args:
        console: of the command.
        estimate: the fields of a ``NoiseEstimate`` as ``--json`` has them, or None.
    """
    if estimate:
        from metaselect.annotation.quality.noise_estimate import NoiseEstimate

        console.line(NoiseEstimate(**estimate).sentence())


def print_model_choice(console: Console, result: Mapping[str, Any]) -> None:
    """Print the model to take, if there is one.

    Args:
        console: of the command.
        result: what ``--json`` prints; ``take`` has the fields of a ``ModelChoice``, or is None.
    """
    if result["take"]:
        from metaselect.stages.model_choice import ModelChoice

        console.line(ModelChoice(**result["take"]).sentence(result["run"]))


def print_wrong_labels(console: Console, estimate: Any) -> None:
    """Print the estimated number of wrong labels, if there is one.

    Args:
        console: of the command.
        estimate: the fields of a ``WrongLabels`` as ``--json`` has them, or None.
    """
    if estimate:
        from metaselect.stages.wrong_labels import WrongLabels

        console.line(WrongLabels(**estimate).sentence())


def require_file_names(*paths: Path | None, suffix: str = "") -> None:
    """Check that a command can write these files, before it does its work; None is allowed.

    Args:
        paths: of the files.
        suffix: what their names must end with.

    Raises:
        UsageError: one is a folder, or ends otherwise.
    """
    for path in paths:
        if path is not None and path.is_dir():
            raise UsageError(f"{path} is a folder.", "Name a file.")
        if path is not None and not path.name.endswith(suffix):
            raise UsageError(f"{path} does not end with {suffix}.", f"Name a file such as out{suffix}.")


def finish(console: Console, outcome: Outcome) -> None:
    """End a command: print the JSON result, and exit with 1 if a condition is unmet."""
    console.result(outcome.result, ok=not outcome.unmet)
    if outcome.unmet:
        console.warn(outcome.unmet)
        raise typer.Exit(1)
