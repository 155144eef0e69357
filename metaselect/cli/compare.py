"""`metaselect compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaselect.cli.console import WIDTH, Console
from metaselect.cli.flags import OUTPUT, JsonOption, QuietOption
from metaselect.cli.results import finish, require_file_names
from metaselect.records import Outcome
from metaselect.run.files import write_csv, write_text
from metaselect.run.layout import Run

if TYPE_CHECKING:
    from metaselect.metrics.paired import PairedDifference
    from metaselect.report.comparison import Group, Row


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories, evaluated on the same test set.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model of each run: warmup or the name of a re-weighting.",
            show_default="the one that evaluate says to take",
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the evaluation, in one of the runs.",
            show_default="the only test set that all have",
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write the rows as CSV.", rich_help_panel=OUTPUT)
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw accuracy against bought labels.", rich_help_panel=OUTPUT),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the models of several runs in one table, each beside its control.

    Examples:
        metaselect compare run-1 run-2 run-3

        metaselect compare run-* --csv runs.csv --figure runs.svg
    """
    console = Console(as_json=as_json, quiet=quiet)
    require_file_names(csv)
    require_file_names(figure, suffix=".svg")
    from metaselect.report.comparison import COLUMNS, csv_rows, grouped, printed, repeated_seeds
    from metaselect.stages.compare import compare as run_compare

    rows, groups = grouped(run_compare([Run.at(run) for run in runs], test, model, console))
    for first, again in repeated_seeds(rows):
        console.warn(
            f"{again.run} has the settings and the seed of {first.run}: it is no repetition, so that "
            f"its {again.model} does not count in group {again.group}."
        )
    repeated = any(group.n > 1 for group in groups)
    _print_rows(console, rows, with_group=repeated)
    if repeated:
        _print_groups(console, groups)
    if csv is not None:
        write_csv(csv, COLUMNS, csv_rows(rows))
    if figure is not None:
        from metaselect.report.comparison_figure import comparison_svg

        write_text(figure, comparison_svg(rows, groups))
    finish(console, Outcome(printed(rows, groups)))


def _print_rows(console: Console, rows: "Sequence[Row]", *, with_group: bool) -> None:
    """Print a line for each model; the highest accuracy has a star."""
    header = ["", "run", "model", "bought", "selector", "seed", "accuracy %", "balanced", "to control"]
    cells = [
        [
            "*" if row.best else "",
            row.run,
            row.model if row.model == row.method else f"{row.model} ({row.method})",
            str(row.bought),
            row.selector or "-",
            row.seed,
            _with_interval(row.accuracy, row.low, row.high, ".1f"),
            _percent(row.balanced_accuracy, ".1f"),
            "control" if "control" in row.role else _difference(row.to_control),
        ]
        for row in rows
    ]
    if with_group:
        header.append("group")
        cells = [[*line, str(row.group)] for line, row in zip(cells, rows, strict=True)]
    console.table(header, cells, width=WIDTH)
    console.line("* the highest accuracy; ranges: 95 % intervals; to control: points")


def _print_groups(console: Console, groups: "Sequence[Group]") -> None:
    """Print a line for each group; the highest mean has a star."""
    console.table(
        ("", "group", "method", "selector", "bought", "n", "mean %", "sd", "to group 1", "pairs"),
        [
            (
                "*" if group.best else "",
                str(group.number),
                group.method,
                group.selector or "-",
                str(group.bought),
                str(group.n),
                _percent(group.mean, ".2f"),
                _percent(group.standard_deviation, ".2f"),
                _difference(group.to_first),
                "-" if group.number == 1 else str(group.pairs),
            )
            for group in groups
        ],
        title="Runs that differ by the seed alone:",
        width=WIDTH,
    )
    console.line("to group 1: mean difference over the seeds of both, points; Student's interval")


def _difference(difference: "PairedDifference | None") -> str:
    return "-" if difference is None else _with_interval(*difference[:1], *difference[2:], "+.1f")


def _with_interval(value: float | None, low: float | None, high: float | None, form: str) -> str:
    if low is None or high is None:
        return _percent(value, form)
    return f"{_percent(value, form)} {_percent(low, form)}..{_percent(high, form)}"


def _percent(share: float | None, form: str) -> str:
    return "-" if share is None else format(100 * share, form)
