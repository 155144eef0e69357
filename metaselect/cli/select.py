"""`metaselect select`."""

from typing import Annotated, Literal

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.shared import (
    Device,
    DeviceOption,
    ForceOption,
    JsonOption,
    MethodOption,
    ProgressOption,
    RunOption,
    SeedOption,
    SelectMethod,
    finish,
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
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    force: ForceOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Find the samples whose labels are worth paying for.

    Examples:
        metaselect select --run RUN --budget 50

        metaselect select --run RUN --budget 20 --method rbc --option starts=3

        metaselect select --run RUN --budget 10 --round next
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
    )
    place = Run.at(run)
    from metaselect.stages.select import select as run_select

    outcome = run_select(place, options, console)
    result = outcome.result
    console.line(
        f"{place.path(str(result['folder']))}/selected.csv: {result['selected']} samples chosen by {method}"
    )
    console.note(f"Next: metaselect annotate export {place.flag}")
    finish(console, outcome)
