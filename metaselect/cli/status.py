"""`metaselect status`."""

from typing import Any

import typer

from metaselect.cli.console import Console
from metaselect.cli.flags import JsonOption, RunOption
from metaselect.cli.results import finish, show_noise
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(run: RunOption = None, as_json: JsonOption = False) -> None:
    """Say what is done, what is stale and why, and the next command; exit 1 when something is stale.

    Examples:
        metaselect status --run RUN

        metaselect status --run RUN --json
    """
    console = Console(as_json=as_json)
    place = Run.at(run)
    from metaselect.stages.status import status as run_status

    outcome = run_status(place, console)
    result: Any = outcome.result
    console.table(
        ("stage", "state", "why"),
        [(row["stage"], row["state"], row["why"]) for row in result["stages"]],
        title=f"{place.root}: {'?' if result['bought'] is None else result['bought']} labels bought",
    )
    show_noise(console, result["noise_estimate"])
    if result["next"]:
        console.line(f"Next: {result['next']}")
    finish(console, outcome)
