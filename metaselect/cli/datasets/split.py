"""`metaselect split`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.datasets.flags import (
    AllowOutsideOption,
    FeatureColumnsOption,
    FeaturesOption,
    IdColumnOption,
    ImageColumnOption,
    ImageFolderOption,
    ImageSuffixOption,
    LabelColumnOption,
    OnBadSample,
    OnBadSampleOption,
    SplitOption,
)
from metaselect.cli.flags import JsonOption, ProgressOption, QuietOption, SeedOption
from metaselect.cli.results import finish
from metaselect.data_options import SplitOptions
from metaselect.text import counted

SHOWN = 20  # classes of which a table tells that their share is another


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(split)


def split(
    data: Annotated[Path, typer.Argument(help="Labelled data, in any form that ingest reads.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder to write train.parquet and test.parquet to.")
    ],
    test: Annotated[float, typer.Option(help="Share of the samples of each class to test on.")] = 0.2,
    group_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column whose value keeps samples together: patients, cameras, scenes.",
            show_default="none",
        ),
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
    force: Annotated[bool, typer.Option("--force", help="Replace the files in OUT.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Split DATA into a training set and a test set, by class; duplicates stay together.

    Examples:
        metaselect split DATA --test 0.2 -o DIR

        metaselect split scans.csv -o DIR --group-column patient
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    options = SplitOptions(
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
        test=test,
        group_column=group_column,
        seed=seed,
        force=force,
    )
    from metaselect.stages.split import TRAIN
    from metaselect.stages.split import split as run_split

    outcome = run_split(data, out, options, console)
    _print_split(console, outcome.result, test)
    console.note(
        "The labels of the test set are given ones too: where they are wrong, good models look worse than they are. "
        "Have them checked, or judge on bought labels (metaselect evaluate without TEST)."
    )
    console.note(f"Next: metaselect warmup {out / TRAIN} --run RUN")
    finish(console, outcome)


def _print_split(console: Console, result: Mapping[str, Any], share: float) -> None:
    """Print the counts, and the classes of which another share is tested than was asked for."""
    total = result["train"] + result["test"]
    unlabelled = f", {result['unlabelled']} of them without a label" if result["unlabelled"] else ""
    console.line(
        f"{result['out']}: {result['train']} samples to train on{unlabelled}, {result['test']} to test on "
        f"({result['test'] / total:.1%})"
    )
    if result["groups"]:
        kept = counted(result["groups"], "group", "groups")
        console.line(f"Kept together: {result['grouped_samples']} samples, in {kept}")
    uneven = [
        (name, counts)
        for name, counts in result["classes"].items()
        if abs(counts["test"] - share * (counts["train"] + counts["test"])) >= 1
    ]
    if uneven:
        console.table(
            ("class", "to train on", "to test on", "share"),
            [
                (name, f"{each['train']}", f"{each['test']}", f"{each['test'] / sum(each.values()):.1%}")
                for name, each in uneven[:SHOWN]
            ],
            title=f"Classes of which another share is tested: {len(uneven)}",
        )
