"""`metaselect ingest`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.flags import (
    INPUT,
    BadSample,
    FeatureColumns,
    ForceOption,
    IdColumn,
    ImageColumn,
    JsonOption,
    LabelColumn,
    OnBad,
    ProgressOption,
    RunOption,
    SeedOption,
)
from metaselect.cli.results import finish
from metaselect.options import IngestOptions
from metaselect.records import Json
from metaselect.run.layout import IDS_ALONE, Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ingest)


def ingest(
    data: Annotated[
        Path,
        typer.Argument(
            help="DATA/CLASS/* images, a .csv or .parquet manifest, or a folder of .parquet files."
        ),
    ],
    run: RunOption = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Pixels, height and width alike.",
            show_default="the images' own, else the median, at most 224",
            rich_help_panel=INPUT,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Take a seeded subset of this many samples.", rich_help_panel=INPUT)
    ] = None,
    seed: SeedOption = 0,
    id_column: IdColumn = None,
    label_column: LabelColumn = "label",
    image_column: ImageColumn = "image",
    feature_columns: FeatureColumns = None,
    on_bad_sample: BadSample = OnBad.stop,
    force: ForceOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Read DATA into a run directory (`warmup DATA` does it by itself).

    Example:
        metaselect ingest train.parquet --run RUN
    """
    console = Console(progress, as_json=as_json)
    options = IngestOptions(
        id_column=id_column,
        label_column=label_column,
        image_column=image_column,
        feature_columns=feature_columns,
        on_bad_sample=on_bad_sample,
        image_size=image_size,
        limit=limit,
        seed=seed,
        force=force,
    )
    place = Run.at(run)
    from metaselect.stages.ingest import ingest as run_ingest

    outcome = run_ingest(data, place, options, console)
    console.line(_summary(place, outcome.result))
    following = place.select_command if place.ids_alone else f"metaselect warmup {place.flag}"
    console.note(f"Next: {following}")
    finish(console, outcome)


def _summary(place: Run, result: Mapping[str, Json]) -> str:
    """One line for people."""
    classes, size = result["classes"], result["image_size"]
    assert isinstance(classes, list)
    kind = "ids and labels alone" if result["task"] == IDS_ALONE else "features"
    if isinstance(size, list):
        kind = f"images of {size[0]} x {size[1]} pixels"
    return f"{place.path('data')}: {result['n']} samples, {len(classes)} classes, {kind}"
