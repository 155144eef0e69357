"""`metaselect ingest`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.datasets.flags import (
    INPUT,
    AllowOutsideOption,
    ClassesOption,
    FeatureColumnsOption,
    FeaturesOption,
    Fit,
    FitOption,
    IdColumnOption,
    ImageColumnOption,
    ImageFolderOption,
    ImageSizeOption,
    ImageSuffixOption,
    LabelColumnOption,
    OnBadSample,
    OnBadSampleOption,
    PixelRangeOption,
    SplitOption,
    Store,
    StoreOption,
    numbers_of_range,
)
from metaselect.cli.flags import (
    DryRunOption,
    ForceOption,
    JsonOption,
    MaxMemoryOption,
    ProgressOption,
    QuietOption,
    RunOption,
    SeedOption,
)
from metaselect.cli.results import finish, print_dry_run
from metaselect.data.classes import named_classes
from metaselect.data_options import ENCODED, IngestOptions
from metaselect.memory import limited
from metaselect.records import Json
from metaselect.run.layout import FEATURES, IDS_ALONE, Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ingest)


def ingest(
    data: Annotated[
        Path,
        typer.Argument(
            help="A folder with images in DATA/CLASS/*, a .csv or .parquet table, or a folder of .parquet files."
        ),
    ],
    run: RunOption = None,
    image_size: ImageSizeOption = None,
    fit: FitOption = Fit.crop,
    pixel_range: PixelRangeOption = None,
    store: StoreOption = Store.auto,
    limit: Annotated[
        int | None, typer.Option(help="Use a random subset of this many samples.", rich_help_panel=INPUT)
    ] = None,
    seed: SeedOption = 0,
    id_column: IdColumnOption = None,
    label_column: LabelColumnOption = "label",
    image_column: ImageColumnOption = "image",
    feature_columns: FeatureColumnsOption = None,
    features: FeaturesOption = None,
    on_bad_sample: OnBadSampleOption = OnBadSample.stop,
    split: SplitOption = None,
    image_folder: ImageFolderOption = None,
    image_suffix: ImageSuffixOption = "",
    allow_outside: AllowOutsideOption = False,
    classes: ClassesOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    max_memory: MaxMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Read DATA into a run directory; `warmup DATA` does this as its first step.

    Examples:
        metaselect ingest train.parquet --run RUN

        metaselect ingest train.parquet --run RUN --dry-run --max-memory 4G
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    options = IngestOptions(
        id_column=id_column,
        label_column=label_column,
        image_column=image_column,
        feature_columns=feature_columns,
        features=features,
        on_bad_sample=on_bad_sample,
        split=split,
        image_folder=image_folder,
        image_suffix=image_suffix,
        allow_outside=allow_outside,
        classes=named_classes(classes),
        image_size=image_size,
        fit=fit,
        pixel_range=numbers_of_range(pixel_range),
        store=store,
        limit=limit,
        seed=seed,
        force=force,
        dry_run=dry_run,
    )
    run_directory = Run.at(run)
    from metaselect.stages.freshness import AnnotationView
    from metaselect.stages.ingest import ingest as run_ingest
    from metaselect.stages.status import next_step

    with limited(max_memory, console):
        outcome = run_ingest(data, run_directory, options, console)
    if "needs" in outcome.result:
        print_dry_run(console, outcome)
        return
    console.line(_summary(run_directory, outcome.result))
    console.note(f"Next: {next_step(run_directory, AnnotationView.read(run_directory))}")
    finish(console, outcome)


def _summary(run_directory: Run, result: Mapping[str, Json]) -> str:
    """The printed line: samples, classes and kind of the data."""
    classes, size = result["classes"], result["image_size"]
    assert isinstance(classes, list)
    kind = "ids and labels alone" if result["task"] == IDS_ALONE else "features"
    if isinstance(size, list):
        beside = " with features" if result["task"] == FEATURES else ""
        encoded = ", encoded" if result["store"] == ENCODED else ""
        kind = f"images of {size[0]} x {size[1]} pixels{encoded}{beside}"
    without = f" ({result['unlabelled']} without a label)" if result["unlabelled"] else ""
    return f"{run_directory.path('data')}: {result['n']} samples{without}, {len(classes)} classes, {kind}"
