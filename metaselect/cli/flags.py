"""Flags that several commands share, each defined once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from metaselect.cli.console import ProgressMode
from metaselect.registry import MODELS, PROFILES, REWEIGHTERS, SELECTORS

INPUT = "Input"
TRAINING = "Training"
OUTPUT = "Output"

SelectMethod = StrEnum("SelectMethod", {name: name for name in SELECTORS})  # type: ignore[misc]
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


class Init(StrEnum):
    """Values of --init."""

    warmup = "warmup"
    scratch = "scratch"


class OnBad(StrEnum):
    """Values of --on-bad-sample."""

    stop = "stop"
    skip = "skip"


RunOption = Annotated[
    Path | None, typer.Option("--run", envvar="METASELECT_RUN", help="The run directory.", metavar="RUN")
]
SeedOption = Annotated[int, typer.Option(help="One seed; every random stream derives from it.", min=0)]
ForceOption = Annotated[bool, typer.Option("--force", help="Recompute although it is done or was changed.")]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Check everything, say what would be done and needed, compute nothing."),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto (CUDA where there is a GPU, else CPU), cpu, cuda, mps or another device type of PyTorch.",
        rich_help_panel=TRAINING,
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Set a field of the method; repeatable. `--option help` lists them.",
    ),
]
ProfileOption = Annotated[
    Profile | None,
    typer.Option(
        help="The papers' constants for clean but unbalanced labels; --option and other flags win.",
        show_default="none",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=OUTPUT)
]
ProgressOption = Annotated[
    ProgressMode, typer.Option(help="How progress shows on stderr.", rich_help_panel=OUTPUT)
]
IdColumn = Annotated[
    str | None,
    typer.Option(help="Column of unique ids.", show_default="sample_id, else id", rich_help_panel=INPUT),
]
LabelColumn = Annotated[str, typer.Option(help="Column of labels.", rich_help_panel=INPUT)]
ImageColumn = Annotated[str, typer.Option(help="Column of paths or bytes.", rich_help_panel=INPUT)]
FeatureColumns = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="Glob over numeric columns, e.g. 'x*'.",
        show_default="the list column `features`",
        rich_help_panel=INPUT,
    ),
]
BadSample = Annotated[
    OnBad, typer.Option(help="skip: leave bad samples out, with a list.", rich_help_panel=INPUT)
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(MODELS)}, a torchvision name such as resnet18, or package.module:factory.",
        show_default="auto (by task and image size)",
        rich_help_panel=TRAINING,
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(help="Passes over the pool.", show_default="auto (by size)", rich_help_panel=TRAINING),
]
BatchOption = Annotated[
    int | None,
    typer.Option(help="Samples a step.", show_default="auto (by size)", rich_help_panel=TRAINING),
]
RateOption = Annotated[
    float | None,
    typer.Option(help="Learning rate, the largest of the schedule.", show_default="auto (sgd 0.05, else 0.001)",
                 rich_help_panel=TRAINING),
]  # fmt: skip
OptimiserOption = Annotated[Optimiser, typer.Option(help="Of the model.", rich_help_panel=TRAINING)]
AccumulateOption = Annotated[
    int,
    typer.Option(help="Batches whose mean gradient makes one step.", rich_help_panel=TRAINING),
]
MomentumOption = Annotated[
    float | None,
    typer.Option(
        help="Of SGD; Nesterov where above 0.",
        show_default="auto (warmup 0.9, reweight 0)",
        rich_help_panel=TRAINING,
    ),
]
DecayOption = Annotated[
    float | None, typer.Option(help="L2 factor.", show_default="auto (0.0005)", rich_help_panel=TRAINING)
]
ScheduleOption = Annotated[
    Schedule, typer.Option(help="How the rate falls; step: / 10 at 1/2 and 3/4.", rich_help_panel=TRAINING)
]
AugmentOption = Annotated[
    bool | None,
    typer.Option(
        "--augment/--no-augment",
        help="Random crop and flip.",
        show_default="auto (colour images of 32 px and more)",
        rich_help_panel=TRAINING,
    ),
]
AmpOption = Annotated[
    bool | None,
    typer.Option(
        "--amp/--no-amp",
        help="bfloat16 autocast.",
        show_default="auto (on CUDA)",
        rich_help_panel=TRAINING,
    ),
]
