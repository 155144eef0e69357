"""`metaselect fanout`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.flags import ForceOption, JsonOption, ProgressOption, QuietOption, RunOption
from metaselect.cli.results import finish
from metaselect.data_options import FanoutOptions
from metaselect.run.evaluation_artefacts import OFFERS, REVIEW
from metaselect.run.layout import Run
from metaselect.text import counted


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(fanout)


def fanout(
    run: RunOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="Re-weighting that must agree.", show_default="auto, else the only one"),
    ] = None,
    accept: Annotated[
        float | None,
        typer.Option(
            metavar="PROB",
            help="Accept offers whose label the re-weighting gives this probability or more; export follows them.",
            show_default="none is accepted",
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Offer each bought label to the other samples of its cluster.

    Examples:
        metaselect fanout --run RUN

        metaselect fanout --run RUN --accept 0.8
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    options = FanoutOptions(name=name, accept=accept, force=force)
    run_directory = Run.at(run)
    from metaselect.stages.export.fanout import fanout as run_fanout

    outcome = run_fanout(run_directory, options, console)
    _print_offers(console, outcome.result, run_directory)
    finish(console, outcome)


def _print_offers(console: Console, result: Mapping[str, Any], run: Run) -> None:
    """Print the counts, and how far such offers were right."""
    console.line(
        f"{counted(result['picks'], 'bought label was', 'bought labels were')} offered to {result['offers']} samples "
        f"of their clusters; reweight/{result['name']} agrees for {result['agreed']}, of which "
        f"{result['other_than_given']} have another given label."
    )
    checked = result["checked"]
    if checked:
        console.line(
            f"Accepted: {result['accepted']}. Suggestions so sure were right for {checked['right']} of "
            f"{checked['labels']} bought labels that the models did not see (95 % interval "
            f"{checked['low']:.0%} to {checked['high']:.0%}); of those other than the given label, for "
            f"{checked['changed_right']} of {checked['changed']}."
        )
    console.line(f"Every offer: {result['run']}/{OFFERS.path()}")
    review = f"{result['run']}/{REVIEW.path()}"
    if result["to_review"]:
        console.line(
            f"To review: {result['to_review']}, the riskiest first: {review}. As the next round: "
            f"metaselect select --round next --budget N --samples {review} {run.flag}"
        )
    console.note(f"Next: metaselect export {run.flag} -o DIR")
