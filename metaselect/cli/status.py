"""`metaselect status`."""

from typing import Any

import typer

from metaselect.cli.console import Console
from metaselect.cli.flags import JsonOption, MaxMemoryOption, QuietOption, RunOption
from metaselect.cli.results import finish, print_model_choice, print_noise_estimate
from metaselect.memory import limited
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(
    run: RunOption = None,
    max_memory: MaxMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show which stages are done, which are stale and why, and the next command; exits 1 if a stage is stale.

    Examples:
        metaselect status --run RUN

        metaselect status --run RUN --json
    """
    console = Console(as_json=as_json, quiet=quiet)
    run_directory = Run.at(run)
    from metaselect.stages.status import status as run_status

    with limited(max_memory, console):
        outcome = run_status(run_directory, console)
    result: Any = outcome.result
    console.table(
        ("stage", "state", "why"),
        [(row["stage"], row["state"], row["why"] or "") for row in result["stages"]],
        title=f"{run_directory.root}: {'?' if result['bought'] is None else result['bought']} labels bought",
    )
    print_noise_estimate(console, result["noise_estimate"])
    print_model_choice(console, result)
    if result["next"]:
        console.line(f"Next: {result['next']}")
    finish(console, outcome)
