"""`metaselect verify`."""

from typing import Annotated

import typer

from metaselect.cli.console import Console
from metaselect.cli.flags import JsonOption, QuietOption, RunOption, TrustModelOption
from metaselect.cli.results import finish
from metaselect.records import Outcome
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(
    run: RunOption = None,
    rerun: Annotated[
        bool,
        typer.Option(
            "--rerun", help="Also run every stage again in a copy of the run, and compare the results."
        ),
    ] = False,
    trust_model: TrustModelOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check every file of the run against the hash that its stage recorded, and every image that stays encoded.

    Examples:
        metaselect verify --run RUN

        metaselect verify --run RUN --rerun

    --rerun finds files that the stages were given by relative paths from the folder where it is started.
    """
    console = Console(as_json=as_json, quiet=quiet)
    run_directory = Run.at(run, trust_model=trust_model)
    from metaselect.stages.status import verify as run_verify

    outcome = run_verify(run_directory, console)
    console.line(f"{outcome.result['artefacts']} artefacts are as they were written.")
    if outcome.result["originals"]:
        console.line(f"{outcome.result['originals']} images that stay encoded are those that were ingested.")
    if rerun:
        from metaselect.stages.rerun import rerun as run_again

        again = run_again(run_directory, console)
        recomputed = again.result["recomputed"]
        assert isinstance(recomputed, list)
        console.line(f"{len(recomputed)} stages give the same bytes when they are run again.")
        outcome = Outcome({**outcome.result, **again.result})
    finish(console, outcome)
