"""`metaselect verify`."""

import typer

from metaselect.cli.console import Console
from metaselect.cli.shared import JsonOption, RunOption, finish
from metaselect.run import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(run: RunOption = None, as_json: JsonOption = False) -> None:
    """Hash every artefact of the run and compare with what its stage wrote.

    Examples:
        metaselect verify --run RUN

        metaselect verify --run RUN --json
    """
    console = Console(as_json=as_json)
    place = Run.at(run)
    from metaselect.stages.status import verify as run_verify

    outcome = run_verify(place, console)
    console.line(f"{outcome.result['artefacts']} artefacts are as they were written.")
    finish(console, outcome)
