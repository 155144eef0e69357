"""`metaselect select`."""

from typing import Annotated, Literal

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.shared import (
    Device,
    DeviceOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    MethodOption,
    ProgressOption,
    RunOption,
    SeedOption,
    SelectMethod,
    finish,
    show_plan,
)
from metaselect.options import SelectOptions
from metaselect.run import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(select)


def select(
    run: RunOption = None,
    budget: Annotated[int | None, typer.Option(help="Labels to buy in this round.")] = None,
    method: Annotated[SelectMethod, typer.Option(help="How to choose.")] = SelectMethod("rbc"),
    option: MethodOption = None,
    round_: Annotated[
        Literal["next"] | None,
        typer.Option("--round", help="Open a new round.", show_default="the latest, or the first"),
    ] = None,
    discard_round: Annotated[
        int | None,
        typer.Option(
            metavar="K", min=1, help="Put the latest round and its answers aside, and do nothing else."
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Find the samples whose labels are worth paying for.

    Examples:
        metaselect select --run RUN --budget 50

        metaselect select --run RUN --budget 20 --method rbc --option starts=3

        metaselect select --run RUN --budget 10 --round next

        metaselect select --run RUN --discard-round 2
    """
    console = Console(progress, as_json=as_json)
    options = SelectOptions(
        budget=budget,
        method=method,
        option=tuple(option or ()),
        round=round_,
        seed=seed,
        device=device,
        force=force,
        dry_run=dry_run,
    )
    place = Run.at(run)
    if discard_round is not None:
        from metaselect.stages.discard import discard_round as run_discard

        finish(console, run_discard(place, discard_round, console))
        return
    from metaselect.stages.select import select as run_select

    outcome = run_select(place, options, console)
    if "needs" in outcome.result:
        show_plan(console, outcome)
        return
    result = outcome.result
    console.line(
        f"{place.path(str(result['folder']))}/selected.csv: {result['selected']} samples chosen by {method}"
    )
    console.note(f"Next: metaselect annotate export {place.flag}")
    finish(console, outcome)
