"""Flags that several commands share, with their types and help texts."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from metaselect.cli.console import ProgressMode
from metaselect.errors import UsageError
from metaselect.registry import AUTO_SELECTOR, MODELS, PROFILES, REWEIGHTERS, SELECTORS

INPUT = "Input"
TRAINING = "Training"
OUTPUT = "Output"

SelectMethod = StrEnum("SelectMethod", {name: name for name in (AUTO_SELECTOR, *SELECTORS)})  # type: ignore[misc]
ReweightMethod = StrEnum("ReweightMethod", {name: name for name in REWEIGHTERS})  # type: ignore[misc]
Profile = StrEnum("Profile", {name: name for name in PROFILES})  # type: ignore[misc]


class Optimiser(StrEnum):
    """Values of --optimiser."""

    sgd = "sgd"
    adam = "adam"
    adamw = "adamw"


class Schedule(StrEnum):
    """Values of --schedule."""

    cosine = "cosine"
    step = "step"
    constant = "constant"


class Kind(StrEnum):
    """What models take, of samples that have both."""

    images = "images"
    features = "features"


class Init(StrEnum):
    """Values of --init."""

    warmup = "warmup"
    scratch = "scratch"


class OnBadSample(StrEnum):
    """Values of --on-bad-sample."""

    stop = "stop"
    skip = "skip"


RunOption = Annotated[
    Path | None, typer.Option("--run", envvar="METASELECT_RUN", help="The run directory.", metavar="RUN")
]
SeedOption = Annotated[
    int, typer.Option(help="Seed of all random numbers; another one for a repetition.", min=0)
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Compute again, even if the result exists or an option has changed.")
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check all inputs and print the resolved options, the sizes and, for select, the time; write nothing.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto (CUDA where there is a GPU, else CPU), cpu, cuda, mps or another device type of PyTorch.",
        rich_help_panel=TRAINING,
    ),
]
TrustModelOption = Annotated[
    bool,
    typer.Option(
        "--trust-model",
        help="Run the code of a model package.module:factory that only the run's files name.",
        rich_help_panel=TRAINING,
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Set an option of the method; can be repeated. `--option help` lists them.",
    ),
]
ProfileOption = Annotated[
    Profile | None,
    typer.Option(
        help="Use the papers' settings for clean but unbalanced labels; --option and other flags override them.",
        show_default="none",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON object on stdout.", rich_help_panel=OUTPUT),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print no notes and no progress on stderr, only warnings and errors.",
        rich_help_panel=OUTPUT,
    ),
]
ProgressOption = Annotated[
    ProgressMode, typer.Option(help="How progress is shown on stderr.", rich_help_panel=OUTPUT)
]
IdColumnOption = Annotated[
    str | None,
    typer.Option(help="Column with unique ids.", show_default="sample_id, else id", rich_help_panel=INPUT),
]
LabelColumnOption = Annotated[str, typer.Option(help="Column with labels.", rich_help_panel=INPUT)]
ImageColumnOption = Annotated[
    str,
    typer.Option(help="Column with image paths or bytes; none: no images.", rich_help_panel=INPUT),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        help="Which files of a folder whose Parquet files are named by split, such as train or test.",
        show_default="there is one split",
        rich_help_panel=INPUT,
    ),
]
FeaturesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Parquet file of sample_id and features, joined with the data's own images or labels.",
        rich_help_panel=INPUT,
    ),
]
ImageFolderOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the images that a table names.",
        show_default="the table's own",
        rich_help_panel=INPUT,
    ),
]
ImageSuffixOption = Annotated[
    str,
    typer.Option(
        metavar=".jpg",
        help="What the names of images in a table lack at their end.",
        show_default="none",
        rich_help_panel=INPUT,
    ),
]
AllowOutsideOption = Annotated[
    bool,
    typer.Option(
        "--allow-outside",
        help="Read files of DATA that are links or paths to outside of its folder.",
        rich_help_panel=INPUT,
    ),
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C|FILE",
        help="All classes in their order, where no sample has some of them; a file has one name a line.",
        show_default="those of the labels",
        rich_help_panel=INPUT,
    ),
]
PixelRangeOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Of images with more than 8 bits a pixel, the values that become black and white, such as 0,4095.",
        show_default="by the largest value of all images",
        rich_help_panel=INPUT,
    ),
]
FeatureColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="Numeric columns to use as features, as a glob such as 'x*'; none: without features.",
        show_default="the list column `features`",
        rich_help_panel=INPUT,
    ),
]
OnBadSampleOption = Annotated[
    OnBadSample,
    typer.Option(
        help="What to do with an unreadable sample; skip leaves it out and lists it.", rich_help_panel=INPUT
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(MODELS)}, a torchvision model such as resnet18, or package.module:factory.",
        show_default="auto, by the size of the inputs",
        rich_help_panel=TRAINING,
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        help="Passes over the training set.",
        show_default="auto, by the number of samples",
        rich_help_panel=TRAINING,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Samples per batch.", show_default="auto, by the number of samples", rich_help_panel=TRAINING
    ),
]
LearningRateOption = Annotated[
    float | None,
    typer.Option(help="Largest learning rate of the schedule.", show_default="auto: 0.05 of sgd, else 0.001",
                 rich_help_panel=TRAINING),
]  # fmt: skip
OptimiserOption = Annotated[
    Optimiser, typer.Option(help="Optimiser; adamw is usual for transformers.", rich_help_panel=TRAINING)
]
AccumulateOption = Annotated[
    int,
    typer.Option(
        help="Batches whose gradients are averaged for one step, where memory holds no larger batch.",
        rich_help_panel=TRAINING,
    ),
]
MomentumOption = Annotated[
    float | None,
    typer.Option(
        help="Nesterov momentum of SGD.",
        show_default="auto: warmup 0.9; reweight 0, sometimes 0.9 for auto",
        rich_help_panel=TRAINING,
    ),
]
WeightDecayOption = Annotated[
    float | None,
    typer.Option(
        help="Weight decay (L2 factor; decoupled with adamw).",
        show_default="auto: 0.0005",
        rich_help_panel=TRAINING,
    ),
]
ScheduleOption = Annotated[
    Schedule,
    typer.Option(
        help="How the learning rate falls; step divides it by 10 at 1/2 and 3/4 of the epochs.",
        rich_help_panel=TRAINING,
    ),
]
AugmentOption = Annotated[
    bool | None,
    typer.Option(
        "--augment/--no-augment",
        help="Random crops and flips of the images; not where a flip changes the class.",
        show_default="auto: colour images from 32 px",
        rich_help_panel=TRAINING,
    ),
]
AmpOption = Annotated[
    bool | None,
    typer.Option(
        "--amp/--no-amp",
        help="Compute in bfloat16 by autocast, which is faster on GPUs.",
        show_default="auto: on CUDA",
        rich_help_panel=TRAINING,
    ),
]


def numbers_of_range(text: str | None) -> tuple[float, float] | None:
    """(low, high) of "LOW,HIGH".

    Raises:
        UsageError: it is not two numbers.
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"--pixel-range is {text}; it must be two numbers LOW,HIGH.", "Such as --pixel-range 0,4095."
        ) from None
    return low, high
