"""`metaselect export`."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.flags import JsonOption, MaxMemoryOption, ProgressOption, QuietOption, RunOption
from metaselect.cli.results import finish
from metaselect.data_options import CleanedDataOptions
from metaselect.memory import limited
from metaselect.run.layout import Run


class TableFormat(StrEnum):
    """Formats of the table."""

    parquet = "parquet"
    csv = "csv"


class ImageLayout(StrEnum):
    """Layouts of the folder of images."""

    folder = "folder"
    hf = "hf"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write the data set to, new or empty.")],
    run: RunOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="Re-weighting whose weights decide.", show_default="auto, else the only one"),
    ] = None,
    keep_above: Annotated[
        float, typer.Option(metavar="WEIGHT", help="Keep given labels of this weight or more.")
    ] = 0.5,
    relabel_above: Annotated[
        float,
        typer.Option(
            metavar="PROB", help="Replace others where a label is suggested with this probability or more."
        ),
    ] = 0.9,
    drop_below: Annotated[
        float,
        typer.Option(
            metavar="WEIGHT", help="Leave out samples of a lower weight that have no such suggestion."
        ),
    ] = 0.0,
    format_: Annotated[TableFormat, typer.Option("--format", help="Of the table.")] = TableFormat.parquet,
    images: Annotated[
        ImageLayout | None,
        typer.Option(
            help="Write the images too: a folder for each class, or what Hugging Face datasets reads.",
            show_default="none",
        ),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Make symbolic links to the images instead of copies.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    max_memory: MaxMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Write the cleaned data set to a folder: every sample with its final label and a decision.

    Examples:
        metaselect export --run RUN -o cleaned

        metaselect export --run RUN -o cleaned --format csv --images folder --link

        metaselect export --run RUN -o cleaned --relabel-above 0.99 --force
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    options = CleanedDataOptions(
        name=name,
        keep_above=keep_above,
        relabel_above=relabel_above,
        drop_below=drop_below,
        format=format_.value,
        images=images and images.value,
        link=link,
        force=force,
    )
    run_directory = Run.at(run)
    from metaselect.stages.export.export import export as run_export

    with limited(max_memory, console):
        outcome = run_export(run_directory, out, options, console)
    _print_export(console, outcome.result)
    finish(console, outcome)


def _print_export(console: Console, result: Mapping[str, Any]) -> None:
    """Print the counts of the decisions, and the limits that they follow from."""
    limits = result["thresholds"]
    rules = {
        "keep": f"bought and confirmed, or of weight {limits['keep_above']:g} or more",
        "relabel": f"bought, or suggested with probability {limits['relabel_above']:g} or more",
        "drop": f"unusable, or of a weight below {limits['drop_below']:g}",
        "review": "all others; the given label stands for now",
    }
    console.table(
        ("decision", "samples", "rule"),
        [(name, f"{result['decisions'][name]}", rule) for name, rule in rules.items()],
        title=f"{result['out']}: {result['samples']} samples, by reweight/{result['reweighting']}",
    )
    if result["accepted_offers"]:
        console.line(f"Decided by accepted offers of fanout: {result['accepted_offers']} of these samples")
    console.line(
        f"Labels that are no longer the given ones: {result['changed']}, listed in {result['out']}/diff.csv"
    )
    if result["decisions"]["review"]:
        console.note(
            "What is to review keeps its given label for now, also in the folders of --images: look at it, or leave it "
            "out by the column decision of labels.parquet."
        )
