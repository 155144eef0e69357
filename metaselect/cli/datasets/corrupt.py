"""`metaselect corrupt`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

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
from metaselect.cli.flags import (
    JsonOption,
    ProgressOption,
    QuietOption,
    SeedOption,
)
from metaselect.cli.results import finish
from metaselect.data_options import CorruptOptions
from metaselect.errors import UsageError

NOISE = "Noise"


class NoiseKind(StrEnum):
    """Values of --noise."""

    none = "none"
    uniform = "uniform"
    adversarial = "adversarial"
    flip = "flip"
    flip2 = "flip2"
    background = "background"
    asymmetric = "asymmetric"
    human = "human"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(corrupt)


def corrupt(
    data: Annotated[Path, typer.Argument(help="Clean data, in any form that ingest reads.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write train.parquet and truth.csv to.")],
    noise: Annotated[
        NoiseKind | None,
        typer.Option(
            help="Kind of label noise. uniform: any other class. adversarial: a permutation of the classes. "
            "flip, flip2: one or two other classes for each class. background: all flips go to one class. "
            "asymmetric: pairs of similar classes, at the rate in each. human: labels of people, see --labels.",
            show_default="none",
            rich_help_panel=NOISE,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Share of the eligible labels to change, from 0 to 1.", rich_help_panel=NOISE),
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="random|FILE",
            help="Which class becomes which: a CSV with from,to, or (adversarial) random.",
            show_default="the next class; CIFAR-10's pairs",
            rich_help_panel=NOISE,
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS", help="With background noise: the class that flips go to.", rich_help_panel=NOISE
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With human noise: a CSV with labels by id.", rich_help_panel=NOISE
        ),
    ] = None,
    labels_column: Annotated[
        str | None,
        typer.Option(help="Column of --labels with the labels.", show_default="label", rich_help_panel=NOISE),
    ] = None,
    imbalance: Annotated[
        float,
        typer.Option(
            help="Size of the largest class over the smallest; classes are cut before the noise.",
            rich_help_panel=NOISE,
        ),
    ] = 1.0,
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
    """Make a copy of DATA with label noise or class imbalance, and its true labels, for experiments.

    Exactly round(rate x eligible) labels change. Example:

        metaselect corrupt DATA -o noisy --noise uniform --rate 0.6
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    kind = noise or (NoiseKind.human if labels is not None else NoiseKind.none)
    if rate is None and kind not in (NoiseKind.none, NoiseKind.human):
        raise UsageError(f"--noise {kind} needs --rate.", "Give --rate, from 0 to 1.")
    options = CorruptOptions(
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
        noise=kind,
        rate=rate or 0.0,
        imbalance=imbalance,
        background=background,
        mapping=mapping,
        labels=labels,
        labels_column=labels_column,
        seed=seed,
        force=force,
    )
    from metaselect.stages.corrupt import corrupt as run_corrupt

    outcome = run_corrupt(data, out, options, console)
    result = outcome.result
    console.line(
        f"{out}: {result['n']} samples, {result['flipped']} labels changed "
        f"(measured rate {result['measured_rate']:.4f})"
    )
    console.note(f"Next: metaselect warmup {out / 'train.parquet'} --run RUN")
    finish(console, outcome)
